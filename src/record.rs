//! Access records: one line per connection, at its end.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use crate::stats::Reason;

/// Form of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `key=value` with a space between; keys without a value are left out.
    Text,
    /// One JSON object; keys without a value are `null`.
    Json,
}

/// What is told of a connection.
#[derive(Debug)]
pub struct Record<'a> {
    /// When it ended.
    pub time: SystemTime,
    /// Name of the listener.
    pub listener: &'a str,
    /// Address of the client.
    pub client: SocketAddr,
    /// Name of the pool.
    pub pool: Option<&'a str>,
    /// Name of the backend that it reached, or tried last.
    pub backend: Option<&'a str>,
    /// Backends that were tried.
    pub attempts: u32,
    /// Time in the queue.
    pub queue: Duration,
    /// Time to connect, failed attempts included.
    pub connect: Option<Duration>,
    /// Time from accept to the end.
    pub duration: Duration,
    /// Bytes delivered to the backend.
    pub bytes_in: u64,
    /// Bytes delivered to the client.
    pub bytes_out: u64,
    /// Why it ended.
    pub reason: Reason,
    /// Unique.
    pub id: Id,
}

/// Names a connection: unique on a host, across restarts.
#[derive(Clone, Copy, Debug)]
pub struct Id {
    /// Seconds from 1970 to the start of the process.
    pub started: u64,
    /// Worker that accepted it.
    pub worker: usize,
    /// Counts the connections of that worker.
    pub sequence: u64,
}

impl Record<'_> {
    /// Appends the record as a line.
    pub fn write(&self, format: Format, line: &mut String) {
        let mut fields = Fields { line, format, first: true };
        fields.begin();
        fields.quoted("time", humantime::format_rfc3339_millis(self.time));
        fields.text("listener", Some(self.listener));
        fields.quoted("client", self.client.ip().to_canonical());
        fields.plain("client_port", self.client.port());
        for absent in ["server_name", "tls_version", "tls_cipher", "tls_resumed", "alpn"] {
            fields.text(absent, None);
        }
        fields.text("pool", self.pool);
        fields.text("backend", self.backend);
        fields.plain("attempts", self.attempts);
        fields.plain("queue_ms", millis(self.queue));
        match self.connect {
            Some(connect) => fields.plain("connect_ms", millis(connect)),
            None => fields.text("connect_ms", None),
        }
        fields.text("handshake_ms", None);
        fields.plain("duration_ms", millis(self.duration));
        fields.plain("bytes_in", self.bytes_in);
        fields.plain("bytes_out", self.bytes_out);
        fields.text("reason", Some(self.reason.name()));
        let Id { started, worker, sequence } = self.id;
        fields.quoted("id", format_args!("{started:x}-{worker:x}-{sequence:x}"));
        fields.end();
    }
}

/// Milliseconds, to the microsecond.
fn millis(duration: Duration) -> impl std::fmt::Display {
    let micros = duration.as_micros();
    std::fmt::from_fn(move |f| write!(f, "{}.{:03}", micros / 1_000, micros % 1_000))
}

struct Fields<'a> {
    line: &'a mut String,
    format: Format,
    first: bool,
}

impl Fields<'_> {
    fn begin(&mut self) {
        if self.format == Format::Json {
            self.line.push('{');
        }
    }

    fn end(&mut self) {
        self.line.push_str(match self.format {
            Format::Json => "}\n",
            Format::Text => "\n",
        });
    }

    fn key(&mut self, key: &str) {
        let first = std::mem::replace(&mut self.first, false);
        match self.format {
            Format::Json => {
                self.line.push_str(if first { "\"" } else { ",\"" });
                self.line.push_str(key);
                self.line.push_str("\":");
            }
            Format::Text => {
                if !first {
                    self.line.push(' ');
                }
                self.line.push_str(key);
                self.line.push('=');
            }
        }
    }

    /// A value that needs no escaping, and no quotes in JSON.
    fn plain(&mut self, key: &str, value: impl std::fmt::Display) {
        self.key(key);
        // Writing to a string cannot fail.
        let _ = write!(self.line, "{value}");
    }

    /// A value that needs no escaping, but quotes in JSON.
    fn quoted(&mut self, key: &str, value: impl std::fmt::Display) {
        match self.format {
            Format::Json => self.plain(key, format_args!("\"{value}\"")),
            Format::Text => self.plain(key, value),
        }
    }

    /// Any text. A configuration allows no white space or control characters in names, but
    /// quotes and backslashes it does.
    fn text(&mut self, key: &str, value: Option<&str>) {
        match (self.format, value) {
            (Format::Text, None) => {}
            (Format::Json, None) => self.plain(key, "null"),
            (Format::Text, Some(value)) => self.plain(key, value),
            (Format::Json, Some(value)) => {
                self.key(key);
                self.line.push('"');
                for character in value.chars() {
                    match character {
                        '"' | '\\' => self.line.extend(['\\', character]),
                        control if control.is_control() => {
                            let _ = write!(self.line, "\\u{:04x}", u32::from(control));
                        }
                        other => self.line.push(other),
                    }
                }
                self.line.push('"');
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record<'static> {
        Record {
            time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
            listener: "web",
            client: "10.1.2.3:4567".parse().unwrap(),
            pool: Some("app"),
            backend: Some("app\"1\\"),
            attempts: 2,
            queue: Duration::ZERO,
            connect: Some(Duration::from_micros(1_234)),
            duration: Duration::from_secs(2),
            bytes_in: 64,
            bytes_out: 1_024,
            reason: Reason::Closed,
            id: Id { started: 0x10, worker: 1, sequence: 255 },
        }
    }

    #[test]
    fn text() {
        let mut line = String::new();
        record().write(Format::Text, &mut line);
        assert_eq!(
            line,
            "time=2023-11-14T22:13:20.123Z listener=web client=10.1.2.3 client_port=4567 pool=app \
             backend=app\"1\\ attempts=2 queue_ms=0.000 connect_ms=1.234 duration_ms=2000.000 \
             bytes_in=64 bytes_out=1024 reason=closed id=10-1-ff\n"
        );
    }

    #[test]
    fn json_has_every_key_and_parses() {
        let mut line = String::new();
        Record { connect: None, pool: None, ..record() }.write(Format::Json, &mut line);
        let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
        let object = parsed.as_object().unwrap();
        for key in [
            "time",
            "listener",
            "client",
            "client_port",
            "server_name",
            "tls_version",
            "tls_cipher",
            "tls_resumed",
            "alpn",
            "pool",
            "backend",
            "attempts",
            "queue_ms",
            "connect_ms",
            "handshake_ms",
            "duration_ms",
            "bytes_in",
            "bytes_out",
            "reason",
            "id",
        ] {
            assert!(object.contains_key(key), "{key}");
        }
        assert_eq!(object["backend"], "app\"1\\");
        assert_eq!(object["client_port"], 4567);
        assert!(object["pool"].is_null() && object["connect_ms"].is_null());
    }
}
