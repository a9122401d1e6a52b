//! The second part of the demo, for root: a pair of gateways, of which the one that has the
//! floating address is killed.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::unistd::Uid;
use tokio::time::{interval, sleep, timeout};

use super::cast::{Directory, Process, Server};
use super::network::{Door, FLOATING, GATEWAYS, LAN, Network};
use super::traffic::request;
use super::{START, print};
use crate::admin::client;
use crate::admin::status::Status;
use crate::cli::{Error, Exit};

/// Where clients connect to.
const SERVICE: SocketAddr = SocketAddr::new(FLOATING, 80);

/// Time between two connections of the client.
const BEAT: Duration = Duration::from_millis(5);

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long all is well before and after something happens.
const CALM: Duration = Duration::from_secs(1);

/// How often the gateways are asked who has the address.
const LOOK: Duration = Duration::from_millis(20);

/// Plays it, if this machine lets it. Fails if the address did not move.
pub async fn play() -> Result<(), Error> {
    if !Uid::effective().is_root() {
        return print(
            "\nThe pair (two gateways with one floating address, one of them killed) needs network\n\
             namespaces: run the demo as root to see it.\n",
        );
    }
    let network = match Network::new() {
        Ok(network) => network,
        Err(error) => {
            return print(&format!("\nThe pair is left out, for lack of a network: {error}\n"));
        }
    };
    let system = |what| move |error: io::Error| Error::of_system(what, &error);
    let server = Server::start_in("web-3", &network.lan, LAN)
        .map_err(system("cannot start the server of the pair"))?;
    let directory = Directory::new("-pair").map_err(system("cannot make a directory"))?;
    let config = config(&server);
    let file = directory.path().join("lockgate.toml");
    fs::write(&file, &config).map_err(system("cannot write the configuration"))?;
    let indented = config.trim_end().replace('\n', "\n    ");
    print(&format!(
        "\nA pair, gw1 and gw2, each in a network namespace of its own, with the same file:\n\n    \
         {indented}\n\n"
    ))?;
    let start = |index: usize| Gateway::start(&network, index, &directory, &file);
    let mut gw1 = start(0).map_err(system("cannot start gw1"))?;
    let gw2 = start(1).map_err(system("cannot start gw2"))?;
    gw1.await_state("master").await?;
    gw2.await_state("backup").await?;
    let client = Client::start(network.lan.door().map_err(system("cannot enter a namespace"))?);
    client.await_answer(Instant::now()).await?;
    print(&format!(
        "  gw1 has {FLOATING}; a client connects to it every {} ms\n",
        BEAT.as_millis()
    ))?;
    sleep(CALM).await;

    let killed = Instant::now();
    drop(gw1);
    let gap = client.await_answer(killed).await? - killed;
    print(&format!("  gw1 is killed (SIGKILL): gw2 answers {} ms later\n", gap.as_millis()))?;
    gw2.await_state("master").await?;
    sleep(CALM).await;

    gw1 = start(0).map_err(system("cannot start gw1 again"))?;
    let returned = Instant::now();
    gw1.await_state("master").await?;
    gw2.await_state("backup").await?;
    sleep(CALM).await;
    let longest = client.longest_silence(returned);
    print(&format!(
        "  gw1 is started again, and takes the address back: the client was without an answer for \
         {} ms at most\n",
        longest.as_millis()
    ))?;

    let stopped = Instant::now();
    gw1.process.stop().map_err(system("cannot stop gw1"))?;
    let gap = client.await_answer(stopped).await? - stopped;
    sleep(CALM).await;
    let longest = client.longest_silence(stopped).max(gap.min(CALM));
    print(&format!("  gw1 is told to stop (SIGTERM): {} ms at most\n", longest.as_millis()))?;
    let (answered, failed) = client.stop();
    gw2.process.stop().map_err(system("cannot stop gw2"))?;
    print(&format!(
        "\n{} connections over the floating address: {failed} failed, while nobody had it\n",
        answered as u64 + failed
    ))
}

fn config(server: &Server) -> String {
    let [gw1, gw2] = GATEWAYS;
    format!(
        r#"[runtime]
drain_timeout = "1s"
state_dir = ""

[admin]
socket = "admin.sock"
http = ""

[log]
level = "error"

[node.gw1]
address = "{gw1}"
priority = 150

[node.gw2]
address = "{gw2}"
priority = 100

[[listener]]
name = "http"
bind = ["{SERVICE}"]
pool = "web"

[[pool.web.backend]]
address = "{LAN}:{}"

[[vrrp]]
name = "public"
interface = "eth0"
vrid = 51
addresses = ["{FLOATING}/24"]
"#,
        server.port
    )
}

/// One of the two.
struct Gateway {
    name: &'static str,
    socket: PathBuf,
    process: Process,
}

impl Gateway {
    fn start(
        network: &Network,
        index: usize,
        directory: &Directory,
        file: &Path,
    ) -> io::Result<Self> {
        let name = ["gw1", "gw2"][index];
        let own = directory.path().join(name);
        fs::create_dir_all(&own)?;
        let mut command = network.gateways[index].command()?;
        command.arg("run").arg("-c").arg(file).args(["--node", name]);
        // The admin socket is relative to it, so that both can have the same file.
        command.current_dir(&own).stdin(Stdio::null()).stdout(Stdio::null());
        let process = Process::start(&mut command)?;
        Ok(Self { name, socket: own.join("admin.sock"), process })
    }

    async fn await_state(&self, wanted: &str) -> Result<(), Error> {
        let give_up = Instant::now() + START;
        loop {
            let state = self.state().await;
            if state.as_deref() == Some(wanted) {
                return Ok(());
            }
            if Instant::now() > give_up {
                let state = state.as_deref().unwrap_or("does not answer");
                let message = format!("{} does not become {wanted}: {state}", self.name);
                return Err(Error::new(Exit::Software, message));
            }
            sleep(LOOK).await;
        }
    }

    async fn state(&self) -> Option<String> {
        let body = client::get(&self.socket, "/v1/status").await.ok()?;
        let status: Status = serde_json::from_slice(&body).ok()?;
        status.vrrp.into_iter().next().map(|instance| instance.state)
    }
}

/// What became of the client's connections.
#[derive(Debug, Default)]
struct Tally {
    /// When each that was answered was begun, and when it was answered.
    answered: Vec<(Instant, Instant)>,
    failed: u64,
    /// Why there are none at all.
    broken: Option<String>,
}

/// A thread within the network that connects again and again, whatever became of those before.
#[derive(Debug)]
struct Client {
    tally: Arc<Mutex<Tally>>,
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Client {
    fn start(door: Door) -> Self {
        let tally = Arc::<Mutex<Tally>>::default();
        let (stop, stopped) = channel();
        let theirs = Arc::clone(&tally);
        let thread = thread::spawn(move || {
            if let Err(error) = connect_until(&stopped, door, &theirs) {
                locked(&theirs).broken = Some(error.to_string());
            }
        });
        Self { tally, stop, thread }
    }

    /// When the first connection was answered that was begun after `since`.
    async fn await_answer(&self, since: Instant) -> Result<Instant, Error> {
        let give_up = Instant::now() + START;
        loop {
            {
                let tally = locked(&self.tally);
                let after = tally.answered.iter().filter(|(begun, _)| *begun >= since);
                if let Some(answered) = after.map(|(_, answered)| *answered).min() {
                    return Ok(answered);
                }
                if let Some(broken) = &tally.broken {
                    return Err(Error::new(Exit::Software, format!("the client: {broken}")));
                }
            }
            if Instant::now() > give_up {
                let message = format!("nobody answers on {SERVICE} for {START:?}");
                return Err(Error::new(Exit::Software, message));
            }
            sleep(BEAT).await;
        }
    }

    /// The longest time between two answers since then.
    fn longest_silence(&self, since: Instant) -> Duration {
        let tally = locked(&self.tally);
        let mut answered: Vec<_> = tally.answered.iter().map(|(_, answered)| *answered).collect();
        answered.sort_unstable();
        let after = answered.windows(2).filter(|pair| pair[1] >= since);
        after.map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// How many were answered, and how many failed.
    fn stop(self) -> (usize, u64) {
        // It may have ended by itself.
        let _ = self.stop.send(());
        let _ = self.thread.join();
        let tally = locked(&self.tally);
        (tally.answered.len(), tally.failed)
    }
}

fn connect_until(stop: &Receiver<()>, door: Door, tally: &Arc<Mutex<Tally>>) -> io::Result<()> {
    door.enter()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut beat = interval(BEAT);
        // Disconnected: the demo is over.
        while stop.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            beat.tick().await;
            let tally = Arc::clone(tally);
            tokio::spawn(async move {
                let begun = Instant::now();
                let answer = timeout(PATIENCE, request(SERVICE)).await;
                let mut tally = locked(&tally);
                match answer {
                    Ok(Ok(_)) => tally.answered.push((begun, Instant::now())),
                    Ok(Err(_)) | Err(_) => tally.failed += 1,
                }
            });
        }
    });
    Ok(())
}

fn locked(tally: &Mutex<Tally>) -> std::sync::MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_valid_on_both() {
        let server = Server::dead("web-3", 1_003);
        let plan = crate::config::parse("demo", &config(&server)).unwrap();
        assert_eq!(plan.nodes.len(), 2);
        assert_eq!(plan.doubts(), Vec::<String>::new());
    }
}
