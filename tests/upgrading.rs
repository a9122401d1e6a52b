//! Upgrades: another process takes over, and no client notices. What fails changes nothing.

mod counting;
mod failing;
mod logging;
mod meanwhile;
mod pair;
mod systemd;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::harness::{
    Config, Ending, Gateway, Launch, Server, StopAtEnd, connect, ending, eventually, held, refused,
    unused_address, visit, visit_from,
};

/// What became of clients that connect without pause, each from an address of its own.
pub struct Load {
    pub served: u64,
    pub failures: Vec<String>,
}

/// Has clients connect to `address` while `change` does its work.
pub fn under_load(address: SocketAddr, change: impl FnOnce()) -> Load {
    const CLIENTS: u8 = 4;
    let stop = AtomicBool::new(false);
    let (served, failures) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for number in 1..=CLIENTS {
            let (stop, served, failures) = (&stop, &served, &failures);
            scope.spawn(move || {
                let source = IpAddr::from(Ipv4Addr::new(127, 0, 3, number));
                while !stop.load(Ordering::SeqCst) {
                    match visit_from(source, address) {
                        Ok(_) => drop(served.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => failures.lock().unwrap().push(error.to_string()),
                    }
                }
            });
        }
        let _stop = StopAtEnd(&stop);
        change();
    });
    Load { served: served.into_inner(), failures: failures.into_inner().unwrap() }
}

/// Says something to an echoing server, and hears it.
pub fn converse(client: &mut TcpStream) {
    client.write_all(b"still here").unwrap();
    let mut echo = [0; 10];
    client.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"still here");
}

/// A gateway with a listener of its own for connections that last.
fn with_echo(address: SocketAddr, lasting: SocketAddr, echo: &Server, named: &Server) -> String {
    Config::new(address).runtime("drain_timeout = \"1h\"").backend(named, "").to_string()
        + &format!(
            "[[listener]]\nname = \"lasting\"\nbind = [\"{lasting}\"]\npool = \"echo\"\n\
             [[pool.echo.backend]]\naddress = \"{}\"\n",
            echo.address()
        )
}

#[test]
fn twenty_upgrades_in_a_row_under_load_cost_no_connection() {
    let (address, lasting) = (unused_address(), unused_address());
    let (echo, named) = (Server::echo(), Server::named("a"));
    let mut gateway = Gateway::start(with_echo(address, lasting, &echo, &named));
    let first = gateway.pid();
    let (mut open, mut processes) = (Vec::new(), Vec::new());
    let load = under_load(address, || {
        for _ in 0..20 {
            let mut client = connect(lasting).unwrap();
            converse(&mut client);
            open.push(client);
            processes.push(gateway.upgrade());
            open.iter_mut().for_each(converse);
        }
    });
    assert_eq!(load.failures, Vec::<String>::new());
    assert!(load.served > 100, "{} connections", load.served);
    assert_eq!(processes[0], first);
    open.iter_mut().for_each(converse);

    // All of them drain yet, and say so up the line.
    eventually("all older processes are known", || {
        let status = gateway.status();
        let previous = status["previous"].as_array().unwrap().clone();
        let mut pids: Vec<_> = previous.iter().map(|it| it["pid"].as_u64().unwrap()).collect();
        pids.reverse();
        // The one before may have been quicker to accept a connection than its heir.
        let held: u64 = previous.iter().map(|it| it["connections"].as_u64().unwrap()).sum();
        pids == processes.iter().map(|pid| u64::from(*pid)).collect::<Vec<_>>() && held == 20
    });
    assert_eq!(gateway.status()["generation"], 21);

    let clients: Vec<_> = open.iter().map(|client| client.local_addr().unwrap()).collect();
    drop(open);
    processes.into_iter().for_each(Gateway::await_end_of);
    eventually("they are forgotten", || {
        gateway.status()["previous"].as_array().unwrap().is_empty()
    });
    // What each of them has counted has come through.
    let total = |listener| gateway.metric("lockgate_connections_total", &[("listener", listener)]);
    let closed = |listener| {
        let labels = [("listener", listener), ("reason", "closed")];
        gateway.metric("lockgate_connections_closed_total", &labels)
    };
    eventually("all is counted", || closed("lasting") == 20.0);
    assert_eq!((total("lasting"), total("web")), (20.0, load.served as f64));
    assert_eq!(closed("web"), load.served as f64);
    assert_eq!(named.accepted() as u64, load.served);
    // Each has left its record, under a name of its own.
    for client in clients {
        assert_eq!(gateway.record_of(client)["reason"], "closed");
    }
    let records = gateway.records();
    let mut ids: Vec<_> = records.iter().map(|record| record["id"].to_string()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), records.len());
}

#[test]
fn what_is_held_is_cut_when_the_drain_timeout_is_over() {
    let address = unused_address();
    let server = Server::named("a");
    let config = Config::new(address).runtime("drain_timeout = \"1s\"").backend(&server, "");
    let mut gateway = Gateway::start(config);
    let (mut client, _) = held(address).unwrap();
    let before = gateway.upgrade();
    assert!(Gateway::is_alive(before));
    assert_eq!(ending(&mut client), Ending::Reset);
    Gateway::await_end_of(before);
    assert_eq!(gateway.record_of(client.local_addr().unwrap())["reason"], "drained");
    assert_eq!(visit(address).unwrap(), "a");
}

/// What waits in the kernel, since there is no room, is the next process's.
#[test]
fn connections_that_wait_for_room_are_served_by_the_next_process() {
    let address = unused_address();
    let server = Server::named("a");
    let config = Config::new(address)
        .runtime("drain_timeout = \"1h\"\nmax_connections = 1\nworkers = 2")
        .backend(&server, "");
    let mut gateway = Gateway::start(config);
    let open = held(address).unwrap();
    let waiting: Vec<_> = (0..20).map(|_| thread::spawn(move || visit(address))).collect();
    eventually("they wait in the kernel", || server.accepted() == 1 && queued(address) == 20);
    let before = gateway.upgrade();
    for client in waiting {
        assert_eq!(client.join().unwrap().unwrap(), "a");
    }
    assert!(Gateway::is_alive(before), "it has the one that is open yet");
    drop(open);
    Gateway::await_end_of(before);
}

/// Connections that wait to be accepted (proc_net_tcp(5): of a listening socket, the receive queue).
fn queued(address: SocketAddr) -> u64 {
    let SocketAddr::V4(address) = address else { panic!("not IPv4") };
    let ip = u32::from_ne_bytes(address.ip().octets());
    let local = format!("{ip:08X}:{:04X}", address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let listening = lines.filter(|words| words[1] == local && words[3] == "0A");
    let waiting = listening.map(|words| words[4].split_once(':').unwrap().1.to_owned());
    waiting.map(|hex| u64::from_str_radix(&hex, 16).unwrap()).sum()
}

#[test]
fn another_number_of_workers_and_other_listeners_come_with_the_new_process() {
    let (address, other, third) = (unused_address(), unused_address(), unused_address());
    let server = Server::named("a");
    let config = |workers: u32, second: Option<SocketAddr>| {
        let text = Config::new(address)
            .runtime(&format!("workers = {workers}\ndrain_timeout = \"1h\""))
            .backend(&server, "");
        let second = second.map(|bind| {
            format!("[[listener]]\nname = \"second\"\nbind = [\"{bind}\"]\npool = \"app\"\n")
        });
        text.to_string() + &second.unwrap_or_default()
    };
    let mut gateway = Gateway::start(config(1, Some(other)));
    let load = under_load(address, || {
        for (workers, second) in [(3, Some(third)), (2, None), (1, Some(other)), (4, Some(other))] {
            gateway.write_config(config(workers, second));
            gateway.upgrade();
            assert_eq!(gateway.status()["workers"].as_array().unwrap().len(), workers as usize);
            for address in [other, third] {
                match second == Some(address) {
                    true => assert_eq!(visit(address).unwrap(), "a"),
                    false => eventually("nobody listens there", || refused(address)),
                }
            }
        }
    });
    assert_eq!(load.failures, Vec::<String>::new());
    assert!(load.served > 20, "{} connections", load.served);
}

#[test]
fn a_listener_that_a_reload_removed_does_not_come_back() {
    let (address, other) = (unused_address(), unused_address());
    let server = Server::named("a");
    let config = Config::new(address).backend(&server, "");
    let second = format!("[[listener]]\nname = \"second\"\nbind = [\"{other}\"]\npool = \"app\"\n");
    let mut gateway = Gateway::start(config.to_string() + &second);
    gateway.reload(&config);
    eventually("it is closed", || refused(other));
    gateway.upgrade();
    assert!(refused(other));
    assert_eq!(visit(address).unwrap(), "a");
    gateway.reload(config.to_string() + &second);
    assert_eq!(visit(other).unwrap(), "a");
}

/// A downgrade is an upgrade to another file.
#[test]
fn the_file_at_its_place_is_started_whatever_it_was_before() {
    let address = unused_address();
    let server = Server::named("a");
    let mut gateway = Launch::new(Config::new(address).backend(&server, "")).start();
    for _ in 0..2 {
        gateway.restore_binary();
        let before = gateway.upgrade();
        Gateway::await_end_of(before);
        let running = std::fs::read_link(format!("/proc/{}/exe", gateway.pid())).unwrap();
        assert_eq!(running, gateway.binary());
        assert_eq!(visit(address).unwrap(), "a");
    }
}
