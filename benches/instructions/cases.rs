//! What is counted. A further case is a further [`Case::new`] in [`all`].

use std::fmt::Write as _;
use std::hint::black_box;
use std::net::Ipv6Addr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lockgate::access::{Access, Lists, Set};
use lockgate::balance::cell::{Block, WEIGHT_ONE};
use lockgate::balance::maglev::hash_client;
use lockgate::balance::{Group, Policy, Seat};
use lockgate::config;
use lockgate::limit::rate::Rate;
use lockgate::limit::table::Table;
use lockgate::metrics::Registry;
use lockgate::pool::{Backend, Endpoint, Pool, Tier, Tried};
use lockgate::proto::proxy_protocol::{self, Ends, Version};
use lockgate::proto::{client_hello, http_head};
use lockgate::record::{Format, Id, Record};
use lockgate::route::Network;
use lockgate::stats::{PerWorker, Reason};
use tokio::sync::mpsc;

use super::picks::{POLICIES, Picks};

/// Matches the function whose instructions count, with those of all that it calls.
pub const COUNTED: &str = "*operate_repeatedly*";

/// An operation, and how often it is done to learn what it costs.
pub struct Case {
    /// Unique; in parts, from the general to the special.
    pub name: String,
    /// Operations of the shorter of the two runs.
    pub times: u32,
    run: Box<dyn Fn(u32) + Sync>,
}

impl Case {
    /// A case whose `prepare` makes the operation, which is told how often it was done before.
    ///
    /// The count must not depend on chance (the seed of a `HashMap`, an address, the clock). Where
    /// it depends on what was done before, `times` should be a multiple of the period.
    fn new<Operation: FnMut(u32)>(
        name: impl Into<String>,
        times: u32,
        prepare: impl Fn() -> Operation + Sync + 'static,
    ) -> Self {
        let run = Box::new(move |times| {
            let mut operation = prepare();
            operate_repeatedly(&mut operation, times);
        });
        Self { name: name.into(), times, run }
    }

    /// Does the operation, `times` times.
    pub fn run(&self, times: u32) {
        (self.run)(times);
    }
}

/// What is counted of a process. The name is how valgrind finds it: see [`COUNTED`].
#[inline(never)]
fn operate_repeatedly(operation: &mut impl FnMut(u32), times: u32) {
    for n in 0..times {
        operation(n);
    }
}

/// Every case there is.
pub fn all() -> Vec<Case> {
    let mut cases = picks();
    cases.push(Case::new("pool/lease", 2_000, || {
        let pool = pool(10);
        move |n| {
            let client = hash_client(black_box(n).to_be_bytes().into());
            let lease = pool.lease(client, u64::from(n), &Tried::default());
            drop(black_box(lease.expect("a backend is up")));
        }
    }));
    cases.push(Case::new("hash_client/v4", 1_000, || {
        |n| {
            black_box(hash_client(black_box(n.to_be_bytes().into())));
        }
    }));
    cases.push(Case::new("hash_client/v6", 1_000, || {
        |n| {
            let address = Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(n));
            black_box(hash_client(black_box(address.into())));
        }
    }));
    // The samples gather in blocks, which are an allocation each: a multiple of many sizes.
    cases.push(Case::new("histogram/record", 4_096, || {
        let registry = Registry::new().expect("the buckets are valid");
        let histogram = registry.histogram("lockgate_backend_connect_seconds", &[("pool", "app")]);
        move |n| histogram.record(black_box(Duration::from_micros(u64::from(n))))
    }));
    for (name, format) in [("text", Format::Text), ("json", Format::Json)] {
        cases.push(Case::new(format!("record/{name}"), 1_000, move || {
            let mut line = String::with_capacity(1_024);
            move |n| {
                line.clear();
                black_box(record(n)).write(format, &mut line);
                black_box(&line);
            }
        }));
    }
    cases.push(Case::new("config/parse/100-backends", 5, || {
        let text = configuration(100);
        move |_| {
            let plan = config::parse("lockgate.toml", black_box(&text));
            drop(black_box(plan.expect("a valid file")));
        }
    }));
    cases.extend(first_bytes());
    cases.extend(at_the_door());
    cases
}

/// What it costs to come in, where something stands before a listener.
fn at_the_door() -> [Case; 5] {
    const HEADER: &[u8] = include_bytes!("../../tests/corpus/proxy_header/haproxy-v2-tls");
    const LINE: &[u8] = include_bytes!("../../tests/corpus/proxy_header/haproxy-v1-v4");
    let of_header = |name, bytes: &'static [u8]| {
        Case::new(format!("proxy_header/{name}"), 1_000, move || {
            move |_| {
                black_box(proxy_protocol::parse(black_box(bytes)));
            }
        })
    };
    let told = || {
        Case::new("proxy_header/write/v2", 1_000, || {
            let ends = Ends {
                client: ([192, 0, 2, 1], 40_000).into(),
                server: ([198, 51, 100, 1], 443).into(),
            };
            move |_| {
                black_box(proxy_protocol::header(Version::V2, black_box(ends), None));
            }
        })
    };
    let looked_up = || {
        Case::new("access/100000-networks", 1_000, || {
            let network = |n: u32| Network {
                address: (0x0a00_0000 + 4 * n).to_be_bytes().into(),
                prefix: 31,
            };
            let lists = Lists { allow: None, deny: Set::new((0..100_000).map(network)) };
            let access = Access::new(lists);
            move |n| {
                let client = (0x0a00_0000 + n.wrapping_mul(2_654_435_761) % 400_000).to_be_bytes();
                black_box(access.admit(black_box(client.into())));
            }
        })
    };
    // The hash is a random one, but its length is not, and neither is what is found: the same source.
    let limited = || {
        Case::new("limit/known-source", 1_000, || {
            let table = Table::new();
            let rate = Rate::new(1_000_000, Duration::from_secs(1), 1_000);
            move |n| {
                let now = u64::from(n) * 1_000_000;
                let entered = table.enter(black_box(7), now, Some(&rate), NonZeroU32::new(9));
                drop(black_box(entered));
            }
        })
    };
    [of_header("v1", LINE), of_header("v2-tls", HEADER), told(), looked_up(), limited()]
}

/// What clients say first: at once, and in the smallest pieces.
fn first_bytes() -> [Case; 4] {
    // With a post-quantum key share; cookies and the hints of a browser.
    const HELLO: &[u8] = include_bytes!("../../tests/corpus/client_hello/like-chrome");
    const HEAD: &[u8] = include_bytes!("../../tests/corpus/http_head/chrome");
    let of_hello = |name, step| {
        Case::new(format!("client_hello/{name}"), 200, move || {
            move |_| {
                let mut reader = client_hello::Reader::new();
                for end in (step..=HELLO.len()).step_by(step) {
                    black_box(reader.advance(black_box(&HELLO[..end])));
                }
            }
        })
    };
    let of_head = |name, step| {
        Case::new(format!("http_head/{name}"), 200, move || {
            move |_| {
                let mut reader = http_head::Reader::new();
                for end in (step..=HEAD.len()).step_by(step) {
                    black_box(reader.advance(black_box(&HEAD[..end])));
                }
            }
        })
    };
    [
        of_hello("1763-bytes", HELLO.len()),
        of_hello("1763-bytes/one-by-one", 1),
        of_head("756-bytes", HEAD.len()),
        of_head("756-bytes/one-by-one", 1),
    ]
}

/// A pick by each policy, with its lease, which is given back.
fn picks() -> Vec<Case> {
    let groups = [
        ("10", 10, 1),
        ("1000", 1_000, 1),
        ("1000-half-down", 1_000, 2),
        ("1000-two-up", 1_000, 999),
    ];
    let of = |(policy_name, policy)| {
        groups.map(|(group_name, backends, one_in)| {
            Case::new(format!("pick/{policy_name}/{group_name}"), 2_000, move || {
                let picks = Picks::new(policy, backends, one_in);
                move |n| {
                    let random = u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    black_box(picks.pick(black_box(random), black_box(random)));
                }
            })
        })
    };
    POLICIES.into_iter().flat_map(of).collect()
}

/// A pool of equal backends, as a connection finds it.
fn pool(backends: u16) -> Arc<Pool> {
    let name: Arc<str> = "app".into();
    let tier = |backup, count| {
        let block = Block::new();
        let made = |slot| {
            let backend = Backend {
                id: u64::from(slot),
                pool: Arc::clone(&name),
                name: format!("app-{slot}").into(),
                endpoint: Endpoint::Fixed(([127, 0, 0, 1], 3_000 + slot).into()),
                peer: None,
                backup,
                slot,
                stats: PerWorker::new(1),
                block: Arc::clone(&block),
            };
            backend.set_weight(100 * WEIGHT_ONE);
            Some(Arc::new(backend))
        };
        let backends: Box<[_]> = (0..count).map(made).collect();
        let seats = vec![Seat { name: "", weight: 100, limit: 0 }; backends.len()];
        let group = Group::new(Policy::RoundRobin, &seats, Box::new([block]), Arc::default());
        Arc::new(Tier { group, backends })
    };
    Arc::new(Pool {
        name: Arc::clone(&name),
        ordinary: tier(false, backends),
        backup: tier(true, 0),
        backup_overflow: false,
        connect_timeout: Duration::from_secs(5),
        retries: 2,
        user_timeout: None,
        queue_timeout: Duration::from_secs(5),
        source: None,
        send_proxy: None,
        tls: Box::default(),
        stats: Arc::new(PerWorker::new(1)),
        connect_seconds: metrics::Histogram::noop(),
        queue: Arc::default(),
        reports: mpsc::channel(1).0,
    })
}

/// What is told of a connection that did what it should.
fn record(n: u32) -> Record<'static> {
    Record {
        time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123 + u64::from(n)),
        listener: "web",
        client: ([10, 1, 2, 3], 45_678).into(),
        pool: Some("app"),
        backend: Some("app-1"),
        attempts: 1,
        queue: Duration::ZERO,
        connect: Some(Duration::from_micros(1_234)),
        tls: None,
        duration: Duration::from_micros(98_765_432),
        bytes_in: 640,
        bytes_out: 65_536,
        close_notify: None,
        reason: Reason::Closed,
        id: Id { started: 1_700_000_000, worker: 1, sequence: u64::from(n) },
    }
}

/// A file with one pool. Not `config/lockgate.toml`: that grows with every key that there is.
fn configuration(backends: u32) -> String {
    let mut text = "[[listener]]\nname = \"web\"\nbind = \"0.0.0.0:8080\"\npool = \"app\"\n\n\
                    [pool.app]\nbalance = \"source_hash\"\n\n\
                    [pool.app.health]\ntype = \"http\"\ninterval = \"2s\"\n"
        .to_owned();
    for n in 0..backends {
        let table = "[[pool.app.backend]]";
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\n{table}\nname = \"app-{n}\"\naddress = \"10.0.0.{n}:3000\"\nweight = 100\n"
        );
    }
    text
}
