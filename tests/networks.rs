//! Addresses, links and their failures, in network namespaces (see [`crate::harness::lab`]).

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use crate::harness::lab::{CLIENT, GATEWAY, LEFT, Lab, RIGHT};
use crate::harness::{
    Config, Ending, Gateway, Launch, Server, connect, ending, eventually, held, until,
    unused_address, visit,
};

const SERVICE: SocketAddr = SocketAddr::new(IpAddr::V4(GATEWAY), 80);

/// Servers of these names, each on its side of the lab.
fn servers(lab: &Lab) -> [Server; 2] {
    [("left", &lab.left, LEFT), ("right", &lab.right, RIGHT)].map(|(name, namespace, ip)| {
        namespace.run(|| Server::named_at(name, SocketAddr::new(ip.into(), 7000)))
    })
}

fn start(lab: &Lab, config: Config) -> Gateway {
    Launch::new(config).under(&lab.gateway.enter()).start()
}

#[test]
fn traffic_passes() {
    let lab = Lab::new();
    let [left, right] = servers(&lab);
    let gateway = start(&lab, Config::new(SERVICE).backend(&left, "").backend(&right, ""));
    let names = lab.client.run(|| [(); 2].map(|()| visit(SERVICE).unwrap()));
    assert!(names.contains(&"left".to_owned()) && names.contains(&"right".to_owned()));
    for record in gateway.await_records(2, "closed") {
        assert_eq!(record["client"], CLIENT.to_string());
    }
}

/// Leaves the gateway these ports to connect from.
fn ports(lab: &Lab, range: &str) {
    lab.gateway.run(|| fs::write("/proc/sys/net/ipv4/ip_local_port_range", range).unwrap());
}

#[test]
fn a_dead_server_on_a_port_that_the_kernel_gives_out_is_refused_not_met_by_itself() {
    let lab = Lab::new();
    ports(&lab, "40000 40003");
    for check in [
        r#"type = "tcp""#,
        r#"type = "send_expect", send = "PING", expect = "PING""#,
        r#"type = "http""#,
        r#"type = "tls""#,
    ] {
        for ip in [Ipv4Addr::LOCALHOST, GATEWAY] {
            let pace = r#"interval = "20ms", fast_interval = "10ms", rise = 1, fall = 60000"#;
            let config = Config::new(SERVICE)
                .pool("all_down = \"try_all\"")
                .pool(&format!("health = {{ {check}, {pace} }}"))
                .backend_at("dead", &format!("{ip}:40000"), "");
            let gateway = start(&lab, config);
            let checks = |result| {
                gateway.metric("lockgate_backend_health_checks_total", &[("result", result)])
            };
            // One check in two to four would have met itself.
            until("many checks", || (checks("failed") >= 40.0).then_some(()));
            assert_eq!(checks("passed"), 0.0, "{check}, {ip}");
            for _ in 0..20 {
                lab.client.run(|| visit(SERVICE)).unwrap_err();
            }
            let refused = gateway.await_records(20, "connect_failed");
            assert!(refused.iter().all(|record| record["bytes_out"] == 0), "{refused:?}");
            let reason = gateway.backend("dead")["reason"].as_str().unwrap().to_owned();
            assert_eq!(reason, "first check failed: connection refused");
        }
    }
}

#[test]
fn a_lack_of_ports_is_no_verdict_on_a_server() {
    let lab = Lab::new();
    let left = lab.left.run(|| {
        Server::new("left", SocketAddr::new(LEFT.into(), 7000), |mut stream| {
            writeln!(stream, "left")?;
            io::copy(&mut stream, &mut io::sink()).map(drop)
        })
    });
    ports(&lab, "40000 40007");
    let pace = r#"type = "tcp", interval = "20ms", fast_interval = "10ms", fall = 3"#;
    let config = Config::new(SERVICE).pool(&format!("health = {{ {pace} }}")).backend(&left, "");
    let gateway = start(&lab, config);
    gateway.await_state("left", "up");
    let mut open = Vec::new();
    // A check may have the last port when a connection asks for it.
    until("all ports are taken", || {
        open.extend(lab.client.run(|| held(SERVICE)).ok());
        (open.len() == 8).then_some(())
    });
    let checks =
        |result| gateway.metric("lockgate_backend_health_checks_total", &[("result", result)]);
    until("checks are tried", || (checks("inconclusive") >= 20.0).then_some(()));
    assert_eq!(checks("failed"), 0.0);
    let backend = gateway.backend("left");
    assert_eq!(
        (&backend["state"], &backend["check"]["result"]),
        (&"up".into(), &"inconclusive".into())
    );
    assert!(lab.client.run(|| held(SERVICE)).is_err(), "there is no port for it");

    let passed = checks("passed");
    ports(&lab, "40000 40099");
    until("checks pass again", || (checks("passed") > passed).then_some(()));
    assert_eq!((gateway.backend("left")["state"].clone(), checks("failed")), ("up".into(), 0.0));
}

/// From here on nothing that the gateway sends reaches this host, which says nothing of it.
fn vanish(lab: &Lab, ip: Ipv4Addr, device: &str) {
    lab.gateway
        .ip(&format!("neigh replace {ip} lladdr 02:00:00:00:00:99 dev {device} nud permanent"));
}

#[test]
fn connections_of_a_server_that_goes_down_are_reset_if_told_so() {
    let lab = Lab::new();
    let [left, right] = ["left", "right"].map(|name| {
        let (namespace, ip) = if name == "left" { (&lab.left, LEFT) } else { (&lab.right, RIGHT) };
        namespace.run(|| {
            Server::new(name, SocketAddr::new(ip.into(), 7000), move |mut stream| {
                writeln!(stream, "{name}")?;
                io::copy(&mut stream, &mut io::sink()).map(drop)
            })
        })
    });
    let check = r#"type = "tcp", interval = "500ms", fast_interval = "500ms", timeout = "500ms""#;
    let config = Config::new(SERVICE)
        .pool(&format!("health = {{ {check} }}"))
        .pool("on_down = \"reset\"\nretries = 0\nconnect_timeout = \"1m\"")
        .backend(&left, "")
        .backend(&right, "backup = true");
    let gateway = start(&lab, config);
    gateway.await_state("left", "up");
    let mut open: Vec<_> = (0..5).map(|_| lab.client.run(|| held(SERVICE)).unwrap()).collect();
    assert!(open.iter().all(|(_, name)| name == "left"));

    vanish(&lab, LEFT, "left");
    // It still counts as up: this one waits for it, and then has another, although it has no retries.
    let (mut another, name) = lab.client.run(|| held(SERVICE)).unwrap();
    assert_eq!(name, "right");
    for (stream, _) in &mut open {
        assert_eq!(ending(stream), Ending::Reset);
    }
    let records = gateway.await_records(5, "backend_down");
    assert!(records.iter().all(|record| record["backend"] == "left"), "{records:?}");
    let failures = gateway.metric("lockgate_backend_connect_failures_total", &[]);
    assert_eq!(failures, 0.0, "nothing failed but the checks");
    another.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert_eq!(another.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_server_that_vanishes_is_given_up_when_it_acknowledges_nothing() {
    let lab = Lab::new();
    let left = lab.left.run(|| {
        Server::new("left", SocketAddr::new(LEFT.into(), 7000), |mut stream| {
            writeln!(stream, "left")?;
            io::copy(&mut stream, &mut io::sink()).map(drop)
        })
    });
    let config = Config::new(SERVICE).pool("user_timeout = \"2s\"").backend(&left, "");
    let gateway = start(&lab, config);
    let (mut client, _) = lab.client.run(|| held(SERVICE)).unwrap();
    let (mut silent, _) = lab.client.run(|| held(SERVICE)).unwrap();
    vanish(&lab, LEFT, "left");
    client.write_all(b"hello?").unwrap();
    assert_eq!(ending(&mut client), Ending::Reset);
    assert_eq!(gateway.await_records(1, "backend_reset")[0]["backend"], "left");
    // Nothing was sent for this one, so nothing is known.
    silent.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert_eq!(silent.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_client_that_vanishes_is_given_up_where_the_listener_says_so() {
    let lab = Lab::new();
    let left = lab.left.run(|| {
        Server::new("left", SocketAddr::new(LEFT.into(), 7000), |mut stream| {
            loop {
                writeln!(stream, "left")?;
                thread::sleep(Duration::from_millis(50));
            }
        })
    });
    let config = Config::new(SERVICE).listener("user_timeout = \"2s\"").backend(&left, "");
    let gateway = start(&lab, config);
    let (_client, _) = lab.client.run(|| held(SERVICE)).unwrap();
    vanish(&lab, CLIENT, "wan");
    gateway.await_records(1, "client_reset");
    eventually("the server is let go", || left.open() == 0);
}

#[test]
fn a_server_that_reads_nothing_for_long_is_not_given_up() {
    const BYTES: usize = 32 << 20;
    let (go, gone) = mpsc::channel::<()>();
    let gone = Mutex::new(gone);
    let server = Server::with("slow", move |mut stream| {
        gone.lock().unwrap().recv().unwrap();
        let read = io::copy(&mut stream, &mut io::sink())?;
        writeln!(stream, "{read}")
    });
    let address = unused_address();
    let timeouts = "user_timeout = \"1s\"";
    let config = Config::new(address).listener(timeouts).pool(timeouts).backend(&server, "");
    let gateway = Gateway::start(config);
    let mut client = connect(address).unwrap();
    let mut sending = client.try_clone().unwrap();
    let sender = thread::spawn(move || {
        sending.write_all(&vec![7; BYTES])?;
        sending.shutdown(Shutdown::Write)
    });
    // Several times the timeout: the window is closed, and probes of it are answered.
    thread::sleep(Duration::from_secs(6));
    assert!(gateway.records().is_empty(), "{:?}", gateway.records());
    go.send(()).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer.trim(), BYTES.to_string());
    sender.join().unwrap().unwrap();
}

#[test]
fn an_address_may_come_after_the_start() {
    let lab = Lab::new();
    let [left, right] = servers(&lab);
    let floating = SocketAddr::new(Ipv4Addr::new(10, 1, 0, 100).into(), 80);
    let _gateway = start(&lab, Config::new(floating).backend(&left, "").backend(&right, ""));
    lab.gateway.ip(&format!("addr add {}/24 dev wan", floating.ip()));
    assert!(lab.client.run(|| visit(floating)).is_ok());
    lab.gateway.ip(&format!("addr del {}/24 dev wan", floating.ip()));
    lab.gateway.ip(&format!("addr add {}/24 dev wan", floating.ip()));
    assert!(lab.client.run(|| visit(floating)).is_ok());
}

#[test]
fn connections_leave_from_the_configured_source() {
    let lab = Lab::new();
    let source = Ipv4Addr::new(10, 2, 0, 77);
    lab.gateway.ip(&format!("addr add {source}/24 dev left"));
    let server = lab.left.run(|| {
        Server::new("left", SocketAddr::new(LEFT.into(), 7000), |mut stream| {
            writeln!(stream, "{}", stream.peer_addr()?.ip())
        })
    });
    let config = Config::new(SERVICE).pool(&format!("source = \"{source}\""));
    let _gateway = start(&lab, config.backend(&server, ""));
    let seen = lab.client.run(|| held(SERVICE).unwrap().1);
    assert_eq!(seen, source.to_string());
}

#[test]
fn a_backend_that_is_cut_off_is_left_for_another() {
    let lab = Lab::new();
    let [left, right] = servers(&lab);
    let config = Config::new(SERVICE)
        .pool(r#"connect_timeout = "300ms""#)
        .pool(r#"passive = { max_fails = 2, eject_for = "1h" }"#)
        .backend(&left, "")
        .backend(&right, "");
    let gateway = start(&lab, config);
    let visit = || lab.client.run(|| visit(SERVICE).unwrap());
    // From here on SYNs to the left vanish: nobody refuses them.
    lab.left.ip("link set eth0 down");

    for _ in 0..6 {
        assert_eq!(visit(), "right");
    }
    eventually("the left is ejected", || gateway.backend("left")["state"] == "ejected");
    // One may come between the second failure and what follows from it.
    let retries = gateway.metric("lockgate_retries_total", &[("pool", "app")]);
    assert!((2.0..=3.0).contains(&retries), "{retries}");
    let labels = [("backend", "left"), ("reason", "timeout")];
    assert!(gateway.metric("lockgate_backend_connect_failures_total", &labels) >= 1.0);
    let slowest = gateway
        .await_records(6, "closed")
        .iter()
        .map(|record| record["connect_ms"].as_f64().unwrap())
        .fold(0.0, f64::max);
    assert!(slowest >= 300.0, "{slowest}");
}

#[test]
fn a_client_that_is_cut_off_is_given_up() {
    let lab = Lab::new();
    let [left, right] = servers(&lab);
    let config = Config::new(SERVICE)
        .listener(r#"idle_timeout = "500ms""#)
        .backend(&left, "")
        .backend(&right, "");
    let gateway = start(&lab, config);
    let open: Vec<_> = lab.client.run(|| (0..10).map(|_| held(SERVICE).unwrap()).collect());
    lab.client.ip("link set eth0 down");

    gateway.await_records(10, "idle_timeout");
    gateway.await_idle();
    eventually("the servers know", || left.open() + right.open() == 0);
    drop(open);
}
