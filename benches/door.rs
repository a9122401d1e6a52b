//! What it costs to come in, where something stands before a listener: lists of networks, limits by
//! source, PROXY headers.
//!
//! `cargo bench --bench door`.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use lockgate::access::{self, Access, Lists, Set};
use lockgate::limit::rate::Rate;
use lockgate::limit::{Action, Limiter, Rules};
use lockgate::proto::proxy_protocol;
use lockgate::route::Network;

/// A number that looks like chance.
fn scattered(n: u32) -> u32 {
    n.wrapping_mul(2_654_435_761).rotate_left(15).wrapping_mul(2_246_822_519)
}

/// Look-ups among a hundred thousand networks of which no two touch, and reading them.
fn lists(criterion: &mut Criterion) {
    let mut bench = criterion.benchmark_group("access");
    let v4 = |n: u32| Network { address: Ipv4Addr::from(n * 40_000).into(), prefix: 24 };
    let v6 = |n: u32| {
        let bits = 0x2001_0db8 << 96 | u128::from(n) << 66;
        Network { address: Ipv6Addr::from(bits).into(), prefix: 64 }
    };
    let deny = Set::new((0..100_000).flat_map(|n| [v4(n), v6(n)]));
    let access = Access::new(Lists { allow: None, deny });
    let mut n = 0u32;
    bench.bench_function("100,000 networks of IPv4", |bencher| {
        bencher.iter(|| {
            n = n.wrapping_add(1);
            access.admit(black_box(Ipv4Addr::from(scattered(n)).into()))
        });
    });
    bench.bench_function("100,000 networks of IPv6", |bencher| {
        bencher.iter(|| {
            n = n.wrapping_add(1);
            let bits = 0x2001_0db8 << 96 | u128::from(scattered(n) % 100_000) << 66;
            access.admit(black_box(Ipv6Addr::from(bits).into()))
        });
    });
    let text: String =
        (0..100_000).map(|n| format!("{}/24\n", Ipv4Addr::from(n * 40_000))).collect();
    bench.bench_function("reading a file of 100,000", |bencher| {
        bencher.iter(|| {
            let parsed = access::parse(black_box(text.as_bytes())).expect("no mistakes");
            Set::new(parsed.networks)
        });
    });
    bench.finish();
}

fn limits(criterion: &mut Criterion) {
    let mut bench = criterion.benchmark_group("limit");
    let began = Instant::now();
    let rules = Rules {
        connections: NonZeroU32::new(100),
        rate: Some(Rate::new(50, Duration::from_mins(1), 50)),
        prefix_v4: 32,
        prefix_v6: 64,
        action: Action::Reset,
    };
    let known: IpAddr = [192, 0, 2, 1].into();
    for (name, rules) in [
        ("rate", Rules { connections: None, ..rules }),
        ("connections", Rules { rate: None, ..rules }),
        ("both", rules),
    ] {
        let limiter = Limiter::new(rules, began);
        let mut now = began;
        bench.bench_function(format!("known source, {name}"), |bencher| {
            bencher.iter(|| {
                now += Duration::from_secs(2);
                limiter.enter(black_box(known), now).is_ok()
            });
        });
        let mut n = 0u32;
        bench.bench_function(format!("million sources, {name}"), |bencher| {
            bencher.iter(|| {
                n = n.wrapping_add(1);
                now += Duration::from_micros(50);
                limiter.enter(black_box(Ipv4Addr::from(n % 1_000_000).into()), now).is_ok()
            });
        });
    }
    let limiter = Limiter::new(Rules { connections: None, ..rules }, began);
    while limiter.enter(known, began).is_ok() {}
    bench.bench_function("guilty source", |bencher| {
        bencher.iter(|| limiter.enter(black_box(known), began).is_ok());
    });
    bench.finish();
}

fn headers(criterion: &mut Criterion) {
    const LINE: &[u8] = include_bytes!("../tests/corpus/proxy_header/haproxy-v1-v4");
    const BINARY: &[u8] = include_bytes!("../tests/corpus/proxy_header/haproxy-v2-tls");
    let mut bench = criterion.benchmark_group("proxy_header");
    for (name, bytes) in [("v1", LINE), ("v2, TLS and checksum", BINARY)] {
        bench.bench_function(name, |bencher| {
            bencher.iter(|| proxy_protocol::parse(black_box(bytes)));
        });
    }
    bench.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(1)).warm_up_time(Duration::from_millis(300));
    targets = lists, limits, headers
}
criterion_main!(benches);
