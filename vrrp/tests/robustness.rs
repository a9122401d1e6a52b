//! Any bytes, as packets and as histories: `fuzz/` asks the same for as long as it is let.

mod laws;

use proptest::prelude::*;

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(100_000))]

    #[test]
    fn any_packet(bytes in prop::collection::vec(any::<u8>(), 0..48)) {
        laws::packet(&bytes);
    }
}

proptest! {
    #![proptest_config(cases(10_000))]

    #[test]
    fn any_history(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        // Settings and an address to begin with, or most would end before anything happens.
        laws::history(&[&[0, 0, 100, 0, 100, 1, 0x11, 0x91][..], &bytes].concat());
    }
}
