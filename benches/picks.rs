//! Groups to pick from: `pick` measures them by the clock, `instructions` counts them.

use std::sync::Arc;

use lockgate::balance::cell::{Block, Cell, WEIGHT_ONE};
use lockgate::balance::{Group, Policy, Request, Seat};

/// Every policy, by its name in a configuration.
pub const POLICIES: [(&str, Policy); 4] = [
    ("weighted_round_robin", Policy::RoundRobin),
    ("least_connections", Policy::LeastConnections),
    ("random", Policy::Random),
    ("source_hash", Policy::SourceHash),
];

/// A group, and the cells on which its leases are given back.
pub struct Picks {
    group: Group,
    blocks: Vec<Arc<Block>>,
}

impl Picks {
    /// A group of `backends`, of which one in `one_in` is up and has, as in service, connections.
    pub fn new(policy: Policy, backends: usize, one_in: usize) -> Self {
        let names: Vec<String> = (0..backends).map(|n| format!("backend-{n}")).collect();
        let seats: Vec<_> = names.iter().map(|name| Seat { name, weight: 100, limit: 0 }).collect();
        let blocks: Vec<_> = (0..backends.div_ceil(Block::CELLS)).map(|_| Block::new()).collect();
        let group = Group::new(policy, &seats, blocks.iter().cloned().collect(), Arc::default());
        let picks = Self { group, blocks };
        for slot in (0..backends).step_by(one_in) {
            picks.cell(slot).set_weight(100 * WEIGHT_ONE);
            for _ in 0..4 {
                picks.cell(slot).lease(0);
            }
        }
        picks
    }

    /// Picks a backend, takes a lease on it and gives it back, as a connection does at its end.
    #[inline]
    pub fn pick(&self, client: u64, entropy: u64) -> usize {
        let request = Request { client, entropy, tried: &[] };
        let slot = self.group.pick(&request).expect("a backend is up");
        self.cell(slot).release();
        slot
    }

    #[inline]
    fn cell(&self, slot: usize) -> &Cell {
        self.blocks[slot / Block::CELLS].cell(slot % Block::CELLS)
    }
}
