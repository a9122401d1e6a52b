//! Checked clients: threads that connect, converse and close, and note whatever goes wrong.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use crate::backend::{REQUEST, WELL};
use crate::chance::Chance;
use crate::harness::behind::close_notify;
use crate::harness::tls::{TlsStream, begin};
use crate::ledger::{Failure, Ledger};
use crate::noise;
use crate::options::Options;
use crate::site::{self, Site};

/// Nothing may take longer. Every action that holds connections up lasts a fraction of it.
const PATIENCE: Duration = Duration::from_secs(20);

/// A way to connect.
#[derive(Clone)]
pub enum Way {
    Plain,
    Tls(Arc<ClientConfig>),
}

/// What clients did.
#[derive(Default)]
pub struct Total {
    pub connections: AtomicU64,
    pub bytes: AtomicU64,
}

/// The clients.
pub struct Traffic {
    threads: Vec<JoinHandle<()>>,
    shared: Arc<Shared>,
}

struct Shared {
    stop: AtomicBool,
    resting: AtomicBool,
    /// All clients and who tells them to rest meet here twice: they rest, they go on.
    meeting: Barrier,
    total: Arc<Total>,
}

impl Traffic {
    /// Starts them.
    pub fn start(site: &Arc<Site>, ledger: &Arc<Ledger>, options: &Options) -> Self {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            resting: AtomicBool::new(false),
            meeting: Barrier::new(options.clients + 1),
            total: Arc::default(),
        });
        let threads = (0..options.clients).map(|number| {
            let (site, ledger, shared) =
                (Arc::clone(site), Arc::clone(ledger), Arc::clone(&shared));
            let chance = Chance::new(options.seed.wrapping_mul(1_000).wrapping_add(number as u64));
            thread::spawn(move || work(&site, &ledger, &shared, chance))
        });
        Self { threads: threads.collect(), shared }
    }

    /// Waits until each has ended its connection, and begins no other.
    pub fn rest(&self) {
        self.shared.resting.store(true, Ordering::SeqCst);
        self.shared.meeting.wait();
    }

    /// All go on.
    pub fn go_on(&self) {
        self.shared.resting.store(false, Ordering::SeqCst);
        self.shared.meeting.wait();
    }

    /// Ends them, each when its connection has ended.
    pub fn stop(self) -> Arc<Total> {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().expect("a client panics for no reason");
        }
        self.shared.total.clone()
    }
}

fn work(site: &Site, ledger: &Ledger, shared: &Shared, mut chance: Chance) {
    while !shared.stop.load(Ordering::SeqCst) {
        if shared.resting.load(Ordering::SeqCst) {
            shared.meeting.wait();
            shared.meeting.wait();
        }
        let listener = chance.one_of(&site::LISTENERS);
        let (address, way) = site.way(listener);
        let mut visit = Visit {
            plan: Plan::draw(&mut chance),
            stop: &shared.stop,
            resting: &shared.resting,
            backend: None,
            port: 0,
            phase: "connecting",
            bytes: 0,
        };
        let began = Instant::now();
        let outcome = visit.make(address, &way);
        shared.total.connections.fetch_add(1, Ordering::Relaxed);
        shared.total.bytes.fetch_add(visit.bytes, Ordering::Relaxed);
        if let Err(error) = outcome {
            ledger.failed(Failure {
                what: format!(
                    "{} connection to {listener} from port {}, while {}",
                    visit.plan.kind, visit.port, visit.phase
                ),
                backend: visit.backend,
                error: error.to_string(),
                corrupt: error.kind() == ErrorKind::InvalidData,
                began,
                at: Instant::now(),
            });
            // Whatever it was, it is not to be noted a thousand times a second.
            thread::sleep(Duration::from_millis(50));
        }
        // They are to meet with everything, not to take all of the processor.
        thread::sleep(chance.millis(0, 30));
    }
}

/// What is asked for on one connection.
struct Plan {
    kind: &'static str,
    /// Bytes there, bytes back, and the pause after it.
    requests: Vec<(usize, usize, Duration)>,
    seed: u64,
}

impl Plan {
    fn draw(chance: &mut Chance) -> Self {
        let none = Duration::ZERO;
        let (kind, requests) = match chance.within(0, 100) {
            0 => {
                let pause = |chance: &mut Chance| chance.millis(500, 1_500);
                let count = chance.within(5, 20);
                ("long", (0..count).map(|_| (100, 100, pause(chance))).collect())
            }
            1..=6 => {
                let count = chance.within(5, 30);
                let request = |chance: &mut Chance| {
                    (chance.within(0, 2_000), chance.within(0, 2_000), chance.millis(10, 100))
                };
                ("talking", (0..count).map(|_| request(chance)).collect())
            }
            7..=12 => ("bulk", vec![(chance.within(0, 4 << 20), chance.within(0, 8 << 20), none)]),
            13..=15 => ("quiet", vec![(10, 10, chance.millis(1_000, 4_000)), (10, 10, none)]),
            _ => ("short", vec![(chance.within(0, 600), chance.within(0, 3_000), none)]),
        };
        Self { kind, requests, seed: chance.next() }
    }
}

/// One connection.
struct Visit<'a> {
    plan: Plan,
    stop: &'a AtomicBool,
    resting: &'a AtomicBool,
    backend: Option<String>,
    /// The client's, by which its access record is found.
    port: u16,
    phase: &'static str,
    bytes: u64,
}

impl Visit<'_> {
    fn make(&mut self, address: SocketAddr, way: &Way) -> io::Result<()> {
        let socket = TcpStream::connect_timeout(&address, PATIENCE)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.set_nodelay(true)?;
        self.port = socket.local_addr()?.port();
        match way {
            Way::Plain => self.converse(socket, |stream| stream.shutdown(Shutdown::Write)),
            Way::Tls(config) => {
                self.phase = "shaking hands";
                let mut stream = TlsStream::new(begin(config, site::NAME), socket);
                while stream.conn.is_handshaking() {
                    if let (0, 0) = stream.conn.complete_io(&mut stream.sock)? {
                        return Err(ErrorKind::UnexpectedEof.into());
                    }
                }
                self.converse(stream, close_notify)
            }
        }
    }

    fn converse<S: Read + Write>(
        &mut self,
        mut stream: S,
        finish: impl FnOnce(&mut S) -> io::Result<()>,
    ) -> io::Result<()> {
        self.phase = "being greeted";
        let mut length = [0];
        stream.read_exact(&mut length)?;
        let mut name = vec![0; length[0].into()];
        stream.read_exact(&mut name)?;
        self.backend = Some(String::from_utf8_lossy(&name).into_owned());
        for (number, &(there, back, pause)) in self.plan.requests.iter().enumerate() {
            let seed = self.plan.seed.wrapping_add(number as u64 * 0x1234_5677);
            let mut request = [0; REQUEST];
            request[..4].copy_from_slice(&(there as u32).to_le_bytes());
            request[4..8].copy_from_slice(&(back as u32).to_le_bytes());
            request[8..].copy_from_slice(&seed.to_le_bytes());
            self.phase = "sending";
            stream.write_all(&request)?;
            noise::write(&mut stream, seed, there)?;
            self.phase = "waiting for the verdict";
            let mut verdict = [0];
            stream.read_exact(&mut verdict)?;
            if verdict[0] != WELL {
                return Err(io::Error::new(ErrorKind::InvalidData, "the backend got wrong bytes"));
            }
            self.phase = "receiving";
            noise::check(&mut stream, !seed, back)?;
            self.bytes += (there + back) as u64;
            if self.stop.load(Ordering::Relaxed) || self.resting.load(Ordering::Relaxed) {
                break;
            }
            thread::sleep(pause);
        }
        self.phase = "closing";
        finish(&mut stream)?;
        match stream.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(io::Error::new(ErrorKind::InvalidData, "bytes after the last answer")),
        }
    }
}
