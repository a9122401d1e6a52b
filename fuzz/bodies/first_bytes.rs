//! Any bytes as the first of a connection.

use super::{laws, seed};

/// They are told apart as `src/proto/tests/laws.rs` says.
pub fn any(bytes: &[u8]) {
    let seed = seed(bytes);
    laws::first_bytes(bytes, seed);
    // And anything as what follows a beginning.
    for beginning in
        [&b"\x16\x03\x01"[..], b"GET ", b"GET / HTTP/", b"PRI * HTTP/2.0", b"PROXY", b"\r\n"]
    {
        laws::first_bytes(&[beginning, bytes].concat(), seed);
    }
}
