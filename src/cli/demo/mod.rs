//! `lockgate demo`: the product at work, for people who have just met it.
//!
//! Real processes throughout: servers that can be killed, a gateway that runs a configuration
//! from a file, clients that send requests to it. The story has four parts: all is well, a server
//! is killed, the gateway notices, the server comes back. For root there is a second story, of a pair.

mod cast;
mod network;
mod pair;
pub mod server;
mod traffic;

use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{interval, sleep, sleep_until};

use super::{Error, Exit, print, runtime};
use crate::admin::client;
use crate::admin::status::Status;
use cast::{Gateway, Server};
use traffic::{CLIENTS, Gate, Tally, Traffic};

/// How often the table is drawn on a terminal.
const FRAME: Duration = Duration::from_millis(250);

/// How often a line is printed elsewhere.
const LINE: Duration = Duration::from_secs(1);

/// How often the gateway is asked how it sees the servers.
const LOOK: Duration = Duration::from_millis(20);

/// Longest wait for the gateway to be ready.
const START: Duration = Duration::from_secs(10);

/// Runs the demo. Fails if a request did.
pub fn demo(length: Duration) -> Result<(), Error> {
    runtime()?.block_on(async {
        tokio::select! {
            played = async {
                play(length).await?;
                pair::play().await
            } => played,
            // What it started is dropped with it, and ends.
            signal = interrupted() => Err(Error::of_system("interrupted", &signal)),
        }
    })
}

/// Waits for a signal that wants the process to end.
async fn interrupted() -> io::Error {
    let next = async |kind| match signal(kind) {
        Ok(mut signal) => {
            signal.recv().await;
            io::ErrorKind::Interrupted.into()
        }
        Err(error) => error,
    };
    tokio::select! {
        error = next(SignalKind::interrupt()) => error,
        error = next(SignalKind::terminate()) => error,
        error = next(SignalKind::hangup()) => error,
    }
}

async fn play(length: Duration) -> Result<(), Error> {
    let system = |what| move |error: io::Error| Error::of_system(what, &error);
    let mut servers = ["web-1", "web-2"]
        .map(Server::start)
        .into_iter()
        .collect::<io::Result<Vec<_>>>()
        .map_err(system("cannot start the servers of the demo"))?;
    let mut gateway =
        Gateway::start(&servers).map_err(system("cannot start the gateway of the demo"))?;
    wait_until_ready(&mut gateway).await?;
    let indented = gateway.config.trim_end().replace('\n', "\n    ");
    print(&format!(
        "A gateway on {} before two HTTP servers, with this configuration:\n\n    {indented}\n\n\
         {CLIENTS} clients send it requests, each over a new connection.\n\n",
        gateway.address
    ))?;

    let gate = Gate::default();
    let traffic = Traffic::start(gateway.address, &gate);
    let began = Instant::now();
    let stage = Stage { began, length, color: io::stdout().is_terminal() };
    let mut story = Story::default();

    stage.watch(0.35, &gateway, &traffic, &mut story).await?;
    {
        // Whatever is inside a server when it dies is lost behind any layer-4 balancer: it cannot
        // ask the same again of another. So none is.
        let _none_in_flight = gate.write().await;
        story.killed = Some(Instant::now());
        servers[1].kill();
    }
    stage.tell("web-2 is killed (SIGKILL), between two requests")?;

    stage.watch(0.65, &gateway, &traffic, &mut story).await?;
    servers[1].restart().map_err(system("cannot start a server again"))?;
    story.restarted = Some(Instant::now());
    stage.tell("web-2 is started again")?;

    stage.watch(1.0, &gateway, &traffic, &mut story).await?;
    let tally = traffic.stop(&gate).await;
    let status = look(&gateway).await?;
    let asked = began.elapsed();
    gateway.process.stop().map_err(system("cannot stop the gateway"))?;

    print(&summary(&tally, &story, &status, asked))?;
    match &tally.first_failure {
        None => Ok(()),
        Some(cause) => Err(Error::new(
            Exit::Software,
            format_args!("{} requests failed, the first: {cause}", tally.failed),
        )),
    }
}

async fn wait_until_ready(gateway: &mut Gateway) -> Result<(), Error> {
    let give_up = Instant::now() + START;
    loop {
        match client::get(&gateway.socket, "/readyz").await {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > give_up => return Err(error.into()),
            Err(_) => {}
        }
        let running = gateway.process.is_running();
        if !running.map_err(|error| Error::of_system("the gateway of the demo", &error))? {
            // It has said why.
            return Err(Error::new(Exit::Software, "the gateway of the demo has ended"));
        }
        sleep(LOOK).await;
    }
}

async fn look(gateway: &Gateway) -> Result<Status, Error> {
    let body = client::get(&gateway.socket, "/v1/status").await?;
    serde_json::from_slice(&body)
        .map_err(|error| Error::new(Exit::Software, format_args!("unexpected answer: {error}")))
}

/// What happened when.
#[derive(Default)]
struct Story {
    killed: Option<Instant>,
    /// The gateway no longer sends anything to the killed server.
    noticed: Option<Instant>,
    restarted: Option<Instant>,
    /// It does again.
    returned: Option<Instant>,
    /// Lines of the table on the terminal that the next one goes over.
    drawn: usize,
}

impl Story {
    fn follow(&mut self, status: &Status) {
        let serves = status
            .pools
            .iter()
            .flat_map(|pool| &pool.backends)
            .any(|backend| backend.name == "web-2" && backend.effective_weight > 0.0);
        let now = Instant::now();
        if self.killed.is_some() && !serves {
            self.noticed.get_or_insert(now);
        }
        if self.restarted.is_some() && serves {
            self.returned.get_or_insert(now);
        }
    }
}

/// Where the demo is shown.
struct Stage {
    began: Instant,
    length: Duration,
    color: bool,
}

impl Stage {
    /// Shows how things go until `share` of the demo is over.
    async fn watch(
        &self,
        share: f64,
        gateway: &Gateway,
        traffic: &Traffic,
        story: &mut Story,
    ) -> Result<(), Error> {
        let end = self.began + self.length.mul_f64(share);
        let mut frames = interval(if self.color { FRAME } else { LINE });
        frames.reset();
        let mut looks = interval(LOOK);
        loop {
            tokio::select! {
                () = sleep_until(end.into()) => break,
                _ = looks.tick() => story.follow(&look(gateway).await?),
                _ = frames.tick() => {
                    let status = look(gateway).await?;
                    self.draw(&traffic.tally(), &status, story)?;
                }
            }
        }
        // What is told next goes below the table.
        story.drawn = 0;
        Ok(())
    }

    fn draw(&self, tally: &Tally, status: &Status, story: &mut Story) -> Result<(), Error> {
        let backends: Vec<_> = status.pools.iter().flat_map(|pool| &pool.backends).collect();
        let mut text = String::new();
        // Writing to a string cannot fail.
        if self.color {
            if story.drawn > 0 {
                let _ = write!(text, "\x1b[{}A\x1b[J", story.drawn);
            }
            let _ = writeln!(text, "  {}  server   state      requests", self.clock());
            for backend in &backends {
                let paint = if backend.effective_weight > 0.0 { "\x1b[32m" } else { "\x1b[31m" };
                let _ = writeln!(
                    text,
                    "         {:<8} {paint}{:<10}\x1b[0m {:>8}  {}",
                    backend.name,
                    backend.state,
                    tally.of(&backend.name),
                    backend.reason
                );
            }
            let _ =
                writeln!(text, "         {} requests, {} failed", tally.requests(), tally.failed);
            story.drawn = backends.len() + 2;
        } else {
            let _ = write!(text, "  {}", self.clock());
            for backend in &backends {
                let (name, state) = (&backend.name, &backend.state);
                let _ = write!(text, "  {name} {state:<9} {:>6}", tally.of(name));
            }
            let _ = writeln!(text, "  failed {}", tally.failed);
        }
        print(&text)
    }

    fn tell(&self, what: &str) -> Result<(), Error> {
        let (bold, plain) = if self.color { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        print(&format!("  {}  {bold}{what}{plain}\n", self.clock()))
    }

    fn clock(&self) -> String {
        format!("{:4.1}s", self.began.elapsed().as_secs_f64())
    }
}

fn summary(tally: &Tally, story: &Story, status: &Status, asked: Duration) -> String {
    let after = |event: Option<Instant>, cause: Option<Instant>| match (event, cause) {
        (Some(event), Some(cause)) => format!("{} ms later", (event - cause).as_millis()),
        _ => "not yet".to_owned(),
    };
    let refused: u64 = status
        .pools
        .iter()
        .flat_map(|pool| &pool.backends)
        .map(|backend| backend.connect_failures_total)
        .sum();
    let answered: Vec<_> =
        tally.answered.iter().map(|(server, count)| format!("{server} {count}")).collect();
    format!(
        "\n{requests} requests in {:.1} s: {failed} failed\n  \
         answered       {}\n  \
         time           {:.1?} median, {:.1?} p99, {:.1?} longest\n  \
         web-2 killed   taken out {}; {refused} connections were refused by it and went to web-1\n  \
         web-2 back     in service {}\n",
        asked.as_secs_f64(),
        answered.join(", "),
        tally.time(0.5),
        tally.time(0.99),
        tally.time(1.0),
        after(story.noticed, story.killed),
        after(story.returned, story.restarted),
        requests = tally.requests(),
        failed = tally.failed,
    )
}
