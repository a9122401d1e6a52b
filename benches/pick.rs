//! What a pick costs, by policy and number of backends, on one thread.
//!
//! `cargo bench --bench pick`. A pick includes its lease; the lease is given back, as a connection
//! does at its end, and that is measured too.

mod picks;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use lockgate::balance::maglev::hash_client;
use picks::{POLICIES, Picks};

fn by_policy(criterion: &mut Criterion) {
    for (name, policy) in POLICIES {
        let mut bench = criterion.benchmark_group(name);
        for (count, one_in) in [(64, 1), (1_000, 1), (1_000, 2), (1_000, 999)] {
            let picks = Picks::new(policy, count, one_in);
            let id = BenchmarkId::from_parameter(format!("{count} backends, 1 in {one_in} up"));
            let mut n = 0u32;
            bench.bench_function(id, |bencher| {
                bencher.iter(|| {
                    n = n.wrapping_add(1);
                    let client = hash_client(n.to_be_bytes().into());
                    picks.pick(black_box(client), u64::from(n))
                });
            });
        }
        bench.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(std::time::Duration::from_secs(1)).warm_up_time(std::time::Duration::from_millis(300));
    targets = by_policy
}
criterion_main!(benches);
