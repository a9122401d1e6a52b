//! Any bytes as the beginning of a TLS connection.

use lockgate::proto::client_hello::{LIMIT, Parsed};

use super::{laws, seed};

/// They are read as `src/proto/tests/laws.rs` says, in whatever records they come.
pub fn any(bytes: &[u8]) {
    let seed = seed(bytes);
    let verdict = laws::client_hello(bytes, seed);
    // The same message in other records.
    if let Parsed::Hello(hello) = &verdict {
        let longest = 1 + (seed >> 20) as usize % 300;
        let again = records(&message(bytes), longest);
        match laws::client_hello(&again, seed) {
            Parsed::Hello(same) => assert_eq!(&same, hello),
            other => assert!(again.len() > LIMIT, "in records of {longest}: {other:?}"),
        }
    }
    // And anything as a message, without the fuzzer having to find out about lengths.
    let header = (1 << 24 | (bytes.len() as u32).min(60_000)).to_be_bytes();
    let body = &bytes[..bytes.len().min(60_000)];
    laws::client_hello(&records(&[&header, body].concat(), 1 << 14), seed);
}

/// The first message in records.
fn message(mut bytes: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    while let &[22, 3, _, high, low, ref rest @ ..] = bytes {
        let length = usize::from(u16::from_be_bytes([high, low])).min(rest.len());
        message.extend_from_slice(&rest[..length]);
        bytes = &rest[length..];
        if let &[_, a, b, c, ..] = &message[..] {
            let length = 4 + u32::from_be_bytes([0, a, b, c]) as usize;
            if message.len() >= length {
                message.truncate(length);
                break;
            }
        }
    }
    message
}

fn records(message: &[u8], longest: usize) -> Vec<u8> {
    let record = |part: &[u8]| [&[22, 3, 1], &(part.len() as u16).to_be_bytes()[..], part].concat();
    message.chunks(longest).flat_map(record).collect()
}
