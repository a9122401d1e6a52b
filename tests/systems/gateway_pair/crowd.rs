//! Many HTTPS clients in one thread, from the hundred addresses of the client in turn.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio::time::sleep_until;
use tokio_rustls::TlsConnector;

/// What they do.
pub struct Crowd {
    pub connections: u32,
    /// So many come in a second.
    pub connections_per_second: u32,
    /// From one request of a connection to its next one.
    pub period: Duration,
    /// When all are there, they go on for so long.
    pub lasts: Duration,
    /// Where they go in turn, and for whom they ask there.
    pub sites: [(SocketAddr, &'static str); 5],
    pub tls: Arc<ClientConfig>,
}

/// What they have seen.
#[derive(Default)]
pub struct Seen {
    pub errors: Vec<io::Error>,
    pub requests_per_second: f64,
    /// Answers by how long they took, in microseconds.
    took: BTreeMap<u64, u64>,
}

impl Crowd {
    /// Does it, in this thread's network namespace.
    pub fn run(&self) -> Seen {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(self.visit())
    }

    async fn visit(&self) -> Seen {
        let began = Instant::now();
        let arrival = Duration::from_secs(1) / self.connections_per_second;
        let end = began + arrival * self.connections + self.lasts;
        let mut clients = JoinSet::new();
        for number in 0..self.connections {
            let (turn, site) =
                (number as usize / self.sites.len(), number as usize % self.sites.len());
            let source = Ipv4Addr::new(10, 0, 1, 128 + (turn % 100) as u8);
            let (to, name) = self.sites[site];
            let (tls, period) = (TlsConnector::from(Arc::clone(&self.tls)), self.period);
            let comes = began + arrival * number;
            clients.spawn(async move {
                sleep_until(comes.into()).await;
                let socket = TcpSocket::new_v4()?;
                socket.bind((source, 0).into())?;
                let stream = socket.connect(to).await?;
                stream.set_nodelay(true)?;
                let mut stream = tls.connect(ServerName::try_from(name).unwrap(), stream).await?;
                let mut took = Vec::new();
                let mut due = Instant::now();
                while due < end {
                    sleep_until(due.into()).await;
                    ask(&mut stream, name).await?;
                    // From when it was due: whoever was late has waited.
                    took.push(due.elapsed());
                    due += period;
                }
                Ok(took)
            });
        }
        let mut seen = Seen::default();
        while let Some(client) = clients.join_next().await {
            match client.unwrap() {
                Ok(took) => took.iter().for_each(|took| {
                    *seen.took.entry(took.as_micros() as u64).or_default() += 1;
                }),
                Err(error) => seen.errors.push(error),
            }
        }
        seen.requests_per_second = seen.answers() as f64 / began.elapsed().as_secs_f64();
        seen
    }
}

async fn ask(
    stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin),
    name: &str,
) -> io::Result<()> {
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n").as_bytes()).await?;
    stream.flush().await?;
    let (mut answer, mut length) = ([0; 1024], 0);
    // Where each answer of these servers ends.
    let end = format!(" {name}\n");
    while !answer[..length].ends_with(end.as_bytes()) {
        match stream.read(&mut answer[length..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => length += more,
        }
    }
    match answer.starts_with(b"HTTP/1.1 200 ") {
        true => Ok(()),
        false => Err(io::Error::other(String::from_utf8_lossy(&answer[..length]).into_owned())),
    }
}

impl Seen {
    fn answers(&self) -> u64 {
        self.took.values().sum()
    }

    /// What so many of a hundred answers took at most, in milliseconds.
    pub fn percentile(&self, percent: f64) -> f64 {
        let wanted = (self.answers() as f64 * percent / 100.0).ceil() as u64;
        let mut so_far = 0;
        let reaches = |(_, count): &(&u64, &u64)| {
            so_far += **count;
            so_far >= wanted
        };
        *self.took.iter().find(reaches).unwrap().0 as f64 / 1e3
    }
}
