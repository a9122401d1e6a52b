//! Any text is answered: with a sound plan, or with a report on places that exist.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::Path;

use proptest::prelude::*;

use super::super::plan::vrrp::{Checksum, OWNER, Peer, Version};
use super::super::plan::{
    Address, Addresses, Certificate, Challenges, Check, CipherSuite, Guard, Listener, MOST_STEPS,
    Network, Plan, Protocol, ServerTls, Sni, SniPattern, Step,
};
use super::super::{Error, parse};
use super::EXAMPLE;

/// Every key of TLS.
const TLS: &str = include_str!("tls.toml");

/// Every key of `[node.NAME]` and `[[vrrp]]`.
const VRRP: &str = include_str!("vrrp.toml");

/// Every key of what stands before a listener.
const GUARD: &str = include_str!("guard.toml");

/// What mutations begin with.
const FILES: [&str; 4] = [EXAMPLE, TLS, VRRP, GUARD];

fn is_distinct<T: PartialEq>(list: &[T]) -> bool {
    list.iter().enumerate().all(|(index, value)| !list[..index].contains(value))
}

fn is_file(path: &Path) -> bool {
    let text = path.to_str().expect("made of text");
    (1..=4095).contains(&text.len()) && !text.contains('\0')
}

fn are_files(Certificate { cert, key }: &Certificate) -> bool {
    is_file(cert) && is_file(key)
}

fn is_server_name(name: &str) -> bool {
    (1..=253).contains(&name.len())
        && !name.ends_with('.')
        && name.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase() || b"-.".contains(&b))
}

fn are_protocols(names: &[String]) -> bool {
    names.len() <= 64
        && is_distinct(names)
        && names.iter().all(|name| (1..=255).contains(&name.len()))
}

fn assert_tls(tls: &ServerTls) {
    assert!((1..=10_000).contains(&tls.certificates.len()));
    assert!(tls.certificates.iter().all(are_files));
    assert!(is_distinct(&tls.certificates.iter().map(|c| &c.cert).collect::<Vec<_>>()));
    let is_usable = |suite: &CipherSuite| suite.version() >= tls.min_version;
    assert!(is_distinct(&tls.ciphers));
    assert!(tls.ciphers.is_empty() || tls.ciphers.iter().any(is_usable));
    assert!(are_protocols(&tls.alpn));
    if let Some(auth) = &tls.client_auth {
        assert!(is_file(&auth.ca) && auth.crl.as_deref().is_none_or(is_file));
    }
    assert!(tls.ocsp.as_deref().is_none_or(is_file));
}

fn assert_routes(listener: &Listener, pools: usize) {
    assert!(listener.routes.len() <= 10_000);
    for route in &listener.routes {
        assert!(route.pool < pools);
        assert!(are_protocols(&route.alpn));
        assert!(is_distinct(&route.sni) && is_distinct(&route.client));
        assert!(is_distinct(&route.first_bytes));
        let reads_hello = !matches!(listener.protocol, Protocol::Tcp);
        assert!(reads_hello || (route.sni.is_empty() && route.alpn.is_empty()));
        assert!(route.first_bytes.is_empty() || !matches!(listener.protocol, Protocol::Tls(_)));
        for pattern in &route.sni {
            match pattern {
                SniPattern::Exact(name) | SniPattern::Wildcard(name) | SniPattern::Below(name) => {
                    assert!(is_server_name(name), "{name}");
                }
                SniPattern::Any => {}
            }
        }
        for Network { address, prefix } in &route.client {
            let bits = match address {
                IpAddr::V4(v4) => {
                    assert!(*prefix <= 32);
                    v4.to_bits().trailing_zeros() + u32::from(*prefix) >= 32
                }
                IpAddr::V6(v6) => {
                    assert!(*prefix <= 128 && v6.to_ipv4_mapped().is_none());
                    v6.to_bits().trailing_zeros() + u32::from(*prefix) >= 128
                }
            };
            assert!(bits, "{address}/{prefix}");
        }
    }
}

fn assert_guard(guard: &Guard) {
    assert!(is_distinct(&guard.accept_proxy_from));
    assert!(is_distinct(&guard.allow) && is_distinct(&guard.deny));
    assert!(guard.files().all(|path| is_file(path)));
    if let Some(limit) = &guard.limit {
        assert!(limit.prefix_v4 <= 32 && limit.prefix_v6 <= 128);
        assert!((1..=1_000_000).contains(&limit.burst()));
        assert!(limit.rate.is_none_or(|rate| rate.count.get() <= 1_000_000));
        assert!(limit.rate.is_none_or(|rate| [1, 60, 3_600].contains(&rate.period.as_secs())));
    }
}

fn is_interface(name: &str) -> bool {
    (1..=15).contains(&name.len()) && !name.contains(['/', ':', ' ', '\0', '\n'])
}

fn assert_vrrp(plan: &Plan) {
    let addresses: Vec<_> = plan.nodes.iter().filter_map(|node| node.address).collect();
    assert!(is_distinct(&addresses));
    assert!(plan.nodes.iter().all(|node| node.priority.get() < OWNER));
    let instances = &plan.vrrp;
    let routers: Vec<_> =
        instances.iter().map(|v| (&v.interface, v.is_ipv6(), v.vrid.get())).collect();
    assert!(is_distinct(&routers));
    let of_link = |address| matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let floating: Vec<_> = instances
        .iter()
        .flat_map(|v| v.addresses.iter().map(move |f| (v, f.address)))
        .map(|(v, address)| (Some(&v.interface).filter(|_| of_link(address)), address))
        .collect();
    assert!(is_distinct(&floating));
    for vrrp in instances {
        let is_ipv6 = vrrp.is_ipv6();
        let most = if is_ipv6 { 90 } else { 255 };
        assert!((1..=most).contains(&vrrp.addresses.len()));
        for floating in &vrrp.addresses {
            assert_eq!(floating.address.is_ipv6(), is_ipv6);
            assert!((1..=if is_ipv6 { 128 } else { 32 }).contains(&floating.prefix));
        }
        assert!(is_interface(&vrrp.interface));
        let millis = vrrp.advert_interval.as_millis();
        match vrrp.version {
            Version::V2 => assert!(!is_ipv6 && millis % 1_000 == 0 && millis <= 255_000),
            Version::V3 => assert!(millis % 10 == 0 && millis <= 40_950),
        }
        assert!(vrrp.advert_interval.as_nanos() % 1_000_000 == 0 && millis >= 10);
        let is_owner = vrrp.priority.is_some_and(|priority| priority.get() == OWNER);
        assert!(!is_owner || (vrrp.preempt && vrrp.track_pools.is_empty()));
        assert!(vrrp.priority.is_some() || !plan.nodes.is_empty());
        assert!(vrrp.checksum == Checksum::Auto || (!is_ipv6 && vrrp.version == Version::V3));
        assert!(is_distinct(&vrrp.unicast_peers));
        let of_family = |peer: &Peer| match peer {
            Peer::Nodes => {
                addresses.len() == plan.nodes.len()
                    && addresses.len() >= 2
                    && addresses.iter().all(|address| address.is_ipv6() == is_ipv6)
            }
            Peer::Address(address) => address.is_ipv6() == is_ipv6,
        };
        assert!(vrrp.unicast_peers.iter().all(of_family));
        for node in &plan.nodes {
            let peers = vrrp.peers(Some(node), &plan.nodes);
            assert_eq!(peers.is_empty(), vrrp.unicast_peers.is_empty());
            assert!((1..=OWNER).contains(&vrrp.priority(Some(node))));
        }
        assert!((1..=100).contains(&vrrp.garp_repeat));
        assert!(vrrp.track_interfaces.iter().all(|name| is_interface(name)));
        assert!(is_distinct(&vrrp.track_interfaces));
        let pools: Vec<_> = vrrp.track_pools.iter().map(|tracked| tracked.pool).collect();
        assert!(is_distinct(&pools) && pools.iter().all(|&pool| pool < plan.pools.len()));
        assert!(vrrp.track_pools.iter().all(|tracked| (-254..=-1).contains(&tracked.weight)));
        assert!(vrrp.notify.as_deref().is_none_or(|path| is_file(path) && path.is_absolute()));
    }
    plan.doubts();
}

/// Everything that the documentation of [`Plan`] promises.
fn assert_invariants(plan: &Plan) {
    let unique = |names: Vec<&str>| {
        let mut sorted = names.clone();
        sorted.sort_unstable();
        sorted.dedup();
        sorted.len() == names.len()
            && names.iter().all(|name| (1..=128).contains(&name.chars().count()))
    };
    assert!(plan.runtime.workers.is_none_or(|workers| workers.get() <= 1024));
    assert!(!plan.listeners.is_empty() || !plan.vrrp.is_empty());
    assert!(unique(plan.nodes.iter().map(|n| n.name.as_str()).collect()));
    assert!(unique(plan.vrrp.iter().map(|v| v.name.as_str()).collect()));
    assert_vrrp(plan);
    assert!(unique(plan.listeners.iter().map(|l| l.name.as_str()).collect()));
    assert!(unique(plan.pools.iter().map(|p| p.name.as_str()).collect()));
    let mut sockets: Vec<_> = plan.admin.http.into_iter().collect();
    for listener in &plan.listeners {
        assert!(!listener.bind.is_empty());
        assert!(listener.pool.is_none_or(|pool| pool < plan.pools.len()));
        assert!(!listener.client_timeout.is_zero());
        assert_routes(listener, plan.pools.len());
        assert_guard(&listener.guard);
        match &listener.protocol {
            Protocol::Tcp => {}
            Protocol::Tls(tls) => assert_tls(tls),
            Protocol::TlsPassthrough => {}
            Protocol::Redirect(redirect) => {
                assert!(listener.routes.is_empty() && listener.pool.is_none());
                match &redirect.challenges {
                    None => {}
                    Some(Challenges::Directory(path)) => assert!(is_file(path)),
                    Some(Challenges::Pool(pool)) => assert!(*pool < plan.pools.len()),
                }
            }
        }
        assert!(!listener.idle_timeout.is_zero() && !listener.half_close_timeout.is_zero());
        sockets.extend(&listener.bind);
    }
    for (index, a) in sockets.iter().enumerate() {
        assert_ne!(a.port(), 0);
        for b in &sockets[index + 1..] {
            let wild = a.ip().is_unspecified() || b.ip().is_unspecified();
            assert!(
                a.port() != b.port() || a.is_ipv4() != b.is_ipv4() || (a.ip() != b.ip() && !wild),
                "{a} {b}"
            );
        }
    }
    assert!(plan.pair.secret_file.as_deref().is_none_or(is_file));
    for pool in &plan.pools {
        if let Some(tls) = &pool.tls {
            assert!(tls.ca.as_deref().is_none_or(is_file));
            assert!(tls.client_certificate.as_ref().is_none_or(are_files));
            assert!(!matches!(&tls.sni, Sni::Name(name) if !is_server_name(name)));
        }
        assert!(!pool.backends.is_empty());
        assert!(unique(pool.backends.iter().map(|b| b.name.as_str()).collect()));
        assert!(!pool.connect_timeout.is_zero() && pool.retries <= 100);
        for backend in &pool.backends {
            if backend.addresses == Addresses::All {
                assert!(matches!(backend.address, Address::Name { .. }));
            }
            if let (Some(source), Address::Socket(address)) = (pool.source, &backend.address) {
                assert_eq!(source.is_ipv4(), address.is_ipv4());
            }
        }
        if let Some(health) = &pool.health {
            assert!(!health.fast_interval.is_zero() && !health.timeout.is_zero());
            assert!(health.fast_interval <= health.interval);
            assert_ne!(health.port, Some(0));
            match &health.check {
                Check::Tcp | Check::Tls => {}
                Check::Http { path, expect_status, .. } => {
                    assert!(path.starts_with('/') && !expect_status.is_empty());
                    let within = |r: &RangeInclusive<u16>| {
                        100 <= *r.start() && r.start() <= r.end() && *r.end() <= 599
                    };
                    assert!(expect_status.iter().all(within));
                }
                Check::SendExpect(steps) => {
                    assert!((1..=MOST_STEPS).contains(&steps.len()));
                    assert!(steps.iter().any(|step| !matches!(step, Step::Send(_))));
                    for step in steps {
                        if let Step::Send(text) | Step::Begins(text) | Step::Contains(text) = step {
                            assert!((1..=16 << 10).contains(&text.len()));
                        }
                    }
                }
            }
        }
        if let Some(passive) = &pool.passive {
            assert!(passive.max_ejected <= 100);
            assert!(!passive.window.is_zero() && !passive.eject_for.is_zero());
        }
    }
}

/// Parses, and checks that the answer is sound whichever it is.
fn exercise(source: &str) {
    match parse("t.toml", source) {
        Ok(plan) => assert_invariants(&plan),
        Err(Error::Invalid(report)) => {
            assert!(!report.errors().is_empty());
            let lines = source.split('\n').count();
            let rendered = report.render(false);
            for error in report.errors() {
                assert!((1..=lines).contains(&error.line) && error.column >= 1);
                assert!(!error.message.contains('\n'));
                let place = format!("t.toml:{}:{}", error.line, error.column);
                assert!(rendered.contains(&place), "{place} in\n{rendered}");
            }
        }
        Err(error) => panic!("{error}"),
    }
}

/// Pieces that make a mutation meaningful more often than random bytes do.
const PIECES: [&str; 40] = [
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    "\"",
    "'",
    "\"\"\"",
    "'''",
    "=",
    ",",
    "#",
    "\n",
    "\r\n",
    ".",
    "0",
    "-1",
    "99999999999999999999",
    "\"5s\"",
    "[[listener]]",
    "name",
    "pool",
    "*.",
    "\"1.2\"",
    "\"none\"",
    "\"tls\"",
    "[listener.tls]",
    "[[listener.route]]",
    "[pool.a.tls]",
    "/8",
    "[[vrrp]]",
    "[node.gw1]",
    "[node.gw3]",
    "vrid",
    "255",
    "\"node\"",
    "\"10ms\"",
    "fe80::",
    "\u{1f510}",
];

proptest! {
    #[test]
    fn random_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        exercise(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn random_pieces_are_answered(picks in proptest::collection::vec(0..PIECES.len(), 0..60)) {
        let source: String = picks.into_iter().map(|pick| PIECES[pick]).collect();
        exercise(&source);
    }

    #[test]
    fn mutated_files_are_answered(
        edits in proptest::collection::vec(
            (any::<proptest::sample::Index>(), 0usize..12, 0..=PIECES.len()),
            0..5,
        ),
        file in 0..FILES.len(),
    ) {
        let mut source = FILES[file].to_owned();
        for (place, length, piece) in edits {
            let from = source.floor_char_boundary(place.index(source.len() + 1));
            let to = source.ceil_char_boundary((from + length).min(source.len()));
            source.replace_range(from..to, PIECES.get(piece).copied().unwrap_or_default());
        }
        exercise(&source);
    }

    #[test]
    fn shuffled_values_are_answered(
        swaps in proptest::collection::vec(
            (any::<proptest::sample::Index>(), any::<proptest::sample::Index>()),
            0..4,
        ),
        file in 0..FILES.len(),
    ) {
        let mut lines: Vec<&str> = FILES[file].lines().collect();
        for (a, b) in swaps {
            let (a, b) = (a.index(lines.len()), b.index(lines.len()));
            lines.swap(a, b);
        }
        exercise(&lines.join("\n"));
    }
}

#[test]
fn the_files_are_sound() {
    FILES.iter().for_each(|file| assert_invariants(&parse("t.toml", file).unwrap()));
}
