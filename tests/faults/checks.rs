//! Backends that answer health checks with anything but an answer. The verdict is right, the memory
//! of the checks is bounded, and the control plane has time for others.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Config, Launch, Noise, Server, unused_address, visit};

/// Backends of each kind: their checks run at the same time.
const EACH: usize = 8;

/// What the memory of the gateway may grow by. Without a bound, what these servers send in the two
/// seconds of a check would be a hundred times that.
const ROOM: u64 = 32 << 20;

const PACE: &str = "interval = \"300ms\", fast_interval = \"100ms\", timeout = \"2s\", fall = 1";

fn ask(stream: &mut TcpStream) -> io::Result<()> {
    let mut byte = [0];
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(())
}

/// Gives so many servers of this kind, and runs a gateway that checks them by HTTP; expects them to
/// be found `verdict`, for a cause with this text in it.
fn found(
    check: &str,
    verdict: &str,
    cause: &str,
    answer: impl Fn(TcpStream) -> io::Result<()> + Clone + Send + Sync + 'static,
) {
    let address = unused_address();
    let well = Server::named("well");
    let servers: Vec<_> =
        (0..EACH).map(|number| Server::with(&format!("s{number}"), answer.clone())).collect();
    let config = Config::new(address).pool(&format!("health = {{ {check}, {PACE} }}"));
    let config = servers.iter().fold(config, |config, server| config.backend(server, ""));
    // Somebody else's listener, which must not notice.
    let other = unused_address();
    let others = format!(
        "[[listener]]\nname = \"other\"\nbind = \"{other}\"\npool = \"other\"\n\
         [[pool.other.backend]]\naddress = \"{}\"\n",
        well.address()
    );
    let gateway = Launch::new(format!("{config}{others}")).start_unready();
    let reason = gateway.await_state("s0", verdict)["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains(cause), "{reason:?} does not have {cause:?}");
    let before = gateway.resident_memory();
    let (began, mut slowest) = (Instant::now(), Duration::ZERO);
    let (mut most, mut visits) = (before, 0);
    while began.elapsed() < Duration::from_secs(4) {
        let asked = Instant::now();
        gateway.status();
        slowest = slowest.max(asked.elapsed());
        assert_eq!(visit(other).unwrap(), "well");
        most = most.max(gateway.resident_memory());
        visits += 1;
    }
    eprintln!("{verdict} ({reason}): +{} KiB, {slowest:?}, {visits} visits", (most - before) >> 10);
    assert!(most < before + ROOM, "from {before} to {most} bytes");
    assert!(slowest < Duration::from_secs(5), "a status took {slowest:?}");
    for number in 0..EACH {
        gateway.await_state(&format!("s{number}"), verdict);
    }
    let checks = gateway.metric("lockgate_backend_health_checks_total", &[]);
    assert!(checks >= EACH as f64, "only {checks} checks");
}

const HTTP: &str = "type = \"http\"";

#[test]
fn noise_is_no_answer() {
    found(HTTP, "down", "HTTP", |mut stream| {
        ask(&mut stream)?;
        Noise::new(1).write(&mut stream, 1 << 20)
    });
}

#[test]
fn endless_headers_are_cut_off() {
    found(HTTP, "down", "HTTP", |mut stream| {
        ask(&mut stream)?;
        write!(stream, "HTTP/1.1 200 OK\r\n")?;
        loop {
            write!(stream, "X-Endless: {}\r\n", "x".repeat(1000))?;
        }
    });
}

#[test]
fn one_endless_header_is_cut_off() {
    found(HTTP, "down", "HTTP", |mut stream| {
        ask(&mut stream)?;
        write!(stream, "HTTP/1.1 200 OK\r\nX-Endless: ")?;
        loop {
            stream.write_all(&[b'x'; 4096])?;
        }
    });
}

#[test]
fn a_body_of_ten_megabytes_is_not_read() {
    found(HTTP, "up", "", |mut stream| {
        ask(&mut stream)?;
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 10 << 20)?;
        Noise::new(1).write(&mut stream, 10 << 20)
    });
}

#[test]
fn http_0_9_is_no_answer() {
    found(HTTP, "down", "HTTP", |mut stream| {
        ask(&mut stream)?;
        writeln!(stream, "<html>I am well.</html>")
    });
}

#[test]
fn an_answer_that_drips_comes_too_late() {
    found(HTTP, "down", "no answer within 2s", |mut stream| {
        ask(&mut stream)?;
        for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" {
            stream.write_all(&[*byte])?;
            thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    });
}

#[test]
fn a_storm_of_early_hints_is_no_answer() {
    found(HTTP, "down", "HTTP", |mut stream| {
        ask(&mut stream)?;
        let storm = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(100);
        loop {
            stream.write_all(storm.as_bytes())?;
        }
    });
}

#[test]
fn noise_is_no_handshake() {
    found("type = \"tls\"", "down", "TLS", |mut stream| Noise::new(1).write(&mut stream, 1 << 20));
}

#[test]
fn noise_is_not_what_is_expected() {
    let check = "type = \"send_expect\", send = \"PING\", expect = \"PONG\"";
    found(check, "down", "unexpected answer", |mut stream| {
        Noise::new(1).write(&mut stream, 1 << 20)
    });
}
