//! Sessions that go on where they left off, wherever they are taken up.

use std::net::SocketAddr;

use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, SupportedProtocolVersion};

use super::NAME;
use crate::harness::tls::{Authority, Store, visit_tls};
use crate::harness::{Config, Gateway, Server, unused_address};

const VERSIONS: [&[&SupportedProtocolVersion]; 2] = [&[&TLS12], &[&TLS13]];

/// What the gateways of a test have in common.
struct Pair {
    authority: Authority,
    store: Store,
    server: Server,
}

impl Pair {
    fn new() -> Self {
        let pair = Self {
            authority: Authority::new("authority"),
            store: Store::new(),
            server: Server::named("server"),
        };
        pair.store.put("site", &pair.authority.issue(&[NAME]));
        pair
    }

    /// The configuration of one, with the secret of this name if it has one.
    fn config(&self, address: SocketAddr, secret: &str, tls: &str) -> String {
        let files = crate::harness::tls::Files::in_directory(self.store.path(), "site");
        let config = Config::new(address).tls(&[&files], tls).backend(&self.server, "");
        if secret.is_empty() {
            return config.to_string();
        }
        // 32 bytes that look random, and are those of the name.
        let seed = secret.bytes().fold(1u8, u8::wrapping_add);
        let bytes: Vec<u8> = (0..32).map(|place: u8| place.wrapping_mul(seed | 1) ^ seed).collect();
        let file = self.store.file(secret, bytes);
        format!("{config}\n[pair]\nsecret_file = {file:?}\n")
    }

    fn start(&self, secret: &str, tls: &str) -> (Gateway, SocketAddr) {
        let address = unused_address();
        (Gateway::start(self.config(address, secret, tls)), address)
    }
}

/// Whether a visit resumed an earlier session, on which both sides and the record agree.
#[track_caller]
fn resumes(config: &ClientConfig, (gateway, address): (&Gateway, SocketAddr)) -> bool {
    let version =
        |resumed: &str| gateway.metric("lockgate_tls_handshakes_total", &[("resumed", resumed)]);
    let before = (version("false"), version("true"));
    let visit = visit_tls(config, NAME, address).unwrap();
    let record = gateway.record_of(visit.client);
    assert_eq!(record["tls_resumed"], visit.resumed, "{record}");
    assert_eq!(record["server_name"], NAME, "{record}");
    let after = (version("false"), version("true"));
    let counted =
        if visit.resumed { (before.0, before.1 + 1.0) } else { (before.0 + 1.0, before.1) };
    assert_eq!(after, counted);
    visit.resumed
}

#[test]
fn on_the_same_gateway() {
    let pair = Pair::new();
    let (mut gateway, address) = pair.start("", "");
    for versions in VERSIONS {
        let client = pair.authority.client_of(versions, None);
        assert!(!resumes(&client, (&gateway, address)));
        for _ in 0..5 {
            assert!(resumes(&client, (&gateway, address)), "{versions:?}");
        }
    }
    // A reload does not make it forget.
    let client = pair.authority.client();
    assert!(!resumes(&client, (&gateway, address)));
    gateway.reload(pair.config(address, "", "") + "# changed\n");
    assert!(resumes(&client, (&gateway, address)));
    // Nor does an upgrade, though the keys are nobody's but the process's.
    gateway.upgrade();
    assert!(resumes(&client, (&gateway, address)));
}

#[test]
fn on_the_other_gateway_of_the_pair() {
    let pair = Pair::new();
    let (one, at_one) = pair.start("secret", "");
    let (other, at_other) = pair.start("secret", "");
    let (stranger, at_stranger) = pair.start("another", "");
    for versions in VERSIONS {
        let client = pair.authority.client_of(versions, None);
        assert!(!resumes(&client, (&one, at_one)));
        assert!(resumes(&client, (&other, at_other)), "{versions:?}");
        assert!(resumes(&client, (&one, at_one)), "{versions:?}");
        // What is not understood costs a handshake in full, and no more.
        assert!(!resumes(&client, (&stranger, at_stranger)), "{versions:?}");
    }
}

#[test]
fn after_a_restart() {
    for (secret, expected) in [("secret", true), ("", false)] {
        let pair = Pair::new();
        let (mut gateway, address) = pair.start(secret, "");
        for versions in VERSIONS {
            let client = pair.authority.client_of(versions, None);
            assert!(!resumes(&client, (&gateway, address)));
            gateway = gateway.start_again();
            assert_eq!(resumes(&client, (&gateway, address)), expected, "{versions:?} {secret}");
        }
    }
}

#[test]
fn not_where_it_is_switched_off() {
    let pair = Pair::new();
    let (gateway, address) = pair.start("secret", "tickets = false");
    for versions in VERSIONS {
        let client = pair.authority.client_of(versions, None);
        for _ in 0..3 {
            assert!(!resumes(&client, (&gateway, address)), "{versions:?}");
        }
    }
}

#[test]
fn not_on_another_listener() {
    let pair = Pair::new();
    let (gateway, address) = pair.start("secret", "");
    let (other, at_other) = {
        let address = unused_address();
        let config = pair.config(address, "secret", "").replace("\"web\"", "\"other\"");
        (Gateway::start(config), address)
    };
    let client = pair.authority.client();
    assert!(!resumes(&client, (&gateway, address)));
    assert!(!resumes(&client, (&other, at_other)));
}

#[test]
fn not_with_a_new_secret() {
    let pair = Pair::new();
    let (gateway, address) = pair.start("secret", "");
    let client = pair.authority.client();
    assert!(!resumes(&client, (&gateway, address)));
    gateway.reload(pair.config(address, "another", ""));
    assert!(!resumes(&client, (&gateway, address)));
    assert!(resumes(&client, (&gateway, address)));
}

#[test]
fn secrets_that_are_none() {
    let pair = Pair::new();
    let (gateway, address) = pair.start("secret", "");
    let client = pair.authority.client();
    for (name, bytes, why) in [
        ("short", &b"too short"[..], "32"),
        ("zeroes", &[0; 64], "not random"),
        ("none", &[], "No such file"),
    ] {
        let file = pair.store.path().join(name);
        if !bytes.is_empty() {
            std::fs::write(&file, bytes).unwrap();
        }
        let config = format!("{}\n[pair]\nsecret_file = {file:?}\n", pair.config(address, "", ""));
        assert!(!gateway.try_reload(config), "{name}");
        gateway.await_log(file.to_str().unwrap());
        gateway.await_log(why);
    }
    assert!(!resumes(&client, (&gateway, address)));
    assert!(resumes(&client, (&gateway, address)));
}
