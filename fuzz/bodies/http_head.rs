//! Any bytes as the beginning of an HTTP connection.

use lockgate::proto::http_head::{Host, Parsed};

use super::{laws, seed};

/// They are read as `src/proto/tests/laws.rs` says, and no more laxly than hyper's parser does.
pub fn any(bytes: &[u8]) {
    let seed = seed(bytes);
    if let Parsed::Head(head) = laws::http_head(bytes, seed) {
        // The parser of hyper, which is laxer, finds the same.
        let mut fields = vec![httparse::EMPTY_HEADER; 4_096];
        let mut theirs = httparse::Request::new(&mut fields);
        let understood = match theirs.parse(bytes) {
            Ok(status) => {
                assert!(status.is_complete());
                true
            }
            // 1.2 and later are 1.1 here, by RFC 9110 section 2.5.
            Err(httparse::Error::Version) if head.minor == 1 => false,
            Err(error) => panic!("httparse does not take it: {error}"),
        };
        if understood {
            assert_eq!(theirs.method, Some(head.method));
            let target = theirs.path.expect("a target");
            assert!(target.ends_with(&format!("{}{}", head.path, head.query)));
            let is_host = |field: &&httparse::Header<'_>| field.name.eq_ignore_ascii_case("host");
            let hosts: Vec<_> = theirs.headers.iter().filter(is_host).collect();
            assert!(hosts.len() <= 1);
            if target.starts_with('/') {
                let host = hosts.first().map(|host| str::from_utf8(host.value).expect("ASCII"));
                assert_eq!(host.and_then(Host::parse), head.host);
            }
        }
    }
    // Anything as a target and as a host, without the fuzzer having to find a whole head.
    let (target, host) = bytes.split_at(bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len()));
    let host = host.get(1..).unwrap_or(b"a");
    laws::http_head(&[b"GET ", target, b" HTTP/1.1\r\nHost: ", host, b"\r\n\r\n"].concat(), seed);
}
