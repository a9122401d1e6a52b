//! Any bytes as a PROXY header.

use super::laws;

/// They are read as `src/proto/tests/laws.rs` says.
pub fn any(bytes: &[u8]) {
    laws::proxy_header(bytes);
    // And anything as what follows a beginning, without the fuzzer having to find out about lengths.
    laws::proxy_header(&[b"PROXY TCP6 ", bytes].concat());
    let body = &bytes[..bytes.len().min(16_000)];
    let length = (body.len() as u16).to_be_bytes();
    for (command, family) in [(0x21, 0x11), (0x21, 0x21), (0x21, 0x31), (0x20, 0x00)] {
        let head = [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length].concat();
        laws::proxy_header(&[&head, body].concat());
    }
}
