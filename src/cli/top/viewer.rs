//! Who looks at a gateway: what is known so far, and what the keys make of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::draw::Scene;
use super::model::{Wish, glance};
use super::{INTERVALS, News, millis};
use crate::admin::client;
use crate::admin::status::Status;
use crate::cli::text::span;
use crate::cli::{Error, Exit, status};

/// An answer that takes longer is told about.
const SLOW: Duration = Duration::from_secs(3);

/// Who looks, and what at.
pub struct Viewer {
    /// What is on the screen.
    pub scene: Scene,
    before: Option<Box<Status>>,
    pub(super) now: Option<Box<Status>>,
    /// Since when an answer has been awaited.
    asked: Option<Instant>,
    answered: Option<Instant>,
    pace: Arc<AtomicU64>,
    /// The screen shows something else.
    pub stale: bool,
}

impl Viewer {
    /// Of a gateway that is asked at this pace, in milliseconds.
    pub fn new(wish: Wish, pace: Arc<AtomicU64>) -> Self {
        let mut viewer = Self {
            scene: Scene { wish, color: status::colors(), ..Scene::default() },
            before: None,
            now: None,
            asked: None,
            answered: None,
            pace,
            stale: true,
        };
        viewer.scene.trouble = Some("waiting for the gateway".to_owned());
        viewer.tell_pace();
        viewer
    }

    /// Takes in what there is of news. Returns whether to go on.
    pub fn take(&mut self, news: &Receiver<News>) -> Result<bool, Error> {
        loop {
            match news.try_recv() {
                Ok(News::Asked(at)) => self.asked = Some(at),
                Ok(News::Answered(status)) => {
                    (self.asked, self.answered) = (None, Some(Instant::now()));
                    self.scene.trouble = None;
                    self.stale = true;
                    if !self.scene.paused {
                        self.before = self.now.replace(status);
                        self.look();
                    }
                }
                Ok(News::Failed(error @ client::Error::NotPermitted { .. })) => {
                    return Err(error.into());
                }
                Ok(News::Failed(error)) => {
                    self.asked = None;
                    let age = self.answered.map(|at| {
                        format!("; what is below is {} old", span(at.elapsed().as_secs_f64()))
                    });
                    self.scene.trouble =
                        Some(format!("{error}: trying again{}", age.unwrap_or_default()));
                    self.stale = true;
                }
                Ok(News::Odd(what)) => return Err(Error::new(Exit::Software, what)),
                Ok(News::Stop) => return Ok(false),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Ok(false),
            }
        }
        if let Some(waited) = self.asked.map(|asked| asked.elapsed()).filter(|w| *w > SLOW) {
            let trouble = format!("no answer for {} s: waiting", waited.as_secs());
            self.stale |= self.scene.trouble.as_ref() != Some(&trouble);
            self.scene.trouble = Some(trouble);
        }
        Ok(true)
    }

    fn look(&mut self) {
        let now = self.now.as_deref();
        self.scene.glance = now.map(|now| glance(now, self.before.as_deref(), &self.scene.wish));
    }

    fn tell_pace(&mut self) {
        let pace = Duration::from_millis(self.pace.load(Ordering::Relaxed));
        self.scene.interval = humantime::format_duration(pace).to_string();
    }

    /// A key. Returns whether to go on.
    pub fn press(&mut self, key: KeyEvent) -> bool {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        if control && matches!(key.code, KeyCode::Char('c' | 'd')) {
            return false;
        }
        if self.scene.typing {
            self.type_filter(key.code);
            return true;
        }
        let page = self.scene.room.max(1);
        let first = self.scene.first;
        match key.code {
            KeyCode::Char('?' | 'h') => self.scene.help = !self.scene.help,
            KeyCode::Esc | KeyCode::Char('q') if self.scene.help => self.scene.help = false,
            KeyCode::Esc | KeyCode::Char('q') => return false,
            KeyCode::Char('/') => {
                self.scene.typing = true;
                self.scene.help = false;
            }
            KeyCode::Char(step @ ('s' | 'S')) => {
                self.scene.wish.sort = self.scene.wish.sort.step(step == 's');
                self.scene.first = 0;
            }
            KeyCode::Char('r') => self.scene.wish.reversed = !self.scene.wish.reversed,
            KeyCode::Char(' ') => self.scene.paused = !self.scene.paused,
            KeyCode::Char('+') => self.change_pace(|pace| pace * 2),
            KeyCode::Char('-') => self.change_pace(|pace| pace / 2),
            KeyCode::Down | KeyCode::Char('j') => self.scene.first = first + 1,
            KeyCode::Up | KeyCode::Char('k') => self.scene.first = first.saturating_sub(1),
            KeyCode::PageDown => self.scene.first = first + page,
            KeyCode::PageUp => self.scene.first = first.saturating_sub(page),
            KeyCode::Home => self.scene.first = 0,
            // Drawing knows where the end is.
            KeyCode::End => self.scene.first = usize::MAX,
            _ => {}
        }
        self.look();
        true
    }

    fn type_filter(&mut self, key: KeyCode) {
        let filter = &mut self.scene.wish.filter;
        match key {
            KeyCode::Enter => self.scene.typing = false,
            KeyCode::Esc => {
                filter.clear();
                self.scene.typing = false;
            }
            KeyCode::Backspace => drop(filter.pop()),
            KeyCode::Char(character) if filter.len() < 100 => filter.push(character),
            _ => {}
        }
        self.scene.first = 0;
        self.look();
    }

    fn change_pace(&mut self, change: fn(Duration) -> Duration) {
        let pace = change(Duration::from_millis(self.pace.load(Ordering::Relaxed)));
        let [shortest, longest] = INTERVALS;
        self.pace.store(millis(pace.clamp(shortest, longest)), Ordering::Relaxed);
        self.tell_pace();
    }
}
