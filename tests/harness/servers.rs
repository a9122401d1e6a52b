//! Servers for a gateway to send connections to: threads of the test, each on an address of its
//! own.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::socket::{self, shutdown};
use std::os::fd::AsRawFd;

use super::unused_address;

/// A connection on which nothing happens for so long is one that the test has forgotten.
const FORGOTTEN: Duration = Duration::from_secs(120);

type Serve = Arc<dyn Fn(TcpStream) -> io::Result<()> + Send + Sync>;

/// A server that listens from its making until it is killed or dropped.
pub struct Server {
    name: String,
    address: SocketAddr,
    serve: Serve,
    accepted: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    listening: Option<(TcpListener, JoinHandle<()>)>,
}

impl Server {
    /// Serves each connection, in a thread of its own, with `serve`.
    pub fn new(
        name: &str,
        address: SocketAddr,
        serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let mut server = Self {
            name: name.to_owned(),
            address,
            serve: Arc::new(serve),
            accepted: Arc::default(),
            open: Arc::default(),
            listening: None,
        };
        server.restart();
        server
    }

    /// The same on an address of its own.
    pub fn with(
        name: &str,
        serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::new(name, unused_address(), serve)
    }

    /// Greets with a line, its name, and closes when the client has closed.
    pub fn named(name: &str) -> Self {
        Self::named_at(name, unused_address())
    }

    /// The same at a given address.
    pub fn named_at(name: &str, address: SocketAddr) -> Self {
        let line = format!("{name}\n");
        Self::new(name, address, move |mut stream| {
            stream.write_all(line.as_bytes())?;
            io::copy(&mut stream, &mut io::sink())?;
            Ok(())
        })
    }

    /// Sends back what it gets.
    pub fn echo() -> Self {
        Self::with("echo", |mut stream| {
            let mut buffer = vec![0; 64 << 10];
            loop {
                match stream.read(&mut buffer)? {
                    0 => return stream.shutdown(Shutdown::Write),
                    received => stream.write_all(&buffer[..received])?,
                }
            }
        })
    }

    /// Accepts and never reads, until it has been told to let go by dropping the sender.
    pub fn deaf(let_go: Receiver<()>) -> Self {
        let let_go = Mutex::new(let_go);
        Self::with("deaf", move |_stream| {
            let _ = let_go.lock().unwrap().recv_timeout(FORGOTTEN);
            Ok(())
        })
    }

    /// Its name, which is that of the backend.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The IP address that it listens on.
    pub fn ip(&self) -> IpAddr {
        self.address.ip()
    }

    /// Connections so far, those of health checks included.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Connections now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// Listens no more. Connections that are open stay so.
    pub fn kill(&mut self) {
        if let Some((listener, acceptor)) = self.listening.take() {
            // Closing would not wake the thread that waits in accept(2).
            shutdown(listener.as_raw_fd(), socket::Shutdown::Both).unwrap();
            acceptor.join().unwrap();
        }
    }

    /// Listens again, on the same address.
    pub fn restart(&mut self) {
        self.kill();
        let listener = TcpListener::bind(self.address).unwrap();
        let accepting = listener.try_clone().unwrap();
        let serve = Arc::clone(&self.serve);
        let (accepted, open) = (Arc::clone(&self.accepted), Arc::clone(&self.open));
        let acceptor = thread::spawn(move || {
            for stream in accepting.incoming() {
                let Ok(stream) = stream else { break };
                accepted.fetch_add(1, Ordering::SeqCst);
                open.fetch_add(1, Ordering::SeqCst);
                let (serve, open) = (Arc::clone(&serve), Arc::clone(&open));
                thread::spawn(move || {
                    stream.set_read_timeout(Some(FORGOTTEN)).unwrap();
                    stream.set_write_timeout(Some(FORGOTTEN)).unwrap();
                    // How a connection ends is the client's to judge.
                    let _ = serve(stream);
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        self.listening = Some((listener, acceptor));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What an HTTP server answers, and what it has been asked.
#[derive(Debug, Default)]
pub struct Http {
    status: AtomicU16,
    heads: Mutex<Vec<String>>,
}

impl Http {
    /// Answers with this status at first.
    pub fn new(status: u16) -> Arc<Self> {
        Arc::new(Self { status: AtomicU16::new(status), heads: Mutex::default() })
    }

    /// Answers with this status from now on.
    pub fn set_status(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    /// Heads of the requests so far.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    /// A server that answers every request with the status of the moment and with its name.
    pub fn serve(self: &Arc<Self>, name: &str) -> Server {
        let (http, body) = (Arc::clone(self), name.to_owned());
        Server::with(name, move |stream| http.answer(stream, &body))
    }

    /// Answers one request.
    pub fn answer(&self, mut stream: impl Read + Write, body: &str) -> io::Result<()> {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        self.heads.lock().unwrap().push(String::from_utf8_lossy(&head).into_owned());
        let (status, length) = (self.status.load(Ordering::SeqCst), body.len());
        let head = format!("HTTP/1.1 {status} x\r\nContent-Length: {length}\r\n");
        write!(stream, "{head}Connection: close\r\n\r\n{body}")?;
        stream.flush()
    }
}
