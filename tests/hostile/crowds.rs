//! Crowds of clients that complete the handshake of TCP, and then misbehave.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::{NAME, Site};
use crate::harness::hello::captured;
use crate::harness::tls::{finish_handshake, shake_hands};
use crate::harness::{Ending, Noise, Server, connect, ending, eventually, reset};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n";

fn raise_limit() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

/// Open files but for pipes, of which workers keep a few: the more, the more were in use at once.
fn open_files(site: &Site) -> usize {
    let files = fs::read_dir(format!("/proc/{}/fd", site.gateway.pid())).unwrap();
    let targets = files.filter_map(|file| fs::read_link(file.unwrap().path()).ok());
    targets.filter(|target| !target.to_string_lossy().starts_with("pipe:")).count()
}

/// What a client of each listener says that says it all.
fn listeners(site: &Site) -> [(&'static str, SocketAddr, Vec<u8>); 3] {
    [
        ("web", site.tls, captured("openssl-tls13")),
        ("passed", site.passed, captured("openssl-tls13")),
        ("redirect", site.redirect, REQUEST.to_vec()),
    ]
}

fn closed(site: &Site, listener: &str, reason: &str) -> f64 {
    let labels = [("listener", listener), ("reason", reason)];
    site.gateway.metric("lockgate_connections_closed_total", &labels)
}

#[test]
fn thousands_that_say_nothing_cost_a_few_kilobytes_each_and_end_in_time() {
    const CROWD: usize = 1_500;
    raise_limit();
    let server = Server::named("a");
    let site = Site::before(&server, 5);
    for (listener, address, _) in listeners(&site) {
        // Some have come before: what is kept for later is counted once.
        drop((0..100).map(|_| connect(address).unwrap()).collect::<Vec<_>>());
        site.gateway.await_idle();
        let before = site.gateway.resident_memory();
        let began = Instant::now();
        let mut crowd: Vec<_> = (0..CROWD).map(|_| connect(address).unwrap()).collect();
        let took = began.elapsed();
        site.serves("a");
        let grown = site.gateway.resident_memory().saturating_sub(before);
        let each = grown / CROWD as u64;
        eprintln!("{listener}: {each} bytes each, connected in {took:?}");
        assert!(each < 8 << 10, "{listener}: {each} bytes each");
        // What passes through goes to the pool when it says nothing; the others are ended.
        if listener == "passed" {
            crowd.into_iter().for_each(reset);
            continue;
        }
        for client in &mut crowd {
            ending(client);
        }
        eventually("all are ended in time", || {
            closed(&site, listener, "client_timeout") >= CROWD as f64
        });
        site.serves("a");
    }
}

#[test]
fn those_that_drip_are_given_no_more_time_than_others() {
    const CROWD: usize = 200;
    let server = Server::named("a");
    let site = Site::before(&server, 2);
    for (listener, address, said) in listeners(&site) {
        let before = site.gateway.resident_memory();
        let crowd: Vec<_> = (0..CROWD).map(|_| connect(address).unwrap()).collect();
        let began = Instant::now();
        for byte in said.iter().take(60) {
            for mut client in &crowd {
                // Who is thrown out hears of it when it says the next.
                let _ = client.write_all(&[*byte]);
            }
            thread::sleep(Duration::from_millis(50));
            if began.elapsed() > Duration::from_secs(3) {
                break;
            }
        }
        let grown = site.gateway.resident_memory().saturating_sub(before);
        eprintln!("{listener}: {} bytes each", grown / CROWD as u64);
        assert!(grown < 4 << 20, "{listener}: {grown} bytes for {CROWD}");
        if listener != "passed" {
            eventually("all are ended in time", || {
                closed(&site, listener, "client_timeout") >= CROWD as f64
            });
        }
        site.serves("a");
        drop(crowd);
    }
    site.gateway.await_idle();
}

/// A server that sends as much as is taken from it, and greets who asks for that.
fn endless() -> Server {
    Server::with("a", |mut stream| {
        let mut asked = [0];
        stream.set_read_timeout(Some(Duration::from_millis(300)))?;
        match stream.read(&mut asked) {
            Ok(1) => Noise::new(1).write(&mut stream, 1 << 30),
            _ => stream.write_all(b"a\n"),
        }
    })
}

#[test]
fn those_that_never_read_cost_a_buffer_each() {
    const CROWD: usize = 100;
    let server = endless();
    let site = Site::before(&server, 10);
    for tls in [false, true] {
        let files = open_files(&site);
        let before = site.gateway.resident_memory();
        let crowd: Vec<TcpStream> = (0..CROWD)
            .map(|_| match tls {
                false => {
                    let mut client = connect(site.plain).unwrap();
                    client.write_all(b"!").unwrap();
                    client
                }
                true => {
                    let mut client = shake_hands(&site.client, NAME, site.tls).unwrap();
                    client.write_all(b"!").unwrap();
                    client.flush().unwrap();
                    client.into_parts().1
                }
            })
            .collect();
        let out = || site.gateway.metric("lockgate_bytes_total", &[("direction", "out")]);
        let mut last = -1.0;
        while out() != last {
            last = out();
            thread::sleep(Duration::from_millis(500));
        }
        let grown = site.gateway.resident_memory().saturating_sub(before);
        let each = grown / CROWD as u64;
        eprintln!("tls {tls}: {each} bytes each, {last} bytes on their way");
        assert!(each < 128 << 10, "{each} bytes each");
        site.serves("a");
        crowd.into_iter().for_each(reset);
        site.gateway.await_idle();
        eventually("files are as before", || open_files(&site) <= files + 64);
    }
}

#[test]
fn resets_in_every_phase_leave_nothing() {
    const EACH: usize = 250;
    let (heard, hears) = mpsc::channel::<()>();
    let server = Server::with("a", move |mut stream| {
        let _open = &heard;
        stream.write_all(b"a\n")?;
        stream.read(&mut [0; 4096]).map(drop)
    });
    let site = Site::before(&server, 10);
    let hello = captured("openssl-tls13");
    let half = |bytes: &[u8]| bytes[..bytes.len() / 2].to_vec();
    let phases: [(&str, SocketAddr, Vec<u8>, usize); 10] = [
        ("in the clear, at once", site.plain, vec![], 0),
        ("in the clear, while it speaks", site.plain, vec![7; 50_000], 0),
        ("in the clear, when it was greeted", site.plain, vec![], 2),
        ("TLS, at once", site.tls, vec![], 0),
        ("TLS, within its hello", site.tls, half(&hello), 0),
        ("TLS, after its hello", site.tls, hello.clone(), 0),
        ("TLS, when it was answered", site.tls, hello.clone(), 100),
        ("passed through, within its hello", site.passed, half(&hello), 0),
        ("passed through, when it was greeted", site.passed, hello.clone(), 2),
        ("redirected, within its head", site.redirect, half(REQUEST), 0),
    ];
    let come = |rounds: usize| {
        for (phase, address, said, heard) in &phases {
            for _ in 0..rounds {
                let mut client = connect(*address).unwrap();
                client.write_all(said).expect(phase);
                let mut answer = vec![0; *heard];
                client.read_exact(&mut answer).expect(phase);
                reset(client);
            }
        }
        for _ in 0..rounds {
            let mut client = shake_hands(&site.client, NAME, site.tls).unwrap();
            finish_handshake(&mut client).unwrap();
            reset(client.into_parts().1);
        }
        site.gateway.await_idle();
    };
    come(EACH / 4);
    let (files, memory) = (open_files(&site), site.gateway.resident_memory());
    come(EACH);
    eventually("files are as before", || open_files(&site) <= files);
    let grown = site.gateway.resident_memory().saturating_sub(memory);
    eprintln!("{grown} bytes more after {} resets", EACH * (phases.len() + 1));
    assert!(grown < 6 << 20, "{grown} bytes more");
    assert_eq!(crate::harness::greeting(&mut connect(site.plain).unwrap()).unwrap(), "a");
    drop(hears);
}

#[test]
fn a_redirect_that_is_asked_a_byte_at_a_time_is_answered_if_it_is_in_time() {
    let server = Server::named("a");
    let site = Site::before(&server, 10);
    let mut client = connect(site.redirect).unwrap();
    client.set_nodelay(true).unwrap();
    for byte in REQUEST {
        client.write_all(&[*byte]).unwrap();
        thread::sleep(Duration::from_millis(5));
    }
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 301 "), "{answer}");
    // One that goes on talking and never ends its head is cut off by its length, before its time.
    let mut client = connect(site.redirect).unwrap();
    let mut sent = 0;
    let ended = loop {
        match client.write_all(&[b'x'; 1000]) {
            Ok(()) => sent += 1000,
            Err(error) => break error.kind(),
        }
        assert!(sent < 64 << 20, "it is still listened to");
    };
    assert!([ErrorKind::BrokenPipe, ErrorKind::ConnectionReset].contains(&ended), "{ended}");
    assert!([Ending::Fin, Ending::Reset].contains(&ending(&mut client)));
}
