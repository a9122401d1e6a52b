//! Backends that are given by name: resolved at the start and whenever an answer has expired.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::harness::lab::{GATEWAY, LEFT, Lab, RIGHT};
use crate::harness::{
    Config, Gateway, Launch, Server, eventually, free_port, unused_address, visit,
};

#[test]
fn localhost_is_resolved() {
    let server = Server::named_at("here", free_port(Ipv4Addr::LOCALHOST.into()));
    let address = unused_address();
    let name = format!("localhost:{}", server.address().port());
    let gateway = Gateway::start(Config::new(address).backend_at("here", &name, ""));
    assert_eq!(visit(address).unwrap(), "here");
    let backend = gateway.backend("here");
    assert_eq!(backend["address"], name);
    assert_eq!(backend["resolved"], server.address().to_string());
}

#[test]
fn a_name_that_means_nothing_does_not_hinder_the_start() {
    let server = Server::named("known");
    let address = unused_address();
    let config =
        Config::new(address).backend_at("unknown", "nobody.invalid:80", "").backend(&server, "");
    let began = Instant::now();
    let gateway = Gateway::start(config);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert!((0..10).all(|_| visit(address).unwrap() == "known"));
    assert_eq!(gateway.backend("unknown")["effective_weight"], 0.0);
    assert!(gateway.backend("unknown")["resolved"].is_null());
}

/// A DNS server that knows one IPv4 address, which it gives for every name, for two seconds.
struct Dns {
    answer: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Dns {
    const TTL: Duration = Duration::from_secs(2);

    fn start(address: SocketAddr, answer: Ipv4Addr) -> Self {
        let socket = UdpSocket::bind(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let answer = Arc::new(AtomicU32::new(answer.to_bits()));
        let stop = Arc::<AtomicBool>::default();
        let thread = thread::spawn({
            let (answer, stop) = (Arc::clone(&answer), Arc::clone(&stop));
            move || {
                let mut query = [0; 512];
                while !stop.load(Ordering::SeqCst) {
                    let Ok((length, from)) = socket.recv_from(&mut query) else { continue };
                    let answer = Ipv4Addr::from_bits(answer.load(Ordering::SeqCst));
                    if let Some(response) = respond(&query[..length], answer) {
                        socket.send_to(&response, from).unwrap();
                    }
                }
            }
        });
        Self { answer, stop, thread: Some(thread) }
    }

    fn change(&self, answer: Ipv4Addr) {
        self.answer.store(answer.to_bits(), Ordering::SeqCst);
    }

    /// From now on the port is closed.
    fn kill(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.kill();
    }
}

/// RFC 1035, section 4: the question comes back, with one record if it is about IPv4 addresses.
fn respond(query: &[u8], answer: Ipv4Addr) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    const TYPE_A: [u8; 2] = [0, 1];
    let mut end = HEADER;
    while *query.get(end)? != 0 {
        end += 1 + usize::from(query[end]);
    }
    // The root label, the type, the class.
    let question = query.get(HEADER..end + 5)?;
    let kind = &query[end + 1..end + 3];
    let answers = u16::from(kind == TYPE_A);

    let mut response = query[..2].to_vec();
    // A response, recursion desired and available, no error.
    response.extend([0x81, 0x80]);
    for count in [1, answers, 0, 0] {
        response.extend(count.to_be_bytes());
    }
    response.extend(question);
    if answers == 1 {
        // A pointer to the name of the question, type A, class IN.
        response.extend([0xc0, HEADER as u8, 0, 1, 0, 1]);
        response.extend((Dns::TTL.as_secs() as u32).to_be_bytes());
        response.extend(4u16.to_be_bytes());
        response.extend(answer.octets());
    }
    Some(response)
}

/// The DNS server stands at the right, two servers at the left.
#[test]
fn a_change_in_dns_moves_the_traffic_and_a_dead_server_does_not() {
    const OTHER: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 3);
    let lab = Lab::new();
    lab.left.ip(&format!("addr add {OTHER}/24 dev eth0"));
    let _servers = [("old", LEFT), ("new", OTHER)].map(|(name, ip)| {
        lab.left.run(|| Server::named_at(name, SocketAddr::new(ip.into(), 7000)))
    });
    let mut dns = lab.right.run(|| Dns::start(SocketAddr::new(RIGHT.into(), 53), LEFT));
    lab.gateway.resolve_with(IpAddr::from(RIGHT));
    let address = SocketAddr::new(GATEWAY.into(), 80);
    let config = Config::new(address).backend_at("app", "app.test:7000", "");
    let gateway = Launch::new(config).under(&lab.gateway.enter()).start();
    let visit = || lab.client.run(|| visit(address).unwrap());

    assert_eq!(visit(), "old");
    let changed = Instant::now();
    dns.change(OTHER);
    eventually("the traffic moves", || visit() == "new");
    assert!(changed.elapsed() < Dns::TTL * 5, "{:?}", changed.elapsed());
    assert_eq!(gateway.backend("app")["resolved"], format!("{OTHER}:7000"));

    dns.kill();
    gateway.await_log("cannot resolve app.test");
    assert_eq!(visit(), "new");
    assert_eq!(gateway.backend("app")["effective_weight"], 100.0);
}
