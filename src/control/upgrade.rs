//! Upgrades: the binary that is on disk now takes over, and no connection notices.
//!
//! This process, the *elder*, starts the *heir* with its listening sockets and a connection to talk by
//! ([`message`] has the course of it), by way of an [`escort`]. Both accept for a while; then the
//! elder stops, and drains. Up to there, anything that goes wrong ends the heir and changes nothing:
//! the elder takes back what it had let go, and says why.
//!
//! What is counted goes on where it was: the elder's counts are added to the heir's own, and so is
//! what they grow by while it drains. An heir may be upgraded itself meanwhile: then it passes on
//! what it hears, as its own growth.

mod escort;
mod growth;
mod heir;
mod launch;
mod link;
pub(super) mod message;

use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStdin, ExitStatus};
use std::time::Duration;

use nix::sys::signal::{Signal as Kill, kill};
use nix::unistd::Pid;
use tokio::sync::oneshot;

pub(super) use escort::{accompany, follow_parent, outlive_parent};
pub(super) use heir::Succession;
use launch::{Launched, Program, Words};
use link::Link;
use message::{Counts, Handed, Hello, Message, Serving};

use super::*;

/// How long the heir has until it is ready.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a process that has been upgraded waits for those whose questions it has taken.
const ANSWERS: Duration = Duration::from_secs(1);

/// How often a process that drains tells what it has counted.
const GROWTH: Duration = Duration::from_secs(1);

/// How long the escort has to leave.
const LEAVE: Duration = Duration::from_secs(1);

/// How long the last words of a process that ended are waited for.
const WORDS: Duration = Duration::from_millis(100);

/// What is carried under this name: the last reload.
pub(super) const LAST_RELOAD: &str = "last_reload";

/// What is carried under this name: what operators have set, for those who keep it in no file.
pub(super) const OPERATORS: &str = "operators";

/// What is carried under this name: the addresses of names that there is a backend of each of.
pub(super) const ADDRESSES: &str = "addresses";

/// An upgrade that was made.
#[derive(Clone, Copy, Debug)]
pub struct Upgraded {
    /// The process that serves from now on.
    pub pid: u32,
}

/// Where the outcome of an upgrade is told.
pub type Outcome = oneshot::Sender<Result<Upgraded, String>>;

/// Another process that this one talks with. Attempts are numbered: what is left of one that failed
/// is of no interest to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whom {
    Elder,
    Heir(u32),
}

/// What another process said, or what became of it.
#[derive(Debug)]
pub(super) enum News {
    Said(Whom, Box<Message>),
    Gone(Whom),
    Ended(u32, io::Result<ExitStatus>),
}

/// What the control plane knows of upgrades.
pub(super) struct Upgrades {
    program: Program,
    attempts: u32,
    heir: Option<Heir>,
    elder: Option<Elder>,
    /// Somebody wanted a reload while an upgrade was under way.
    reload_wanted: bool,
    news: mpsc::UnboundedReceiver<News>,
    sender: mpsc::UnboundedSender<News>,
}

/// The process that takes over, or has.
struct Heir {
    /// Its escort's, until it says its own.
    pid: u32,
    /// Of the escort.
    leash: ChildStdin,
    link: Link,
    words: Words,
    began: Instant,
    who: String,
    outcome: Option<Outcome>,
    stage: Stage,
    /// It says nothing more.
    is_silent: bool,
    serving: Serving,
    /// What it was told of our counts.
    told: Counts,
}

enum Stage {
    /// It begins. It has time until then.
    Begins(Instant),
    /// It has been given everything, VRRP too.
    TakesOver(Instant),
    /// It has taken over. Its escort has until then to leave it to the service manager.
    IsReady(Instant),
    /// It failed, and is being killed.
    Fails(String),
    /// It has taken over. It is told again then.
    Serves(Instant),
}

/// The process before this one, while it drains.
struct Elder {
    pid: u32,
    /// Kept, since the end of it would be ours.
    _link: Link,
    since: Instant,
    connections: u32,
    /// Those before it.
    previous: Vec<status::Previous>,
}

impl Upgrades {
    /// None yet.
    ///
    /// Fails if there is no telling what this process was started as.
    pub(super) fn new() -> io::Result<Self> {
        let (sender, news) = mpsc::unbounded_channel();
        Ok(Self {
            program: Program::this()?,
            attempts: 0,
            heir: None,
            elder: None,
            reload_wanted: false,
            news,
            sender,
        })
    }

    /// The next news; waits for ever if there is none.
    pub(super) async fn next(&mut self) -> News {
        match self.news.recv().await {
            Some(news) => news,
            // The sender is held here as well, so this is not reached.
            None => std::future::pending().await,
        }
    }

    /// When [`Control::follow_upgrade`] has something to do although nothing happens.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.heir.as_ref()?.stage {
            Stage::Begins(at) | Stage::TakesOver(at) | Stage::IsReady(at) | Stage::Serves(at) => {
                Some(at)
            }
            Stage::Fails(_) => None,
        }
    }

    /// Whether one has begun, and neither failed nor been made.
    pub(super) fn is_under_way(&self) -> bool {
        self.heir.as_ref().is_some_and(|heir| !matches!(heir.stage, Stage::Serves(_)))
    }

    /// The process that has taken over from this one.
    pub(super) fn successor(&self) -> Option<u32> {
        let heir = self.heir.as_ref()?;
        matches!(heir.stage, Stage::Serves(_)).then_some(heir.pid)
    }

    /// Whether the process before this one still has connections.
    pub(super) fn has_elder(&self) -> bool {
        self.elder.is_some()
    }

    /// Older processes that still have connections, the latest first.
    pub(super) fn previous(&self) -> Vec<status::Previous> {
        let Some(elder) = &self.elder else { return Vec::new() };
        let latest = status::Previous {
            pid: elder.pid,
            connections: elder.connections,
            since_seconds: elder.since.elapsed().as_secs_f64(),
        };
        let mut all = vec![latest];
        all.extend(elder.previous.iter().cloned());
        all
    }

    /// A reload has to wait until the upgrade has ended, one way or the other.
    pub(super) fn reload_later(&mut self) {
        self.reload_wanted = true;
    }
}

impl Control {
    /// Has the binary on disk take over. `outcome` is told when it has, or why it has not.
    pub(super) fn upgrade(&mut self, who: &str, outcome: Option<Outcome>) {
        let refusal = match (self.upgrades.successor(), self.upgrades.is_under_way()) {
            (Some(pid), _) => Some(format!("process {pid} has taken over already")),
            (None, true) => Some("an upgrade is under way already".to_owned()),
            (None, false) if self.stopping.is_some() => Some("the gateway is stopping".to_owned()),
            // pid_namespaces(7)
            (None, false) if std::process::id() == 1 => Some(
                "this is the first process of its container, which ends with it: replace the \
                 container"
                    .to_owned(),
            ),
            (None, false) => None,
        };
        let launched = match refusal {
            Some(refusal) => Err(refusal),
            None => self.launch(),
        };
        match launched {
            Ok(launched) => self.begin(who, launched, outcome),
            Err(cause) => self.tell_of_upgrade(who, Err(cause), outcome),
        }
    }

    fn launch(&self) -> Result<Launched, String> {
        let program = &self.upgrades.program;
        let mut sockets = Vec::new();
        let mut add = |name: &str, fd: io::Result<OwnedFd>| -> io::Result<()> {
            sockets.push((name.to_owned(), fd?));
            Ok(())
        };
        let collected = (|| {
            for listener in &self.world.snapshot.listeners {
                for address in &listener.bind {
                    for socket in self.sockets.get(address).into_iter().flatten() {
                        add(&listener.name, socket.try_clone().map(OwnedFd::from))?;
                    }
                }
            }
            for fd in self.admin.sockets() {
                add("admin", fd)?;
            }
            Ok(())
        })();
        collected.map_err(|error: io::Error| format!("cannot hand sockets on: {error}"))?;
        program
            .launch(sockets, &self.output)
            .map_err(|error| format!("cannot start {}: {error}", program.path().display()))
    }

    fn begin(&mut self, who: &str, launched: Launched, outcome: Option<Outcome>) {
        let Launched { child, leash, link, stderr, words } = launched;
        self.upgrades.attempts += 1;
        let attempt = self.upgrades.attempts;
        let pid = child.id();
        let watched = watch(child, attempt, self.upgrades.sender.clone());
        let link = Link::open(link, Whom::Heir(attempt), self.upgrades.sender.clone());
        let link = match watched.and(link) {
            Ok(link) => link,
            Err(error) => {
                send(Kill::SIGKILL, pid);
                let cause = format!("cannot talk with the new process: {error}");
                return self.tell_of_upgrade(who, Err(cause), outcome);
            }
        };
        link.say(Message::Hello(Hello {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            ticket_secret: Some(
                self.ticket_seed.iter().map(|byte| format!("{byte:02x}")).collect(),
            ),
            generation: self.world.snapshot.generation,
            started: self.workers.crew.started(),
            stderr: Some(stderr),
            removes_admin_socket: self.admin.removes_socket(),
            carry: self.carry(),
        }));
        let program = self.upgrades.program.path().display();
        tracing::info!(who, %program, "upgrade: a new process has been started");
        let began = Instant::now();
        self.upgrades.heir = Some(Heir {
            pid,
            leash,
            link,
            words,
            began,
            who: who.to_owned(),
            outcome,
            stage: Stage::Begins(began + PATIENCE),
            is_silent: false,
            serving: Serving::default(),
            told: Counts::default(),
        });
    }

    /// What is to survive besides what has a place of its own: see [`Succession::carried`].
    fn carry(&self) -> serde_json::Map<String, serde_json::Value> {
        let mut carry = serde_json::Map::new();
        let mut put = |name: &str, value: serde_json::Result<serde_json::Value>| match value {
            Ok(value) => drop(carry.insert(name.to_owned(), value)),
            Err(error) => tracing::error!(%error, name, "is lost with this process"),
        };
        put(LAST_RELOAD, serde_json::to_value(&self.reloads.last));
        put(OPERATORS, serde_json::to_value(&self.state.kept));
        put(ADDRESSES, serde_json::to_value(&self.members.known));
        carry
    }

    /// Another process said something, or has ended.
    pub(super) async fn heard(&mut self, news: News) {
        let attempt = self.upgrades.attempts;
        match news {
            News::Said(Whom::Elder, message) => self.heard_elder(*message),
            News::Gone(Whom::Elder) => {
                if let Some(elder) = self.upgrades.elder.take() {
                    tracing::info!(pid = elder.pid, "the process before this one has ended");
                }
            }
            News::Said(Whom::Heir(of), message) if of == attempt => self.heard_heir(*message).await,
            News::Gone(Whom::Heir(of)) if of == attempt => self.heir_is_silent(),
            News::Ended(of, status) if of == attempt => self.escort_ended(status).await,
            News::Said(Whom::Heir(_), _) | News::Gone(Whom::Heir(_)) | News::Ended(..) => {}
        }
        if !self.upgrades.is_under_way() && std::mem::take(&mut self.upgrades.reload_wanted) {
            match &self.upgrades.heir {
                Some(heir) => drop(heir.link.say(Message::Reload)),
                // Told where everything else is.
                None => drop(self.reload("SIGHUP, put off").await),
            }
        }
    }

    async fn heard_heir(&mut self, message: Message) {
        let Some(heir) = &mut self.upgrades.heir else { return };
        match (message, &heir.stage) {
            (Message::Serving(serving), Stage::Begins(_)) => {
                if serving.pid != 0 {
                    heir.pid = serving.pid;
                }
                tracing::info!(
                    pid = heir.pid,
                    version = serving.program,
                    took = ?heir.began.elapsed(),
                    "upgrade: the new process accepts connections"
                );
                heir.serving = serving;
                self.hand_on();
            }
            (Message::Ready, Stage::TakesOver(_)) => {
                heir.stage = Stage::IsReady(Instant::now() + LEAVE);
                if let Err(error) = heir.leash.write_all(b".") {
                    tracing::debug!(%error, "the escort of the new process is gone");
                }
            }
            // Of a later version, or too late.
            (_, _) => {}
        }
    }

    /// Hands over what only one can have: what counts, the addresses, the admin sockets.
    fn hand_on(&mut self) {
        // First, so that nobody sees a count that the heir will not have.
        self.admin.pause();
        let counts = self.counts();
        let Some(heir) = &mut self.upgrades.heir else { return };
        heir.link.say(Message::Counts(counts.clone()));
        heir.told = counts;
        match self.failover.let_go(std::mem::take(&mut heir.serving.instances)) {
            Ok((legacy, patience)) => {
                heir.link.say(Message::Vrrp(Handed { legacy }));
                heir.stage = Stage::TakesOver(Instant::now() + patience);
            }
            Err(failure) => self.give_up_upgrade(failure.to_string()),
        }
    }

    /// The heir has everything: this process accepts no more, and drains.
    async fn retire(&mut self) {
        let now = Instant::now();
        let Some(heir) = &mut self.upgrades.heir else { return };
        heir.stage = Stage::Serves(now + GROWTH);
        let (pid, outcome, who) = (heir.pid, heir.outcome.take(), heir.who.clone());
        let left = heir.serving.listens.iter().copied().collect();
        let keeps_socket = heir.serving.admin_socket;
        self.failover.leave();
        self.systemd.main_process_is(pid);
        if let Some(heir) = &self.upgrades.heir {
            heir.link.say(Message::Retired);
        }
        self.admin.leave(keeps_socket);
        let timeout = self.world.plan.runtime.drain_timeout;
        self.stopping = Some(now + timeout);
        self.answers_until = Some(now + ANSWERS);
        self.sockets.clear();
        self.workers.crew.close(left);
        let connections = self.workers.crew.connections();
        tracing::info!(pid, connections, drain_timeout = ?timeout, "upgraded: the new process serves");
        self.tell_of_upgrade(&who, Ok(Upgraded { pid }), outcome);
        self.tell_heir();
        // Who listens is told of that yet, and then asks the other process.
        self.events.flush().await;
        self.events.end();
    }

    /// The heir has closed the connection. Most likely it has ended, and how will be known in a
    /// moment; one that lives on is not what it should be.
    fn heir_is_silent(&mut self) {
        let Some(heir) = &mut self.upgrades.heir else { return };
        heir.is_silent = true;
        match &mut heir.stage {
            Stage::Begins(at) | Stage::TakesOver(at) => *at = (*at).min(Instant::now() + WORDS),
            Stage::Serves(_) => {
                tracing::warn!(pid = heir.pid, "the process that took over has ended");
            }
            Stage::IsReady(_) | Stage::Fails(_) => {}
        }
    }

    /// Ends an upgrade that is under way, for this cause.
    pub(super) fn give_up_upgrade(&mut self, cause: String) {
        let Some(heir) = &mut self.upgrades.heir else { return };
        match heir.stage {
            Stage::Begins(_) | Stage::TakesOver(_) => {
                // It must be gone before anything is taken back.
                send(Kill::SIGKILL, heir.pid);
                heir.stage = Stage::Fails(cause);
            }
            // Too late for that: what ends this process is meant for both.
            Stage::IsReady(_) => send(Kill::SIGTERM, heir.pid),
            Stage::Serves(_) | Stage::Fails(_) => {}
        }
    }

    /// The escort has left, or has ended like the heir.
    async fn escort_ended(&mut self, status: io::Result<ExitStatus>) {
        let Some(heir) = &mut self.upgrades.heir else { return };
        match heir.stage {
            // However the escort has ended, one that is ready does not end with it.
            Stage::IsReady(_) if is_alive(heir.pid) => return self.retire().await,
            Stage::Serves(_) => return,
            Stage::Begins(_) | Stage::TakesOver(_) | Stage::IsReady(_) | Stage::Fails(_) => {}
        }
        let status = match status {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        // First what others wait for.
        self.failover.take_back();
        self.admin.serve(&self.senders.asks);
        let Some(heir) = self.upgrades.heir.take() else { return };
        let mut cause = match heir.stage {
            Stage::Fails(cause) => cause,
            Stage::Begins(_) | Stage::TakesOver(_) | Stage::IsReady(_) | Stage::Serves(_) => {
                tokio::time::sleep(WORDS).await;
                format!("the new process has ended ({status})")
            }
        };
        let words = heir.words.last();
        if !words.is_empty() {
            cause = format!("{cause}; its last words: {words}");
        }
        self.tell_of_upgrade(&heir.who, Err(cause), heir.outcome);
    }

    fn tell_of_upgrade(
        &mut self,
        who: &str,
        result: Result<Upgraded, String>,
        outcome: Option<Outcome>,
    ) {
        let (word, cause) = match &result {
            Ok(Upgraded { pid }) => ("ok", format!("process {pid} has taken over")),
            Err(cause) => ("failed", cause.clone()),
        };
        if let Err(cause) = &result {
            tracing::error!(who, "upgrade failed, this process goes on: {cause}");
        }
        let fields = [
            ("event", "upgrade".into()),
            ("result", word.into()),
            ("who", who.into()),
            ("cause", cause.into()),
        ];
        self.events.tell(Kind::Gateway, SystemTime::now(), &fields);
        if let Some(outcome) = outcome {
            // Who asked may have gone away.
            let _ = outcome.send(result);
        }
    }

    /// Looks whether the upgrade takes too long, and tells the heir what has been counted.
    pub(super) async fn follow_upgrade(&mut self, now: Instant) {
        let Some(heir) = &self.upgrades.heir else { return };
        match heir.stage {
            Stage::Begins(at) | Stage::TakesOver(at) if at <= now && heir.is_silent => {
                self.give_up_upgrade("the new process has closed the connection".to_owned());
            }
            Stage::Begins(at) if at <= now => {
                self.give_up_upgrade(format!("the new process was not ready within {PATIENCE:?}"));
            }
            Stage::TakesOver(at) if at <= now => {
                self.give_up_upgrade("the new process did not take over in time".to_owned());
            }
            Stage::IsReady(at) if at <= now => {
                tracing::warn!(pid = heir.pid, "the escort of the new process does not leave");
                self.retire().await;
            }
            Stage::Serves(at) if at <= now => self.tell_heir(),
            Stage::Begins(_)
            | Stage::TakesOver(_)
            | Stage::IsReady(_)
            | Stage::Serves(_)
            | Stage::Fails(_) => {}
        }
    }
}

/// Waits for the end of a process, on a thread that does nothing else.
fn watch(mut child: Child, attempt: u32, news: mpsc::UnboundedSender<News>) -> io::Result<()> {
    let thread = std::thread::Builder::new().name("heir".to_owned());
    thread.spawn(move || {
        // If nobody listens any more, nobody misses it.
        let _ = news.send(News::Ended(attempt, child.wait()));
    })?;
    Ok(())
}

/// Sends a signal to a process that has not been waited for yet.
fn send(signal: Kill, pid: u32) {
    let Ok(pid) = i32::try_from(pid) else { return };
    if let Err(error) = kill(Pid::from_raw(pid), signal) {
        tracing::debug!(%error, pid, %signal, "not sent: it has ended");
    }
}

/// Whether there is a process of this number.
fn is_alive(pid: u32) -> bool {
    i32::try_from(pid).is_ok_and(|pid| kill(Pid::from_raw(pid), None).is_ok())
}
