//! Telling whoever listens to `GET /v1/events` what changes, and why.
//!
//! Events go to each listener through a bounded channel. One that does not read in time loses its
//! stream, and nothing else happens: the gateway never waits for it.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use axum::body::Bytes;
use serde_json::{Map, Value};
use tokio::sync::mpsc;

use crate::admin::Replay;

/// Events on their way to one listener.
const BACKLOG: usize = 512;

/// Events that are remembered, for those who come later.
const REMEMBERED: usize = 256;

/// Most listeners at once.
const LISTENERS: usize = 64;

/// What can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A VRRP instance.
    Vrrp,
    /// A backend.
    Backend,
    /// The configuration.
    Reload,
    /// A certificate.
    Certificate,
    /// The gateway as a whole.
    Gateway,
    /// What an operator has set.
    Operator,
}

impl Kind {
    /// As it is written in an event.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vrrp => "vrrp",
            Self::Backend => "backend",
            Self::Reload => "reload",
            Self::Certificate => "certificate",
            Self::Gateway => "gateway",
            Self::Operator => "operator",
        }
    }
}

/// Those who listen.
#[derive(Debug, Default)]
pub struct Events {
    listeners: Vec<mpsc::Sender<Bytes>>,
    /// Events so far. The first has the id 1.
    count: u64,
    /// The latest of them, with their ids.
    remembered: VecDeque<(u64, Bytes)>,
}

impl Events {
    /// A stream of what `replay` asks for of what has happened, and of all that happens from now on;
    /// `None` if there are too many already.
    pub fn listen(&mut self, replay: Replay) -> Option<mpsc::Receiver<Bytes>> {
        self.listeners.retain(|listener| !listener.is_closed());
        if self.listeners.len() >= LISTENERS {
            return None;
        }
        let (sender, receiver) = mpsc::channel(BACKLOG);
        // Ids begin anew with each process: who has seen a later one has seen none of these.
        let since = replay.since.map(|since| if since > self.count { 0 } else { since });
        let known = self.remembered.len();
        let latest = known - replay.last.map_or(known, |last| last.min(known));
        let wanted = self.remembered.iter().enumerate().filter(|(index, (id, _))| {
            match (since, replay.last) {
                (None, None) => false,
                (since, _) => *index >= latest && since.is_none_or(|since| *id > since),
            }
        });
        for (_, (_, event)) in wanted {
            // There is room for all that is remembered.
            let _ = sender.try_send(event.clone());
        }
        self.listeners.push(sender);
        // So that the listener knows at once that it is one.
        self.send(": listening\n\n".into());
        Some(receiver)
    }

    /// Tells everybody of a change: what it is about, what it was and is, and its cause.
    pub fn tell(&mut self, kind: Kind, at: SystemTime, fields: &[(&str, Value)]) {
        self.count += 1;
        let time = humantime::format_rfc3339_millis(at).to_string();
        let mut event = Map::from_iter([
            ("time".to_owned(), time.into()),
            ("kind".to_owned(), kind.name().into()),
        ]);
        event.extend(fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        let data = Value::Object(event);
        // A JSON text has no line breaks of its own, so it is one line of data.
        let id = self.count;
        let event = Bytes::from(format!("id: {id}\nevent: {}\ndata: {data}\n\n", kind.name()));
        if self.remembered.len() == REMEMBERED {
            self.remembered.pop_front();
        }
        self.remembered.push_back((id, event.clone()));
        self.send(event);
    }

    /// Ends all streams: who listens is to ask another process.
    pub fn end(&mut self) {
        self.listeners.clear();
    }

    /// Lets those that have gone away without a word be noticed.
    pub fn keep_alive(&mut self) {
        self.send(": \n\n".into());
    }

    /// Waits, for a moment at most, until those who read have what they were told.
    pub async fn flush(&self) {
        const STEP: Duration = Duration::from_millis(5);
        const STEPS: u32 = 20;
        let is_done = |listener: &mpsc::Sender<Bytes>| {
            listener.is_closed() || listener.capacity() == listener.max_capacity()
        };
        if self.listeners.is_empty() {
            return;
        }
        for _ in 0..STEPS {
            let done = self.listeners.iter().all(is_done);
            // Once more when all is taken: it has to be written as well.
            tokio::time::sleep(STEP).await;
            if done {
                return;
            }
        }
    }

    fn send(&mut self, text: Bytes) {
        // Full as well as closed: who does not keep up is not waited for.
        self.listeners.retain(|listener| listener.try_send(text.clone()).is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_one_line_each_and_numbered() {
        let mut events = Events::default();
        events.tell(Kind::Gateway, SystemTime::UNIX_EPOCH, &[]);
        let mut stream = events.listen(Replay::default()).unwrap();
        let cause = "two\nlines".into();
        events.tell(Kind::Backend, SystemTime::UNIX_EPOCH, &[("cause", cause)]);
        events.keep_alive();
        let mut text = String::new();
        while let Ok(part) = stream.try_recv() {
            text.push_str(std::str::from_utf8(&part).unwrap());
        }
        assert_eq!(
            text,
            ": listening\n\nid: 2\nevent: backend\ndata: {\"cause\":\"two\\nlines\",\"kind\":\
             \"backend\",\"time\":\"1970-01-01T00:00:00.000Z\"}\n\n: \n\n"
        );
    }

    #[test]
    fn who_does_not_read_loses_its_stream_and_nobody_else() {
        let mut events = Events::default();
        let mut slow = events.listen(Replay::default()).unwrap();
        let mut quick = events.listen(Replay::default()).unwrap();
        for _ in 0..2 * BACKLOG {
            events.tell(Kind::Reload, SystemTime::UNIX_EPOCH, &[]);
            while quick.try_recv().is_ok() {}
        }
        events.keep_alive();
        assert!(quick.try_recv().is_ok());
        let mut received = 0;
        while slow.try_recv().is_ok() {
            received += 1;
        }
        assert_eq!(received, BACKLOG);
        assert!(slow.is_closed());
    }

    #[test]
    fn what_has_happened_is_repeated_as_far_as_it_is_remembered() {
        let mut events = Events::default();
        for _ in 0..REMEMBERED + 10 {
            events.tell(Kind::Operator, SystemTime::UNIX_EPOCH, &[]);
        }
        let count = (REMEMBERED + 10) as u64;
        let mut ids = |since, last| -> Vec<u64> {
            let mut stream = events.listen(Replay { since, last }).unwrap();
            let parts = std::iter::from_fn(|| stream.try_recv().ok());
            let id = |part: Bytes| {
                let text = String::from_utf8(part.to_vec()).unwrap();
                text.strip_prefix("id: ")?.split_once('\n')?.0.parse().ok()
            };
            parts.filter_map(id).collect()
        };
        assert!(ids(None, None).is_empty());
        assert_eq!(ids(Some(count - 2), None), [count - 1, count]);
        assert!(ids(Some(count), None).is_empty());
        assert_eq!(ids(None, Some(3)), [count - 2, count - 1, count]);
        assert_eq!(ids(Some(count - 1), Some(3)), [count]);
        assert_eq!(ids(Some(3), None).len(), REMEMBERED, "older ones are forgotten");
        assert_eq!(ids(Some(1_000_000), None).len(), REMEMBERED, "ids of an earlier process");
        assert_eq!(ids(None, Some(usize::MAX)).len(), REMEMBERED);
    }

    #[test]
    fn there_is_room_for_so_many_and_again_when_one_leaves() {
        let mut events = Events::default();
        let mut streams: Vec<_> =
            (0..LISTENERS).map(|_| events.listen(Replay::default()).unwrap()).collect();
        assert!(events.listen(Replay::default()).is_none());
        streams.pop();
        assert!(events.listen(Replay::default()).is_some());
    }
}
