//! What the tests stand on: the real binary, servers behind it, clients before it, and networks
//! to put them into.

pub mod behind;
pub mod browser;
pub mod capture;
mod clients;
mod config;
pub mod dns;
mod events;
mod frozen;
mod gateway;
mod hanging;
pub mod hello;
pub mod lab;
pub mod lan;
pub mod machine;
mod noise;
pub mod pair;
pub mod routers;
mod servers;
pub mod tls;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::process;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

pub use clients::{
    Ending, connect, connect_from, ending, ending_at, fetch, greeting, held, refused, reset,
    stays_silent, visit, visit_from,
};
pub use config::Config;
pub use events::Events;
pub use frozen::Frozen;
pub use gateway::{Gateway, Launch, lockgate, output_of};
pub use hanging::{begin_to_hang, hanging};
pub use noise::Noise;
pub use servers::{Http, Server};

/// Longest wait for what should happen at once: generous, because machines are shared.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `probe` finds what the test is waiting for.
///
/// # Panics
///
/// When patience runs out.
#[track_caller]
pub fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let give_up = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < give_up, "waited {PATIENCE:?} in vain: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until `condition` holds.
///
/// # Panics
///
/// When patience runs out.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    until(what, || condition().then_some(()));
}

/// Tells threads to stop when the test is done with them, also when it panics: a scope waits for
/// its threads in any case.
pub struct StopAtEnd<'a>(pub &'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// An address in 127.0.0.0/8 that nobody else uses, with a free port.
///
/// A port alone would not do: between finding it and listening on it, some client of another test
/// may be given it as its own. An IP address that only this call knows is nobody's source address.
/// 127.0.0.0/16 is left to clients.
pub fn unused_address() -> SocketAddr {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    const ADDRESSES: u32 = 254 << 16;
    // Processes that run at the same time are far less than this many numbers apart, or the
    // random port tells their addresses apart.
    const CALLS_OF_A_PROCESS: u32 = 512;
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    let number = process::id().wrapping_mul(CALLS_OF_A_PROCESS).wrapping_add(call) % ADDRESSES;
    let ip = Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 0).to_bits() + number);
    free_port(ip.into())
}

/// `ip` with a port that is free there at the moment.
pub fn free_port(ip: IpAddr) -> SocketAddr {
    TcpListener::bind((ip, 0)).and_then(|listener| listener.local_addr()).unwrap()
}
