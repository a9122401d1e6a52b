//! What the actors can do, and who they are.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::backend::ANSWERS;
use crate::chance::Chance;
use crate::crowd::{ALL, Misdeed, come};
use crate::ledger::{Ledger, Takes};
use crate::network;
use crate::operate;
use crate::site::{BACKENDS, Site};

/// What became of an action.
pub enum Outcome {
    Done,
    /// Nothing was done, for a reason that will not change.
    Skipped(String),
    /// It did not bring about what it should.
    Failed(String),
}

impl Outcome {
    pub fn unsupported() -> Self {
        Self::Skipped("this binary does not do that".to_owned())
    }
}

/// Something to do: its name, how often it is chosen, and how it is done.
pub struct Action {
    name: &'static str,
    share: usize,
    act: fn(&Arena, &mut Chance) -> io::Result<Outcome>,
}

const fn action(
    name: &'static str,
    share: usize,
    act: fn(&Arena, &mut Chance) -> io::Result<Outcome>,
) -> Action {
    Action { name, share, act }
}

/// One at a time, so that there is always somebody to serve.
pub const TO_BACKENDS: &[Action] = &[
    action(KILL, 3, kill),
    action("a backend is paused", 2, pause),
    action("a backend is cut off", 2, cut_off),
    action(FLAP, 2, flap),
    action("a backend answers checks badly", 3, garbage),
];

/// One at a time as well: they are about the same files and signals.
pub const TO_GATEWAY: &[Action] = &[
    action("good configuration", 3, |arena, chance| operate::good_config(&arena.site, chance)),
    action("bad configuration", 3, |arena, chance| operate::bad_config(&arena.site, chance)),
    action("storm of SIGHUP", 1, |arena, chance| operate::storm_of_signals(&arena.site, chance)),
    action("certificate renewed", 1, |arena, chance| operate::renew(&arena.site, chance)),
    action("certificate broken", 1, |arena, chance| {
        operate::break_certificate(&arena.site, chance)
    }),
    action("storm of scrapes", 2, |arena, chance| operate::scrapes(&arena.site, chance)),
    action("drain by API", 2, |arena, chance| operate::drain(&arena.site, chance)),
    action("weight by API", 2, |arena, chance| operate::weigh(&arena.site, chance)),
    action("upgrade", 1, |arena, chance| operate::upgrade(&arena.site, chance)),
    action("crowd that idles", 2, |arena, chance| arena.crowd(Misdeed::Idles, 1_000, chance)),
    action("crowd that drips", 1, |arena, chance| arena.crowd(Misdeed::Drips, 200, chance)),
    action("crowd that resets", 2, |arena, chance| arena.crowd(Misdeed::Resets, 1_000, chance)),
    action("crowd that does not read", 1, |arena, chance| arena.crowd(Misdeed::Deaf, 100, chance)),
    action("crowd that babbles", 1, |arena, chance| arena.crowd(Misdeed::Babbles, 500, chance)),
    action("crowd that connects and closes", 2, |arena, chance| {
        arena.crowd(Misdeed::Knocks, 2_000, chance)
    }),
];

const KILL: &str = "a backend is killed";
const FLAP: &str = "a backend flaps";

/// Where they act.
pub struct Arena {
    site: Arc<Site>,
    ledger: Arc<Ledger>,
    isolated: bool,
}

impl Arena {
    pub fn new(site: Arc<Site>, ledger: Arc<Ledger>, isolated: bool) -> Self {
        Self { site, ledger, isolated }
    }

    /// Does what chance says, one after the other, until it is time.
    pub fn play(&self, actions: &[Action], mut chance: Chance, until: Instant) {
        let shares: usize = actions.iter().map(|action| action.share).sum();
        let mut skipped = Vec::new();
        while Instant::now() < until {
            let mut place = chance.within(0, shares);
            let chosen = actions.iter().position(|action| {
                let here = place < action.share;
                place = place.wrapping_sub(action.share);
                here
            });
            let chosen = chosen.unwrap_or(0);
            // A stream of its own: that one action is skipped changes nothing for the next.
            let mut own = Chance::new(chance.next());
            if !skipped.contains(&chosen) && !self.perform(&actions[chosen], &mut own) {
                skipped.push(chosen);
            }
            thread::sleep(chance.millis(50, 600));
        }
    }

    fn perform(&self, action: &Action, chance: &mut Chance) -> bool {
        let began = Instant::now();
        match (action.act)(self, chance) {
            Ok(Outcome::Done) => self.ledger.done(action.name, began.elapsed()),
            Ok(Outcome::Skipped(why)) => {
                self.ledger.skipped(action.name, why);
                return false;
            }
            Ok(Outcome::Failed(why)) => {
                self.ledger.done(action.name, began.elapsed());
                self.ledger.wrong(format!("{}: {why}", action.name));
            }
            Err(error) => self.ledger.wrong(format!("{}: {error}", action.name)),
        }
        true
    }

    /// Has every crowd come once, all of them ask for metrics at a time, and the traffic flow for a
    /// while.
    pub fn warm_up(&self, chance: &mut Chance, length: Duration) {
        use Misdeed::{Babbles, Deaf, Drips, Idles, Knocks, Resets};
        for (misdeed, count) in [
            (Idles, 1_000),
            (Resets, 1_000),
            (Deaf, 100),
            (Knocks, 2_000),
            (Drips, 200),
            (Babbles, 500),
        ] {
            come(misdeed, count, &ALL, Duration::from_millis(500), chance);
        }
        for _ in 0..10 {
            if let Err(error) = operate::scrapes(&self.site, chance) {
                self.ledger.wrong(format!("asking for metrics: {error}"));
            }
        }
        thread::sleep((length / 10).min(Duration::from_secs(10)));
    }

    /// Asks once a second, as a monitoring system would.
    pub fn poll(&self, until: Instant) {
        while Instant::now() < until {
            for path in ["/metrics", "/v1/status", "/healthz"] {
                match self.site.ask("GET", path) {
                    Ok((200, _)) => {}
                    other => self.ledger.wrong(format!("{path}: {other:?}")),
                }
            }
            thread::sleep(Duration::from_secs(1));
        }
    }

    fn crowd(&self, misdeed: Misdeed, most: usize, chance: &mut Chance) -> io::Result<Outcome> {
        let (count, length) = (chance.within(most / 4, most), chance.millis(500, 3_000));
        come(misdeed, count, &ALL, length, chance);
        Ok(Outcome::Done)
    }

    fn any_backend(chance: &mut Chance) -> usize {
        chance.within(0, BACKENDS)
    }
}

fn kill(arena: &Arena, chance: &mut Chance) -> io::Result<Outcome> {
    let mut backend = arena.site.backends[Arena::any_backend(chance)].lock().unwrap();
    let window = arena.ledger.open(KILL, &backend.name, Takes::All);
    backend.kill()?;
    thread::sleep(chance.millis(100, 3_000));
    backend.restart()?;
    arena.ledger.close(window);
    Ok(Outcome::Done)
}

fn pause(arena: &Arena, chance: &mut Chance) -> io::Result<Outcome> {
    let backend = arena.site.backends[Arena::any_backend(chance)].lock().unwrap();
    backend.pause(true)?;
    thread::sleep(chance.millis(100, 4_000));
    backend.pause(false)?;
    Ok(Outcome::Done)
}

fn cut_off(arena: &Arena, chance: &mut Chance) -> io::Result<Outcome> {
    if !arena.isolated {
        return Ok(Outcome::Skipped("not in a network of its own".to_owned()));
    }
    let backend = network::backend(Arena::any_backend(chance));
    network::cut_off(backend)?;
    thread::sleep(chance.millis(100, 4_000));
    network::reconnect()?;
    Ok(Outcome::Done)
}

/// A listening socket that closes takes the connections in its queue with it; the others go on.
fn flap(arena: &Arena, chance: &mut Chance) -> io::Result<Outcome> {
    let mut backend = arena.site.backends[Arena::any_backend(chance)].lock().unwrap();
    let window = arena.ledger.open(FLAP, &backend.name, Takes::Unaccepted);
    for _ in 0..chance.within(2, 10) {
        backend.tell("close")?;
        thread::sleep(chance.millis(20, 300));
        backend.tell("open")?;
        thread::sleep(chance.millis(20, 300));
    }
    arena.ledger.close(window);
    Ok(Outcome::Done)
}

fn garbage(arena: &Arena, chance: &mut Chance) -> io::Result<Outcome> {
    let mut backend = arena.site.backends[Arena::any_backend(chance)].lock().unwrap();
    backend.tell(&chance.within(1, ANSWERS.len()).to_string())?;
    thread::sleep(chance.millis(500, 4_000));
    backend.tell("0")?;
    Ok(Outcome::Done)
}
