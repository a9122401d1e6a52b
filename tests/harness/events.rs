//! A listener to `GET /v1/events`.

use std::io::{BufRead, BufReader, Write};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;

use super::{Gateway, until};

/// Events since it began to listen.
pub struct Events(Arc<Mutex<Vec<Value>>>);

impl Events {
    /// Listens from now on.
    pub fn of(gateway: &Gateway) -> Self {
        let mut stream = gateway.connect_admin().unwrap();
        // Of this version, because its body ends with the connection and is not in chunks.
        stream.write_all(b"GET /v1/events HTTP/1.0\r\n\r\n").unwrap();
        let mut lines = BufReader::new(stream).lines();
        let head: Vec<_> =
            lines.by_ref().map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
        assert!(head[0].contains("200"), "{head:?}");
        assert!(head.contains(&"content-type: text/event-stream".to_owned()), "{head:?}");
        let events = Arc::new(Mutex::new(Vec::new()));
        let collected = Arc::clone(&events);
        thread::spawn(move || {
            // The gateway may be killed meanwhile; then that was all.
            for line in lines.map_while(Result::ok) {
                if let Some(data) = line.strip_prefix("data: ") {
                    collected.lock().unwrap().push(serde_json::from_str(data).expect(&line));
                }
            }
        });
        Self(events)
    }

    /// Waits for an event with these fields.
    #[track_caller]
    pub fn await_event(&self, fields: &[(&str, &str)]) -> Value {
        until(&format!("an event with {fields:?}"), || {
            let events = self.0.lock().unwrap();
            let is_it = |event: &&Value| fields.iter().all(|(name, value)| event[*name] == *value);
            events.iter().find(is_it).cloned()
        })
    }

    /// All so far.
    pub fn all(&self) -> Vec<Value> {
        self.0.lock().unwrap().clone()
    }
}
