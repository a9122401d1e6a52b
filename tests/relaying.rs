//! Bytes, and the ends of them: what one side says is what the other side hears.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use socket2::{Domain, SockRef, Socket, Type};

use crate::harness::{
    Config, Ending, Gateway, Noise, PATIENCE, Server, connect, ending, eventually, free_port, held,
    reset, until, unused_address, visit,
};

const MIB: usize = 1 << 20;

/// A gateway at its defaults before one server.
fn before(server: &Server) -> (Gateway, SocketAddr) {
    let address = unused_address();
    (Gateway::start(Config::new(address).backend(server, "")), address)
}

#[test]
fn a_request_is_heard_to_its_end_before_the_answer() {
    let server = Server::with("server", |mut stream| {
        let request = Noise::new(1).read_to_end(&mut stream)?;
        assert_eq!(request, 3 * MIB);
        Noise::new(2).write(&mut stream, MIB)
    });
    let (gateway, address) = before(&server);

    let mut client = connect(address).unwrap();
    Noise::new(1).write(&mut client, 3 * MIB).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(Noise::new(2).read_to_end(&mut client).unwrap(), MIB);

    let record = gateway.record_of(client.local_addr().unwrap());
    assert_eq!(record["reason"], "closed");
    assert_eq!((&record["bytes_in"], &record["bytes_out"]), (&(3 * MIB).into(), &MIB.into()));
}

#[test]
fn both_sides_talk_at_once() {
    const LENGTH: usize = 20 * MIB;
    /// Sends one stream while it receives the other.
    fn converse(mut stream: TcpStream, mine: u64, theirs: u64) -> io::Result<usize> {
        let mut sending = stream.try_clone()?;
        thread::scope(|scope| {
            let sender = scope.spawn(move || {
                Noise::new(mine).write(&mut sending, LENGTH)?;
                sending.shutdown(Shutdown::Write)
            });
            let received = Noise::new(theirs).read_to_end(&mut stream)?;
            sender.join().unwrap()?;
            Ok(received)
        })
    }
    let (heard, server_heard) = mpsc::channel();
    let server = Server::with("server", move |stream| {
        heard.send(converse(stream, 1, 2)?).map_err(io::Error::other)
    });
    let (_gateway, address) = before(&server);

    assert_eq!(converse(connect(address).unwrap(), 2, 1).unwrap(), LENGTH);
    assert_eq!(server_heard.recv_timeout(PATIENCE).unwrap(), LENGTH);
}

#[test]
fn the_server_may_speak_first() {
    let server = Server::with("smtp", |mut stream| {
        stream.write_all(b"220 hello\r\n")?;
        let mut command = [0; 6];
        stream.read_exact(&mut command)?;
        assert_eq!(&command, b"QUIT\r\n");
        stream.write_all(b"221 bye\r\n")
    });
    let (_gateway, address) = before(&server);

    let mut client = connect(address).unwrap();
    let mut greeting = [0; 11];
    client.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"220 hello\r\n");
    client.write_all(b"QUIT\r\n").unwrap();
    let mut bye = String::new();
    client.read_to_string(&mut bye).unwrap();
    assert_eq!(bye, "221 bye\r\n");
}

#[test]
fn a_client_that_has_finished_still_hears() {
    let server = Server::with("server", |mut stream| {
        // The answer begins only once the client's FIN is here.
        io::copy(&mut stream, &mut io::sink())?;
        for number in 0..100 {
            writeln!(stream, "{number}")?;
        }
        Ok(())
    });
    let (_gateway, address) = before(&server);

    let mut client = connect(address).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer.lines().last(), Some("99"));
}

#[test]
fn a_server_that_has_finished_still_hears() {
    let (heard, server_heard) = mpsc::channel();
    let server = Server::with("server", move |mut stream| {
        stream.shutdown(Shutdown::Write)?;
        heard.send(Noise::new(1).read_to_end(&mut stream)?).map_err(io::Error::other)
    });
    let (gateway, address) = before(&server);

    let mut client = connect(address).unwrap();
    // The server's FIN comes first.
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    Noise::new(1).write(&mut client, MIB).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(server_heard.recv_timeout(PATIENCE).unwrap(), MIB);
    assert_eq!(gateway.record_of(client.local_addr().unwrap())["reason"], "closed");
}

#[test]
fn a_reset_by_the_server_resets_the_client() {
    let server = Server::with("server", |mut stream| {
        stream.read_exact(&mut [0])?;
        reset(stream);
        Ok(())
    });
    let (gateway, address) = before(&server);

    let mut client = connect(address).unwrap();
    client.write_all(b"x").unwrap();
    assert_eq!(ending(&mut client), Ending::Reset);
    let record = gateway.record_of(client.local_addr().unwrap());
    assert_eq!(record["reason"], "backend_reset");
}

#[test]
fn a_reset_by_the_client_resets_the_server() {
    let (heard, server_heard) = mpsc::channel();
    let server = Server::with("server", move |mut stream| {
        stream.write_all(b"x")?;
        heard.send(ending(&mut stream)).map_err(io::Error::other)
    });
    let (gateway, address) = before(&server);

    let mut client = connect(address).unwrap();
    client.read_exact(&mut [0]).unwrap();
    let name = client.local_addr().unwrap();
    reset(client);
    assert_eq!(server_heard.recv_timeout(PATIENCE).unwrap(), Ending::Reset);
    assert_eq!(gateway.record_of(name)["reason"], "client_reset");
}

#[test]
fn bytes_before_a_reset_arrive() {
    let (go, told) = mpsc::channel();
    let told = Mutex::new(told);
    let server = Server::with("server", move |mut stream| {
        stream.write_all(b"last words")?;
        told.lock().unwrap().recv_timeout(PATIENCE).map_err(io::Error::other)?;
        reset(stream);
        Ok(())
    });
    let (_gateway, address) = before(&server);

    let mut client = connect(address).unwrap();
    let mut words = [0; 10];
    client.read_exact(&mut words).unwrap();
    assert_eq!(&words, b"last words");
    go.send(()).unwrap();
    assert_eq!(ending(&mut client), Ending::Reset);
}

#[test]
fn a_reset_that_comes_together_with_bytes_is_no_end_of_them() {
    let (go, told) = mpsc::channel();
    let told = Mutex::new(told);
    let (seen, endings) = mpsc::channel();
    let server = Server::with("server", move |mut stream| {
        stream.write_all(b"first\n")?;
        let told = told.lock().unwrap().recv_timeout(PATIENCE);
        let ended = if told.map_err(io::Error::other)? {
            stream.write_all(b"last words")?;
            reset(stream);
            Ending::Reset
        } else {
            ending(&mut stream)
        };
        seen.send(ended).map_err(io::Error::other)
    });
    let (gateway, address) = before(&server);
    for (server_breaks, reason) in [(true, "backend_reset"), (false, "client_reset")] {
        let (mut client, _) = held(address).unwrap();
        let name = client.local_addr().unwrap();
        // It has seen neither when it sees both.
        gateway.signal(Signal::SIGSTOP);
        go.send(server_breaks).unwrap();
        if server_breaks {
            assert_eq!(endings.recv_timeout(PATIENCE).unwrap(), Ending::Reset);
            gateway.signal(Signal::SIGCONT);
            let mut words = [0; 10];
            client.read_exact(&mut words).unwrap();
            assert_eq!(&words, b"last words");
            assert_eq!(ending(&mut client), Ending::Reset);
        } else {
            client.write_all(b"last words").unwrap();
            reset(client);
            gateway.signal(Signal::SIGCONT);
            assert_eq!(endings.recv_timeout(PATIENCE).unwrap(), Ending::Reset);
        }
        assert_eq!(gateway.record_of(name)["reason"], reason);
    }
}

#[test]
fn silence_ends_a_connection() {
    let server = Server::named("server");
    let address = unused_address();
    let config = Config::new(address).listener(r#"idle_timeout = "500ms""#).backend(&server, "");
    let gateway = Gateway::start(config);

    let (mut client, _) = held(address).unwrap();
    assert_eq!(ending(&mut client), Ending::Reset);
    let record = gateway.record_of(client.local_addr().unwrap());
    assert_eq!(record["reason"], "idle_timeout");
    assert!(record["duration_ms"].as_f64().unwrap() >= 500.0, "{record}");
    eventually("the server's side has ended too", || server.open() == 0);
}

#[test]
fn a_connection_with_a_byte_now_and_then_is_not_silent() {
    let server = Server::echo();
    let address = unused_address();
    let config = Config::new(address).listener(r#"idle_timeout = "2s""#).backend(&server, "");
    let gateway = Gateway::start(config);

    let mut client = connect(address).unwrap();
    // Twice the timeout in all, in steps that are far below it.
    for _ in 0..20 {
        thread::sleep(Duration::from_millis(200));
        client.write_all(b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();
    }
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(ending(&mut client), Ending::Fin);
    assert_eq!(gateway.record_of(client.local_addr().unwrap())["reason"], "closed");
}

#[test]
fn silence_of_one_side_after_the_end_of_the_other_ends_a_connection_sooner() {
    let (let_go, told) = mpsc::channel();
    let server = Server::deaf(told);
    let address = unused_address();
    let config =
        Config::new(address).listener(r#"half_close_timeout = "300ms""#).backend(&server, "");
    let gateway = Gateway::start(config);

    let mut client = connect(address).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(ending(&mut client), Ending::Reset);
    let record = gateway.record_of(client.local_addr().unwrap());
    assert_eq!(record["reason"], "half_close_timeout");
    drop(let_go);
}

#[test]
fn clients_that_never_read_cost_little_memory_and_nobody_else_notices() {
    let (heard, sent) = mpsc::channel();
    // Sends until nobody takes any more.
    let source = Server::with("source", move |mut stream| {
        stream.set_write_timeout(Some(Duration::from_secs(1)))?;
        let chunk = vec![0; 64 << 10];
        let mut total = 0;
        while let Ok(written) = stream.write(&chunk) {
            total += written;
        }
        heard.send(total).map_err(io::Error::other)?;
        io::copy(&mut stream, &mut io::sink()).map(drop)
    });
    let (gateway, address) = before(&source);
    let before = gateway.resident_memory();

    const CLIENTS: usize = 40;
    let _deaf: Vec<_> = (0..CLIENTS).map(|_| connect(address).unwrap()).collect();
    for _ in 0..CLIENTS {
        let total = sent.recv_timeout(PATIENCE).unwrap();
        // Socket buffers and pipes of the kernel; a gateway that took what it cannot hand on
        // would never stop.
        assert!(total < 64 * MIB, "a server sent {total} bytes to nobody");
    }
    let grown = gateway.resident_memory().saturating_sub(before);
    assert!(grown < 16 * MIB as u64, "memory has grown by {grown} bytes");

    let mut reader = connect(address).unwrap();
    let mut received = vec![0; 4 * MIB];
    reader.read_exact(&mut received).unwrap();
}

#[test]
fn a_slow_reader_gets_every_byte() {
    const LENGTH: usize = 8 * MIB;
    let server = Server::with("server", |mut stream| Noise::new(1).write(&mut stream, LENGTH));
    let (_gateway, address) = before(&server);

    /// Takes a breath before every read.
    struct Slow(TcpStream);
    impl Read for Slow {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            thread::sleep(Duration::from_millis(2));
            self.0.read(buffer)
        }
    }
    let client = connect(address).unwrap();
    SockRef::from(&client).set_recv_buffer_size(16 << 10).unwrap();
    assert_eq!(Noise::new(1).read_to_end(&mut Slow(client)).unwrap(), LENGTH);
}

#[test]
fn many_bulk_streams_do_not_mix() {
    const LENGTH: usize = 4 * MIB;
    let server = Server::echo();
    let (gateway, address) = before(&server);

    thread::scope(|scope| {
        for seed in 0..64 {
            scope.spawn(move || {
                let noise = Noise::new(seed);
                let mut client = connect(address).unwrap();
                let mut sending = client.try_clone().unwrap();
                thread::scope(|scope| {
                    scope.spawn(|| {
                        noise.write(&mut sending, LENGTH).unwrap();
                        sending.shutdown(Shutdown::Write).unwrap();
                    });
                    assert_eq!(noise.read_to_end(&mut client).unwrap(), LENGTH);
                });
            });
        }
    });
    gateway.await_idle();
    let total = (64 * LENGTH) as f64;
    for direction in ["in", "out"] {
        let labels = [("listener", "web"), ("direction", direction)];
        assert_eq!(gateway.metric("lockgate_bytes_total", &labels), total);
    }
}

#[test]
fn clients_that_come_and_go_leave_nothing_behind() {
    let server = Server::echo();
    let (gateway, address) = before(&server);
    for number in 0..200 {
        let client = connect(address).unwrap();
        match number % 2 {
            0 => drop(client),
            _ => reset(client),
        }
    }
    eventually("all have been accepted", || {
        gateway.metric("lockgate_connections_total", &[("listener", "web")]) == 200.0
    });
    gateway.await_idle();
    eventually("all have ended at the server", || server.open() == 0);
}

#[test]
fn bytes_mean_nothing_to_the_gateway() {
    let server = Server::echo();
    let (gateway, address) = before(&server);
    let garbage: [&[u8]; 5] = [
        b"",
        b"\0",
        b"\x16\x03\x01\xff\xff\x01",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1\r\n",
        &[0xff; 10_000],
    ];
    for bytes in garbage {
        let mut client = connect(address).unwrap();
        client.write_all(bytes).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut echo = Vec::new();
        client.read_to_end(&mut echo).unwrap();
        assert!(echo == bytes, "{} bytes came back for {}", echo.len(), bytes.len());
    }
    gateway.await_idle();
}

#[test]
fn ipv6_on_both_sides() {
    let ip = "::1".parse().unwrap();
    let server = Server::named_at("six", free_port(ip));
    let address = free_port(ip);
    let gateway = Gateway::start(Config::new(address).backend(&server, ""));

    let (client, name) = held(address).unwrap();
    assert_eq!(name, "six");
    let local = client.local_addr().unwrap();
    drop(client);
    assert_eq!(gateway.record_of(local)["client"], "::1");
}

#[test]
fn connections_are_spread_over_workers() {
    let server = Server::named("server");
    let address = unused_address();
    let config = Config::new(address).runtime("workers = 8").backend(&server, "");
    let gateway = Gateway::start(config);

    let open: Vec<_> = (0..200).map(|_| held(address).unwrap()).collect();
    let of = |worker: usize| {
        gateway.metric("lockgate_worker_connections_active", &[("worker", &worker.to_string())])
    };
    let shares: Vec<f64> = (0..8).map(of).collect();
    assert_eq!(shares.iter().sum::<f64>(), 200.0);
    // The kernel alone, which hashes, would also do worse than this now and then.
    assert!(shares.iter().all(|&share| share <= 50.0), "{shares:?}");
    drop(open);
    gateway.await_idle();
}

#[test]
fn a_server_that_dies_resets_only_its_own_clients() {
    let (crash, told) = mpsc::channel::<()>();
    let told = Mutex::new(told);
    let frail = Server::with("frail", move |mut stream| {
        stream.write_all(b"frail\n")?;
        // Until the test drops the other end.
        let _ = told.lock().unwrap().recv_timeout(PATIENCE);
        reset(stream);
        Ok(())
    });
    let sound = Server::named("sound");
    let address = unused_address();
    let gateway = Gateway::start(Config::new(address).backend(&frail, "").backend(&sound, ""));

    let mut open: Vec<_> = (0..10).map(|_| held(address).unwrap()).collect();
    drop(crash);
    for (client, name) in &mut open {
        if name == "frail" {
            assert_eq!(ending(client), Ending::Reset);
        }
    }
    gateway.await_records(5, "backend_reset");
    for (client, name) in &mut open {
        if name == "sound" {
            client.set_nonblocking(true).unwrap();
            let kind = client.read(&mut [0]).unwrap_err().kind();
            assert_eq!(kind, ErrorKind::WouldBlock);
        }
    }
    let next = until("the sound one goes on", || visit(address).ok());
    assert!(["sound", "frail"].contains(&next.as_str()));
}

/// Urgent data ends a read early, and a splice as if the stream had ended: nothing behind it may
/// wait for more to come, or be lost.
#[test]
fn what_follows_urgent_data_arrives() {
    let (heard, server_heard) = mpsc::channel();
    let server = Server::with("server", move |mut stream| {
        let mut bytes = Vec::new();
        let mut some = [0; 65_536];
        loop {
            match stream.read(&mut some)? {
                0 => break,
                received => bytes.extend_from_slice(&some[..received]),
            }
            if bytes == b"aaaacccc" {
                stream.write_all(b"seen")?;
            }
        }
        heard.send(bytes.len()).map_err(io::Error::other)
    });
    let (_gateway, address) = before(&server);

    let mut client = connect(address).unwrap();
    client.write_all(b"aaaa").unwrap();
    SockRef::from(&client).send_out_of_band(b"!").unwrap();
    client.write_all(b"cccc").unwrap();
    let mut answer = [0; 4];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"seen");
    drop(client);
    assert_eq!(server_heard.recv_timeout(PATIENCE).unwrap(), 8);

    for _ in 0..5 {
        let mut client = connect(address).unwrap();
        client.write_all(&vec![1; 3 * MIB]).unwrap();
        SockRef::from(&client).send_out_of_band(b"!").unwrap();
        client.write_all(&vec![2; 300_000]).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(server_heard.recv_timeout(PATIENCE).unwrap(), 3 * MIB + 300_000);
    }
}

#[test]
fn a_client_that_gives_up_on_a_stuck_server_is_noticed() {
    let (let_go, waits) = mpsc::channel();
    let server = Server::deaf(waits);
    let (gateway, address) = before(&server);

    let mut client = connect(address).unwrap();
    let source = client.local_addr().unwrap();
    client.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    while client.write_all(&vec![1; MIB]).is_ok() {}
    reset(client);
    // Long before the idle timeout of an hour.
    assert_eq!(gateway.record_of(source)["reason"], "client_reset");
    drop(let_go);
}

#[test]
fn a_reset_after_fin_is_noticed_while_the_server_thinks() {
    let (let_go, waits) = mpsc::channel();
    let server = Server::deaf(waits);
    let (gateway, address) = before(&server);

    let client = connect(address).unwrap();
    let source = client.local_addr().unwrap();
    eventually("the server has it", || server.accepted() == 1);
    client.shutdown(Shutdown::Write).unwrap();
    thread::sleep(Duration::from_millis(100));
    reset(client);
    assert_eq!(gateway.record_of(source)["reason"], "client_reset");
    drop(let_go);
}

/// A splice says at the mark that there is nothing, and no event comes for what lies behind it.
#[test]
fn what_follows_urgent_data_in_bulk_is_not_kept_waiting() {
    const BURSTS: usize = 8;
    const BURST: usize = 400_000;
    const TAIL: usize = 5_000;
    let server = Server::with("server", |mut stream| {
        stream.read_exact(&mut vec![0; (BURSTS + 1) * BURST + TAIL])?;
        stream.write_all(b"all")?;
        io::copy(&mut stream, &mut io::sink()).map(drop)
    });
    let (_gateway, address) = before(&server);

    let mut client = connect(address).unwrap();
    for _ in 0..BURSTS {
        client.write_all(&[1; BURST]).unwrap();
    }
    client.write_all(&[2; BURST]).unwrap();
    SockRef::from(&client).send_out_of_band(b"!").unwrap();
    client.write_all(&[3; TAIL]).unwrap();
    let mut answer = [0; 3];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"all");
}

/// Connects with a small receive buffer, so that what is not read stays in the gateway's kernel.
fn narrow(to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    socket.connect(&to.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Reads to the end in small sips; how many bytes came, and whether the end was in order.
fn sip(client: &mut TcpStream, size: usize) -> (usize, bool) {
    let (mut sum, mut buffer) = (0, vec![0; size]);
    loop {
        match client.read(&mut buffer) {
            Ok(0) => return (sum, true),
            Ok(count) => sum += count,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return (sum, false),
            Err(error) => panic!("neither FIN nor RST: {error}"),
        }
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_client_that_reads_slowly_is_not_silent() {
    const ALL: usize = 2 * MIB;
    let server = Server::with("server", |mut stream| stream.write_all(&vec![7; ALL]));
    let address = unused_address();
    let config = Config::new(address).listener(r#"half_close_timeout = "1s""#);
    let _gateway = Gateway::start(config.backend(&server, ""));
    // For well above a second after the server's end.
    assert_eq!(sip(&mut narrow(address), 16 << 10), (ALL, true));
}

#[test]
fn what_was_delivered_before_a_reset_is_delivered() {
    let server = Server::with("server", |mut stream| {
        stream.write_all(&vec![7; 2 * MIB])?;
        thread::sleep(Duration::from_millis(300));
        reset(stream);
        Ok(())
    });
    let (gateway, address) = before(&server);
    let mut client = narrow(address);
    let source = client.local_addr().unwrap();
    thread::sleep(Duration::from_millis(600));
    let (received, in_order) = sip(&mut client, 64 << 10);
    assert!(!in_order, "a reset is passed on as a reset");
    let record = gateway.record_of(source);
    assert_eq!(record["reason"], "backend_reset");
    assert_eq!(record["bytes_out"], received);
}

/// A server that sends so much, and then FIN.
fn source(length: usize) -> Server {
    Server::with("server", move |mut stream| {
        stream.write_all(&vec![7; length])?;
        stream.shutdown(Shutdown::Write)?;
        io::copy(&mut stream, &mut io::sink()).map(drop)
    })
}

#[test]
fn a_client_that_has_not_got_to_the_end_is_not_half_closed() {
    const ALL: usize = 1_500_000;
    let server = source(ALL);
    let address = unused_address();
    let config = Config::new(address).listener(r#"half_close_timeout = "1s""#);
    let gateway = Gateway::start(config.backend(&server, ""));
    let mut client = narrow(address);
    let name = client.local_addr().unwrap();
    client.read_exact(&mut [0; 12_288]).unwrap();
    // For several times the timeout nothing moves.
    thread::sleep(Duration::from_secs(4));
    assert_eq!(sip(&mut client, 64 << 10), (ALL - 12_288, true));
    drop(client);
    let record = gateway.record_of(name);
    assert_eq!((&record["reason"], &record["bytes_out"]), (&"closed".into(), &ALL.into()));
}

#[test]
fn what_a_client_has_not_taken_is_not_recorded_as_delivered() {
    let server = source(1_500_000);
    let address = unused_address();
    let timeouts = "half_close_timeout = \"1s\"\nidle_timeout = \"1s\"";
    let config = Config::new(address).listener(timeouts);
    let gateway = Gateway::start(config.backend(&server, ""));
    let mut client = narrow(address);
    let name = client.local_addr().unwrap();
    let record = gateway.record_of(name);
    assert_eq!(record["reason"], "idle_timeout", "{record}");
    let (received, in_order) = sip(&mut client, 64 << 10);
    assert!(!in_order);
    assert!(received < 1_000_000, "{received} bytes are more than the client has room for");
    assert_eq!(record["bytes_out"], received, "{record}");
}
