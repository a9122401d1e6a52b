//! ClientHellos as they are on the wire.

use std::fs;
use std::path::Path;

use super::tls::begin;

/// What a real client has sent: one of those in `tests/corpus/client_hello`, which ask for
/// `app.example.com` unless their names say otherwise.
pub fn captured(client: &str) -> Vec<u8> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/client_hello");
    fs::read(corpus.join(client)).expect(client)
}

/// What a client says first that asks for a name and offers these protocols.
pub fn asking(config: &rustls::ClientConfig, name: &str, protocols: &[&str]) -> Vec<u8> {
    let mut config = config.clone();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let mut wire = Vec::new();
    begin(&config, name).write_tls(&mut wire).unwrap();
    wire
}

/// The same hello in records of at most `longest` bytes.
pub fn rewrapped(hello: &[u8], longest: usize) -> Vec<u8> {
    let mut message = Vec::new();
    let mut rest = hello;
    while let &[22, 3, _, high, low, ref records @ ..] = rest {
        let (content, others) = records.split_at(u16::from_be_bytes([high, low]).into());
        message.extend_from_slice(content);
        rest = others;
    }
    assert!(rest.is_empty(), "more than a hello");
    records(&message, longest)
}

/// A hello without a name whose message has so many bytes, in records of at most `longest`.
pub fn padded(length: usize, longest: usize) -> Vec<u8> {
    // Version, random, session, suites and compressions.
    let begin: [&[u8]; 5] = [&[3, 3], &[7; 32], &[0], &[0, 2, 0x13, 1], &[1, 0]];
    let begin = begin.concat();
    let extensions = length - 4 - begin.len() - 2;
    let mut message = (1 << 24 | u32::try_from(length - 4).unwrap()).to_be_bytes().to_vec();
    message.extend(begin);
    message.extend(u16::try_from(extensions).unwrap().to_be_bytes());
    for (kind, size) in [(21u16, extensions / 2), (65, extensions.div_ceil(2))] {
        message.extend(kind.to_be_bytes());
        message.extend(u16::try_from(size - 4).unwrap().to_be_bytes());
        message.resize(message.len() + size - 4, 0);
    }
    assert_eq!(message.len(), length);
    records(&message, longest)
}

fn records(message: &[u8], longest: usize) -> Vec<u8> {
    let mut wire = Vec::new();
    for content in message.chunks(longest) {
        wire.extend([22, 3, 1]);
        wire.extend(u16::try_from(content.len()).unwrap().to_be_bytes());
        wire.extend_from_slice(content);
    }
    wire
}
