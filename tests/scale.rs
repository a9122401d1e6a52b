//! A pool of a thousand backends, half of which come and go.
//!
//! The backends are only listening sockets of the test: the kernel completes the handshakes, and
//! nobody accepts. Clients reset their connections, so that they end without the servers' doing.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

use crate::harness::{Config, Gateway, StopAtEnd, connect, eventually, reset, unused_address};

const STEADY: usize = 500;
const FLAPPING: usize = 500;

fn listen(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&address.into()).unwrap();
    // The queue must hold every check and every client of the test.
    socket.listen(4096).unwrap();
    socket
}

/// Closes or opens each of these once a second, until told to stop.
fn flap(addresses: &[SocketAddr], stop: &AtomicBool) {
    const STEPS: u32 = 50;
    let mut sockets: Vec<_> = addresses.iter().map(|&address| Some(listen(address))).collect();
    let at_once = addresses.len() / STEPS as usize;
    for step in 0.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let first = step * at_once % addresses.len();
        for place in first..first + at_once {
            sockets[place] = match sockets[place].take() {
                Some(_closed) => None,
                None => Some(listen(addresses[place])),
            };
        }
        thread::sleep(Duration::from_secs(1) / STEPS);
    }
}

#[test]
fn half_of_a_thousand_backends_flapping_disturbs_neither_the_other_half_nor_the_control_plane() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();

    let address = unused_address();
    let addresses: Vec<_> = (0..STEADY + FLAPPING).map(|_| unused_address()).collect();
    let (steady, flapping) = addresses.split_at(STEADY);
    let _listening: Vec<_> = steady.iter().map(|&address| listen(address)).collect();
    let mut config = Config::new(address).pool("retries = 100").pool(
        "health = { type = 'tcp', interval = '1s', fast_interval = '500ms', rise = 1, fall = 1 }",
    );
    for (number, (one, other)) in steady.iter().zip(flapping).enumerate() {
        config = config.backend_at(&format!("steady-{number}"), &one.to_string(), "").backend_at(
            &format!("flapping-{number}"),
            &other.to_string(),
            "",
        );
    }

    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| flap(flapping, &stop));
        let _stop = StopAtEnd(&stop);
        let gateway = Gateway::start(config);
        let (began, before) = (Instant::now(), gateway.control_thread_time());
        let checks =
            |result| gateway.metric("lockgate_backend_health_checks_total", &[("result", result)]);
        let checked_before = checks("passed") + checks("failed");
        // Each stays long enough to be sent to a backend, whatever else this machine does.
        let mut clients = VecDeque::new();
        for _ in 0..4_000 {
            match connect(address) {
                Ok(client) => clients.push_back(client),
                // By a backend that closed just then, before this thread had its turn.
                Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
            }
            if clients.len() > 500 {
                clients.pop_front().into_iter().for_each(reset);
            }
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_millis(500));
        clients.into_iter().for_each(reset);
        let used = gateway.control_thread_time() - before;
        let checked = checks("passed") + checks("failed") - checked_before;
        let lasted = began.elapsed();
        eventually("all clients have been served", || {
            gateway.metric("lockgate_connections_total", &[("listener", "web")]) == 4_000.0
        });
        gateway.await_idle();

        let status = gateway.status();
        let backends = status["pools"][0]["backends"].as_array().unwrap();
        let counts = |kind: &str| -> Vec<u64> {
            backends
                .iter()
                .filter(|backend| backend["name"].as_str().unwrap().starts_with(kind))
                .map(|backend| backend["connections_total"].as_u64().unwrap())
                .collect()
        };
        let (least, most) = counts("steady")
            .into_iter()
            .fold((u64::MAX, 0), |(least, most), count| (least.min(count), most.max(count)));
        assert!(least >= 4 && most <= least + 1, "from {least} to {most} connections");
        let failed = checks("failed");
        assert!(failed >= FLAPPING as f64, "only {failed} checks failed: nothing flapped");
        println!("{checked} checks in {lasted:?}, for {used:?} of the control thread's time");
        // Each is due once a second, or twice while it is down. A busy machine may be late.
        let due = addresses.len() as f64 * lasted.as_secs_f64();
        assert!(checked > due / 4.0, "{checked} of {due} checks: the control thread is too slow");
    });
}
