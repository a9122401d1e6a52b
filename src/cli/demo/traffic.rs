//! The clients of the demo.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::RwLock;
use tokio::time::{sleep, timeout};

/// Clients at once.
pub const CLIENTS: usize = 8;

/// Pause of a client between two requests.
const PAUSE: Duration = Duration::from_millis(4);

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Requests go out under a shared lock; whoever takes it alone has none in flight.
pub type Gate = Arc<RwLock<()>>;

/// What became of the requests.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Answers by the server that gave them.
    pub answered: BTreeMap<String, u64>,
    /// Requests without a proper answer.
    pub failed: u64,
    /// What the first of them met with.
    pub first_failure: Option<String>,
    times: Vec<Duration>,
}

impl Tally {
    /// All requests.
    pub fn requests(&self) -> u64 {
        self.answered.values().sum::<u64>() + self.failed
    }

    /// Answers of one server.
    pub fn of(&self, server: &str) -> u64 {
        self.answered.get(server).copied().unwrap_or(0)
    }

    /// The time within which `share` of the answers came.
    pub fn time(&self, share: f64) -> Duration {
        let mut times = self.times.clone();
        times.sort_unstable();
        let last = times.len().saturating_sub(1);
        times.get((last as f64 * share).round() as usize).copied().unwrap_or_default()
    }

    fn add(&mut self, result: Result<String, String>, took: Duration) {
        match result {
            Ok(server) => {
                *self.answered.entry(server).or_default() += 1;
                self.times.push(took);
            }
            Err(cause) => {
                self.failed += 1;
                self.first_failure.get_or_insert(cause);
            }
        }
    }
}

/// Clients that send request after request, each over a connection of its own.
#[derive(Debug)]
pub struct Traffic {
    tally: Arc<Mutex<Tally>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Traffic {
    /// Sends the clients to `address`.
    pub fn start(address: SocketAddr, gate: &Gate) -> Self {
        let tally = Arc::<Mutex<Tally>>::default();
        let tasks = (0..CLIENTS)
            .map(|_| {
                let (tally, gate) = (Arc::clone(&tally), Arc::clone(gate));
                tokio::spawn(async move {
                    loop {
                        let in_flight = gate.read().await;
                        let began = Instant::now();
                        let result = match timeout(PATIENCE, request(address)).await {
                            Ok(result) => result,
                            Err(_elapsed) => Err(format!("no answer within {PATIENCE:?}")),
                        };
                        locked(&tally).add(result, began.elapsed());
                        drop(in_flight);
                        sleep(PAUSE).await;
                    }
                })
            })
            .collect();
        Self { tally, tasks }
    }

    /// What has become of the requests so far.
    pub fn tally(&self) -> Tally {
        locked(&self.tally).clone()
    }

    /// Ends the clients, each after the answer that it waits for.
    pub async fn stop(self, gate: &Gate) -> Tally {
        let _none_in_flight = gate.write().await;
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
        self.tally()
    }
}

fn locked(tally: &Mutex<Tally>) -> std::sync::MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks for a page and returns what the answer says: the name of the server.
pub async fn request(address: SocketAddr) -> Result<String, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let request = Request::get("/")
        .header(HOST, address.to_string())
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let answer = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = response.into_body().collect().await?.to_bytes();
            Ok::<_, hyper::Error>((status, body))
        };
        let (answer, ended) = tokio::join!(answer, connection);
        ended?;
        answer
    };
    let (status, body) = exchange.await.map_err(|error: hyper::Error| error.to_string())?;
    match status.is_success() {
        true => Ok(String::from_utf8_lossy(&body).into_owned()),
        false => Err(format!("status {status}")),
    }
}
