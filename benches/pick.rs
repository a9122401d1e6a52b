//! What a pick costs, by policy and number of backends, on one thread.
//!
//! `cargo bench --bench pick`. A pick includes its lease; the lease is given back, as a connection
//! does at its end, and that is measured too.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use lockgate::balance::cell::{Block, WEIGHT_ONE};
use lockgate::balance::maglev::hash_client;
use lockgate::balance::{Group, Policy, Request, Seat};

/// A group of which one in `one_in` backends is up.
fn group(policy: Policy, count: usize, one_in: usize) -> (Group, Vec<Arc<Block>>) {
    let names: Vec<String> = (0..count).map(|n| format!("backend-{n}")).collect();
    let seats: Vec<_> = names.iter().map(|name| Seat { name, weight: 100, limit: 0 }).collect();
    let blocks: Vec<_> = (0..count.div_ceil(Block::CELLS)).map(|_| Block::new()).collect();
    for slot in (0..count).step_by(one_in) {
        blocks[slot / Block::CELLS].cell(slot % Block::CELLS).set_weight(100 * WEIGHT_ONE);
    }
    (Group::new(policy, &seats, blocks.iter().cloned().collect(), Arc::default()), blocks)
}

fn picks(criterion: &mut Criterion) {
    let policies = [
        ("weighted_round_robin", Policy::RoundRobin),
        ("least_connections", Policy::LeastConnections),
        ("random", Policy::Random),
        ("source_hash", Policy::SourceHash),
    ];
    for (name, policy) in policies {
        let mut bench = criterion.benchmark_group(name);
        for (count, one_in) in [(64, 1), (1_000, 1), (1_000, 2), (1_000, 999)] {
            let (group, blocks) = group(policy, count, one_in);
            // As in service: every backend has some connections.
            for n in 0..count as u64 * 4 {
                let request = Request { client: n, entropy: n, tried: &[] };
                group.pick(&request).expect("a backend is up");
            }
            let id = BenchmarkId::from_parameter(format!("{count} backends, 1 in {one_in} up"));
            let mut n = 0u32;
            bench.bench_function(id, |bencher| {
                bencher.iter(|| {
                    n = n.wrapping_add(1);
                    let client = hash_client(n.to_be_bytes().into());
                    let request = Request { client, entropy: u64::from(n), tried: &[] };
                    let slot = group.pick(black_box(&request)).expect("a backend is up");
                    blocks[slot / Block::CELLS].cell(slot % Block::CELLS).release();
                    slot
                });
            });
        }
        bench.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(std::time::Duration::from_secs(1)).warm_up_time(std::time::Duration::from_millis(300));
    targets = picks
}
criterion_main!(benches);
