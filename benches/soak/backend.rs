//! Backends: processes of this program, so that they can be killed and paused for real.
//!
//! Each listens on three ports of its address: in the clear, with TLS, and for health checks. It
//! greets with its name, and then does what each request says: receive so many bytes, which it
//! checks, and send so many. Lines on its standard input tell it to misbehave; when that ends, so does
//! the process.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::Server;
use crate::harness::behind::{close_notify, offering, serve_tls};
use crate::harness::tls::Authority;
use crate::noise;

/// In the clear, with TLS, for health checks.
pub const PORTS: [u16; 3] = [7000, 7001, 7002];

/// A request: bytes there, bytes back, and where their stream begins.
pub const REQUEST: usize = 16;

/// What a backend says when all the bytes of a request were the right ones.
pub const WELL: u8 = b'K';

/// How health checks may be answered.
pub const ANSWERS: [&str; 8] = [
    "well",
    "noise",
    "endless headers",
    "ten megabytes",
    "HTTP/0.9",
    "dripping",
    "a storm of 1xx",
    "silence",
];

/// A backend, as the soak sees it.
pub struct Backend {
    pub name: String,
    pub ip: Ipv4Addr,
    child: Child,
    orders: Option<ChildStdin>,
}

impl Backend {
    /// Starts one and waits until it listens.
    pub fn start(name: &str, ip: Ipv4Addr) -> io::Result<Self> {
        let (child, orders) = spawn(name, ip)?;
        Ok(Self { name: name.to_owned(), ip, child, orders: Some(orders) })
    }

    /// Kills it.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts it again.
    pub fn restart(&mut self) -> io::Result<()> {
        let (child, orders) = spawn(&self.name, self.ip)?;
        (self.child, self.orders) = (child, Some(orders));
        Ok(())
    }

    /// Stops it, or lets it go on.
    pub fn pause(&self, paused: bool) -> io::Result<()> {
        let signal = if paused { Signal::SIGSTOP } else { Signal::SIGCONT };
        Ok(kill(Pid::from_raw(self.child.id() as i32), signal)?)
    }

    /// `close` (its listening sockets), `open`, or a number of [`ANSWERS`].
    pub fn tell(&mut self, order: &str) -> io::Result<()> {
        let orders = self.orders.as_mut().ok_or(ErrorKind::BrokenPipe)?;
        writeln!(orders, "{order}")
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.kill();
    }
}

fn spawn(name: &str, ip: Ipv4Addr) -> io::Result<(Child, ChildStdin)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--backend", name, &ip.to_string()]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut said = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut said)?;
    if said != "ready\n" {
        let _ = child.kill();
        return Err(io::Error::other(format!("backend {name} does not start: {said:?}")));
    }
    let orders = child.stdin.take().unwrap();
    Ok((child, orders))
}

/// What the process does that is a backend.
pub fn run(name: &str, ip: Ipv4Addr) -> ExitCode {
    let [plain, sealed, health] = PORTS.map(|port| SocketAddr::new(ip.into(), port));
    let names: [Arc<str>; 2] = [name.into(), name.into()];
    let [one, other] = names;
    let answer = Arc::new(AtomicU8::new(0));
    let answered = Arc::clone(&answer);
    let issued = Authority::new("backends").issue(&[name]);
    let mut servers = [
        Server::new(name, plain, move |stream| {
            prepare(&stream)?;
            serve(stream, &one, |stream| stream.shutdown(Shutdown::Write))
        }),
        serve_tls(name, sealed, offering(&issued, rustls::ALL_VERSIONS), move |stream| {
            prepare(&stream.sock)?;
            serve(stream, &other, close_notify)
        }),
        Server::new(name, health, move |stream| {
            check(stream, answered.load(Ordering::Relaxed).into())
        }),
    ];
    println!("ready");
    for line in io::stdin().lines().map_while(Result::ok) {
        match line.as_str() {
            "close" => servers.iter_mut().for_each(Server::kill),
            "open" => servers.iter_mut().for_each(Server::restart),
            number => answer.store(number.parse().unwrap_or(0), Ordering::Relaxed),
        }
    }
    ExitCode::SUCCESS
}

/// Without a timeout: with one, a process that was stopped and goes on finds its reads interrupted
/// (signal(7)).
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(None)?;
    stream.set_nodelay(true)
}

/// Serves a client to its end.
fn serve<S: Read + Write>(
    mut stream: S,
    name: &str,
    finish: impl FnOnce(&mut S) -> io::Result<()>,
) -> io::Result<()> {
    stream.write_all(&[name.len() as u8])?;
    stream.write_all(name.as_bytes())?;
    stream.flush()?;
    let mut request = [0; REQUEST];
    loop {
        match stream.read(&mut request[..1])? {
            0 => return finish(&mut stream),
            _ => stream.read_exact(&mut request[1..])?,
        }
        let number = |at: usize| u32::from_le_bytes(request[at..at + 4].try_into().unwrap());
        let (there, back) = (number(0) as usize, number(4) as usize);
        let seed = u64::from_le_bytes(request[8..].try_into().unwrap());
        let verdict = match noise::check(&mut stream, seed, there) {
            Ok(()) => WELL,
            Err(error) if error.kind() == ErrorKind::InvalidData => b'X',
            Err(error) => return Err(error),
        };
        stream.write_all(&[verdict])?;
        noise::write(&mut stream, !seed, back)?;
    }
}

/// Answers a health check, in one way or another.
fn check(mut stream: TcpStream, answer: usize) -> io::Result<()> {
    let mut head = [0; 4096];
    let mut length = 0;
    while !head[..length].ends_with(b"\r\n\r\n") {
        match stream.read(&mut head[length..])? {
            0 => return Ok(()),
            count => length += count,
        }
    }
    const OK: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: ";
    match ANSWERS[answer % ANSWERS.len()] {
        "well" => write!(stream, "{OK}0\r\n\r\n"),
        "noise" => noise::write(&mut stream, 7, 64 << 10),
        "endless headers" => {
            write!(stream, "HTTP/1.1 200 OK\r\n")?;
            loop {
                write!(stream, "X-Endless: {}\r\n", "x".repeat(1_000))?;
            }
        }
        "ten megabytes" => {
            write!(stream, "{OK}{}\r\n\r\n", 10 << 20)?;
            noise::write(&mut stream, 7, 10 << 20)
        }
        "HTTP/0.9" => write!(stream, "<html>I am well.</html>"),
        "dripping" => {
            for byte in format!("{OK}0\r\n\r\n").bytes() {
                stream.write_all(&[byte])?;
                thread::sleep(Duration::from_millis(200));
            }
            Ok(())
        }
        "a storm of 1xx" => loop {
            stream.write_all("HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n".repeat(100).as_bytes())?;
        },
        _ => stream.read(&mut head).map(drop),
    }
}
