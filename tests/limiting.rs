//! Limits by source: exact, however the connections arrive, and whoever else comes.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{
    Config, Ending, Gateway, Server, connect, connect_from, ending_at, eventually, greeting,
    unused_address, visit, visit_from,
};

fn source(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 77, 7, last).into()
}

/// A gateway of four workers with these lines in `[listener.limit]`.
fn limiting(server: &Server, listener: &str, limit: &str) -> (Config, SocketAddr) {
    let address = unused_address();
    let listener = format!("{listener}\n[listener.limit]\n{limit}");
    let config = Config::new(address).runtime("workers = 4").listener(&listener);
    (config.backend(server, ""), address)
}

fn limited(gateway: &Gateway, limit: &str) -> f64 {
    gateway.metric("lockgate_limited_total", &[("listener", "web"), ("limit", limit)])
}

fn count_limited(gateway: &Gateway) -> f64 {
    let labels = [("listener", "web"), ("reason", "limited")];
    gateway.metric("lockgate_connections_closed_total", &labels)
}

/// Visits by so many threads at once; how many were let in.
fn storm(threads: usize, visits: usize, visit: impl Fn() -> bool + Sync) -> usize {
    let (admitted, barrier) = (AtomicUsize::new(0), Barrier::new(threads));
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                barrier.wait();
                for _ in 0..visits {
                    admitted.fetch_add(usize::from(visit()), Ordering::SeqCst);
                }
            });
        }
    });
    admitted.into_inner()
}

#[test]
fn of_those_who_come_at_once_exactly_the_burst_passes() {
    let server = Server::named("a");
    // Nothing comes back within the test.
    let (config, address) = limiting(&server, "", "rate = \"1/h\"\nburst = 37");
    let gateway = Gateway::start(config);
    for last in [1, 2] {
        let admitted = storm(8, 25, || visit_from(source(last), address).is_ok());
        assert_eq!(admitted, 37, "source {last}");
    }
    assert_eq!(limited(&gateway, "rate"), 2.0 * (200.0 - 37.0));
    assert_eq!(limited(&gateway, "connections"), 0.0);
    let records = gateway.await_records(2 * (200 - 37), "limited");
    assert!(records.iter().all(|record| record["backend"].is_null()));
    assert_eq!(count_limited(&gateway), 2.0 * (200.0 - 37.0));
    // Others do not notice.
    for last in 3..100 {
        assert_eq!(visit_from(source(last), address).unwrap(), "a");
    }
}

#[test]
fn after_the_burst_the_rate_passes_and_no_more() {
    let server = Server::named("a");
    let (config, address) = limiting(&server, "", "rate = \"20/s\"\nburst = 5");
    let _gateway = Gateway::start(config);
    let (began, admitted) = (Instant::now(), AtomicUsize::new(0));
    let first = Instant::now();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while began.elapsed() < Duration::from_secs(3) {
                    if visit_from(source(1), address).is_ok() {
                        admitted.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    // The last visit may have begun just before the end, and a busy machine may be late.
    let most = 5.0 + 20.0 * first.elapsed().as_secs_f64() + 1.0;
    let admitted = admitted.into_inner();
    assert!((5 + 20 * 2..=most as usize).contains(&admitted), "{admitted} of at most {most}");
}

#[test]
fn a_source_has_so_many_connections_and_no_more() {
    let server = Server::named("a");
    let (config, address) = limiting(&server, "", "connections = 7");
    let gateway = Gateway::start(config);
    for round in 0..5 {
        let (held, barrier) = (std::sync::Mutex::new(Vec::new()), Barrier::new(16));
        thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    barrier.wait();
                    for _ in 0..4 {
                        let Ok(mut stream) = connect_from(source(1), address) else { continue };
                        if greeting(&mut stream).is_ok() {
                            held.lock().unwrap().push(stream);
                        }
                    }
                });
            }
        });
        let mut held = held.into_inner().unwrap();
        assert_eq!(held.len(), 7, "round {round}");
        assert!(visit_from(source(2), address).is_ok(), "others do not notice");
        // Each that ends makes room for one.
        held.truncate(4);
        for _ in 0..3 {
            let next = || {
                let mut stream = connect_from(source(1), address).ok()?;
                greeting(&mut stream).ok().map(|_| stream)
            };
            held.push(crate::harness::until("room for another", next));
        }
        assert!(visit_from(source(1), address).is_err());
        drop(held);
        gateway.await_idle();
    }
    assert!(limited(&gateway, "connections") >= 5.0 * 57.0);
    assert_eq!(limited(&gateway, "rate"), 0.0);
}

#[test]
fn a_source_is_a_network() {
    let server = Server::named("a");
    let (config, address) = limiting(&server, "", "rate = \"1/h\"\nburst = 3\nprefix_v4 = 24");
    let _gateway = Gateway::start(config);
    assert!((1..=3).all(|last| visit_from(source(last), address).is_ok()));
    assert!(visit_from(source(4), address).is_err());
    assert!(visit_from("127.77.8.1".parse().unwrap(), address).is_ok());
}

#[test]
fn what_is_beyond_is_reset_dropped_or_only_counted() {
    let server = Server::named("a");
    let limit = |action: &str| format!("rate = \"1/h\"\nburst = 1\naction = \"{action}\"");
    let (config, address) = limiting(&server, "", &limit("reset"));
    let _gateway = Gateway::start(config);
    assert!(visit(address).is_ok());
    assert_eq!(ending_at(address), Ending::Reset);

    let (config, address) = limiting(&server, "", &limit("drop"));
    let gateway = Gateway::start(config);
    assert!(visit(address).is_ok());
    assert_eq!(ending_at(address), Ending::Fin);
    assert_eq!(gateway.await_records(1, "limited").len(), 1);
    assert_eq!(limited(&gateway, "rate"), 1.0);

    let (config, address) = limiting(&server, "", &limit("log"));
    let gateway = Gateway::start(config);
    for _ in 0..3 {
        assert_eq!(visit(address).unwrap(), "a");
    }
    eventually("all have ended", || gateway.records().len() == 3);
    assert_eq!(limited(&gateway, "rate"), 2.0);
    assert_eq!(count_limited(&gateway), 0.0);
    gateway.await_log("beyond a limit, served all the same");
}

#[test]
fn a_reload_forgets_nothing() {
    let server = Server::named("a");
    let limit = "rate = \"1/h\"\nburst = 5\nconnections = 9";
    let (config, address) = limiting(&server, "", limit);
    // One worker: what it serves on a new address, it serves by the new configuration.
    let text = config.to_string().replace("workers = 4", "workers = 1");
    let gateway = Gateway::start(&text);
    let reload = |limit_now: &str| {
        let marker = unused_address();
        let listener =
            format!("[[listener]]\nname = \"marker\"\nbind = \"{marker}\"\npool = \"app\"");
        gateway.reload(format!("{}\n{listener}\n", text.replace(limit, limit_now)));
        eventually("the new configuration is in use", || visit(marker).is_ok());
    };
    let mut held = connect(address).unwrap();
    greeting(&mut held).unwrap();
    assert!((0..2).all(|_| visit(address).is_ok()));
    reload(limit);
    assert!((0..2).all(|_| visit(address).is_ok()));
    assert!(visit(address).is_err(), "the burst is used up");
    // A greater one: what was used up stays used up, and what is held is held.
    reload("rate = \"1/h\"\nburst = 7\nconnections = 9");
    assert!((0..2).all(|_| visit(address).is_ok()));
    assert!(visit(address).is_err());
    reload("connections = 1");
    assert!(visit(address).is_err(), "there is one already");
    drop(held);
    gateway.await_idle();
    assert!(visit(address).is_ok());
    // Without limits everybody is welcome.
    reload("");
    assert!((0..9).all(|_| visit(address).is_ok()));
}

/// A connection from whomever, by way of a proxy; whether it was let in.
fn announced(to: SocketAddr, client: Ipv4Addr) -> bool {
    let mut stream = connect(to).unwrap();
    let header = format!("PROXY TCP4 {client} 198.51.100.1 1 2\r\n");
    let greeted = stream.write_all(header.as_bytes()).and_then(|()| greeting(&mut stream));
    // No TIME_WAIT: the ports of this host are few.
    crate::harness::reset(stream);
    greeted.is_ok()
}

/// Sources that nobody has seen before, by the thousand: memory stays what it is, the guilty stay
/// guilty, and others do not notice.
#[test]
fn a_crowd_changes_nothing_for_others() {
    let server = Server::named("a");
    let listener = "accept_proxy_from = [\"127.0.0.1\"]";
    let (config, address) =
        limiting(&server, listener, "rate = \"50/h\"\nburst = 3\nconnections = 2");
    let gateway = Gateway::start(config);
    let (guilty, modest) = (Ipv4Addr::new(203, 0, 113, 1), Ipv4Addr::new(203, 0, 113, 2));
    assert!((0..3).all(|_| {
        gateway.await_idle();
        announced(address, guilty)
    }));
    assert!(!announced(address, guilty));
    let crowd = |from: u32| {
        let next = AtomicUsize::new(from as usize);
        let admitted = storm(4, 1_000, || {
            let number = next.fetch_add(1, Ordering::SeqCst) as u32;
            announced(address, Ipv4Addr::from(0x0a00_0000 + number))
        });
        assert_eq!(admitted, 4_000);
    };
    crowd(0);
    let before = gateway.resident_memory();
    assert!(!announced(address, guilty));
    for from in 1..4 {
        crowd(from * 4_000);
        assert!(!announced(address, guilty));
    }
    assert!(announced(address, modest));
    let after = gateway.resident_memory();
    assert!(after < before + (8 << 20), "{before} bytes, then {after}");
}

/// Before TLS, as before anything else.
#[test]
fn limits_come_before_the_client_is_heard() {
    let server = Server::named("a");
    let address = unused_address();
    let config = format!(
        "[[listener]]\nname = \"web\"\nbind = \"{address}\"\nprotocol = \"redirect\"\n\
         [listener.limit]\nrate = \"1/h\"\nburst = 2\n[[pool.app.backend]]\naddress = \"{}\"\n",
        server.address()
    );
    let gateway = Gateway::start(config);
    let ask = || {
        let stream = connect(address)?;
        crate::harness::fetch(stream, "GET", "/")
    };
    assert!((0..2).all(|_| ask().is_ok_and(|(status, _)| status == 301)));
    assert!(ask().is_err());
    assert_eq!(limited(&gateway, "rate"), 1.0);
    // Who opens connections and says nothing has used up what there is all the same.
    assert_eq!(ending_at(address), Ending::Reset);
}

/// A client that is dropped while it sends sees an end, and no reset, as long as it is quick.
#[test]
fn who_is_dropped_is_not_reset() {
    let server = Server::named("a");
    let listener = "accept_proxy_from = [\"127.0.0.0/8\"]";
    let limit = "rate = \"1/h\"\nburst = 1\naction = \"drop\"";
    let (config, address) = limiting(&server, listener, limit);
    let gateway = Gateway::start(config);
    let client = Ipv4Addr::new(192, 0, 2, 1);
    assert!(announced(address, client));
    let mut stream = connect(address).unwrap();
    let said = format!("PROXY TCP4 {client} 198.51.100.1 1 2\r\n{}", "x".repeat(9_000));
    stream.write_all(said.as_bytes()).unwrap();
    let mut rest = Vec::new();
    let ended = stream.read_to_end(&mut rest);
    assert!(ended.is_ok() && rest.is_empty(), "{ended:?}");
    drop(stream.shutdown(Shutdown::Both));
    assert_eq!(limited(&gateway, "rate"), 1.0);
}
