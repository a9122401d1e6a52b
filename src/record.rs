//! Access records: one line per connection, at its end.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
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
    /// What TLS came to; none without TLS.
    pub tls: Option<&'a TlsFacts>,
    /// Time from accept to the end.
    pub duration: Duration,
    /// Bytes delivered to the backend. After an end other than `closed`: that it has acknowledged.
    pub bytes_in: u64,
    /// Bytes delivered to the client, in the same sense.
    pub bytes_out: u64,
    /// Whether each TLS peer that ended announced it by `close_notify`; none without TLS, or where no
    /// peer has ended its stream.
    pub close_notify: Option<bool>,
    /// Why it ended.
    pub reason: Reason,
    /// Unique.
    pub id: Id,
}

/// What a backend is told of a client's certificate, which was verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The common name of its subject.
    pub common_name: Option<Box<str>>,
}

/// What is told of TLS. After a handshake that failed, only the name.
#[derive(Clone, Debug, Default)]
pub struct TlsFacts {
    /// The name that the client asked for.
    pub server_name: Option<Box<str>>,
    /// `1.2` or `1.3`.
    pub version: Option<&'static str>,
    /// IANA name of the cipher suite.
    pub cipher: Option<&'static str>,
    /// It went on where an earlier connection left off.
    pub resumed: Option<bool>,
    /// The application protocol that was agreed on.
    pub alpn: Option<Box<str>>,
    /// Time that the handshake took.
    pub handshake: Option<Duration>,
    /// The client's certificate, if a backend is to be told of it.
    pub certificate: Option<ClientCertificate>,
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

/// A key and what precedes it, in text and in JSON: one piece to append, made by the compiler.
struct Key {
    text: &'static str,
    json: &'static str,
}

/// The key of a value; with `quoted`, of one that has quotes in JSON, up to the first of them.
macro_rules! key {
    ($name:literal) => {
        Key { text: concat!(" ", $name, "="), json: concat!(",\"", $name, "\":") }
    };
    (quoted $name:literal) => {
        Key { text: concat!(" ", $name, "="), json: concat!(",\"", $name, "\":\"") }
    };
}

impl Record<'_> {
    /// Appends the record as a line.
    pub fn write(&self, format: Format, line: &mut String) {
        // One allocation at most; only long names and addresses need more.
        line.reserve(512);
        let mut fields = Fields { line, format };
        fields.key(&Key { text: "time=", json: "{\"time\":\"" });
        fields.display(humantime::format_rfc3339_millis(self.time));
        fields.quote();
        fields.text(&key!(quoted "listener"), self.listener);
        fields.key(&key!(quoted "client"));
        fields.address(self.client.ip().to_canonical());
        fields.quote();
        fields.number(&key!("client_port"), self.client.port().into());
        match self.tls {
            Some(tls) => fields.tls(tls),
            None => fields.absent(concat!(
                ",\"server_name\":null,\"tls_version\":null,\"tls_cipher\":null",
                ",\"tls_resumed\":null,\"alpn\":null",
            )),
        }
        fields.optional(&key!(quoted "pool"), self.pool, ",\"pool\":null");
        fields.optional(&key!(quoted "backend"), self.backend, ",\"backend\":null");
        fields.number(&key!("attempts"), self.attempts.into());
        fields.millis(&key!("queue_ms"), self.queue);
        match self.connect {
            Some(connect) => fields.millis(&key!("connect_ms"), connect),
            None => fields.absent(",\"connect_ms\":null"),
        }
        match self.tls.and_then(|tls| tls.handshake) {
            Some(handshake) => fields.millis(&key!("handshake_ms"), handshake),
            None => fields.absent(",\"handshake_ms\":null"),
        }
        fields.millis(&key!("duration_ms"), self.duration);
        fields.number(&key!("bytes_in"), self.bytes_in);
        fields.number(&key!("bytes_out"), self.bytes_out);
        match self.close_notify {
            Some(announced) => fields.boolean(&key!("tls_close_notify"), announced),
            None => fields.absent(",\"tls_close_notify\":null"),
        }
        fields.key(&key!(quoted "reason"));
        fields.line.push_str(self.reason.name());
        fields.quote();
        let Id { started, worker, sequence } = self.id;
        fields.key(&key!(quoted "id"));
        hexadecimal(fields.line, started);
        fields.line.push('-');
        hexadecimal(fields.line, worker as u64);
        fields.line.push('-');
        hexadecimal(fields.line, sequence);
        fields.line.push_str(match format {
            Format::Json => "\"}\n",
            Format::Text => "\n",
        });
    }
}

/// The numbers below 1,000, three digits each.
static DECIMAL: &str = ascii(&table::<3_000>(3, 10));
/// The numbers below 256, two hexadecimal digits each.
static HEX: &str = ascii(&table::<512>(2, 16));

/// All numbers of `width` digits, in order.
const fn table<const LENGTH: usize>(width: usize, base: usize) -> [u8; LENGTH] {
    let mut table = [0; LENGTH];
    let mut last = LENGTH;
    while last > 0 {
        let mut number = (last - 1) / width;
        let mut at = last;
        while at > last - width {
            at -= 1;
            table[at] = b"0123456789abcdef"[number % base];
            number /= base;
        }
        last -= width;
    }
    table
}

const fn ascii(table: &'static [u8]) -> &'static str {
    match std::str::from_utf8(table) {
        Ok(text) => text,
        Err(_) => panic!("digits are ASCII"),
    }
}

/// Appends the lower three digits. Pieces of a table need neither a loop nor a proof that they
/// are UTF-8: this takes a fraction of what `core::fmt` does.
#[inline]
fn three_digits(line: &mut String, number: u64) {
    let at = (number % 1_000) as usize * 3;
    line.push_str(&DECIMAL[at..at + 3]);
}

fn decimal(line: &mut String, number: u64) {
    if number >= 1_000 {
        decimal(line, number / 1_000);
        return three_digits(line, number);
    }
    let zeroes = usize::from(number < 100) + usize::from(number < 10);
    let at = number as usize * 3;
    line.push_str(&DECIMAL[at + zeroes..at + 3]);
}

fn hexadecimal(line: &mut String, number: u64) {
    let at = (number % 256) as usize * 2;
    if number >= 256 {
        hexadecimal(line, number / 256);
        return line.push_str(&HEX[at..at + 2]);
    }
    line.push_str(&HEX[at + usize::from(number < 16)..at + 2]);
}

/// Whether JSON takes the text as it is, which is all that is looked for in the usual case.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\')
}

struct Fields<'a> {
    line: &'a mut String,
    format: Format,
}

impl Fields<'_> {
    #[inline]
    fn key(&mut self, key: &Key) {
        self.line.push_str(match self.format {
            Format::Json => key.json,
            Format::Text => key.text,
        });
    }

    /// The end of a value that has quotes in JSON.
    #[inline]
    fn quote(&mut self) {
        if self.format == Format::Json {
            self.line.push('"');
        }
    }

    /// What is left out of text, as it stands in JSON.
    #[inline]
    fn absent(&mut self, json: &str) {
        if self.format == Format::Json {
            self.line.push_str(json);
        }
    }

    fn display(&mut self, value: impl std::fmt::Display) {
        // Writing to a string cannot fail.
        let _ = write!(self.line, "{value}");
    }

    fn number(&mut self, key: &Key, value: u64) {
        self.key(key);
        decimal(self.line, value);
    }

    fn boolean(&mut self, key: &Key, value: bool) {
        self.key(key);
        self.line.push_str(if value { "true" } else { "false" });
    }

    /// Milliseconds, to the microsecond.
    fn millis(&mut self, key: &Key, duration: Duration) {
        self.key(key);
        let (seconds, micros) = (duration.as_secs(), u64::from(duration.subsec_micros()));
        if seconds == 0 {
            decimal(self.line, micros / 1_000);
        } else {
            // In two parts, for the product may not fit.
            decimal(self.line, seconds);
            three_digits(self.line, micros / 1_000);
        }
        self.line.push('.');
        three_digits(self.line, micros % 1_000);
    }

    fn address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => {
                for (n, octet) in v4.octets().into_iter().enumerate() {
                    if n > 0 {
                        self.line.push('.');
                    }
                    decimal(self.line, octet.into());
                }
            }
            IpAddr::V6(v6) => self.display(v6),
        }
    }

    /// Any text. A configuration allows no white space or control characters in names, but
    /// quotes and backslashes it does.
    fn text(&mut self, key: &Key, value: &str) {
        self.key(key);
        if self.format == Format::Text || is_plain(value) {
            self.line.push_str(value);
        } else {
            self.escaped(value);
        }
        self.quote();
    }

    fn optional(&mut self, key: &Key, value: Option<&str>, absent: &str) {
        match value {
            Some(value) => self.text(key, value),
            None => self.absent(absent),
        }
    }

    fn tls(&mut self, tls: &TlsFacts) {
        let name = tls.server_name.as_deref();
        self.optional(&key!(quoted "server_name"), name, ",\"server_name\":null");
        self.optional(&key!(quoted "tls_version"), tls.version, ",\"tls_version\":null");
        self.optional(&key!(quoted "tls_cipher"), tls.cipher, ",\"tls_cipher\":null");
        match tls.resumed {
            Some(resumed) => self.boolean(&key!("tls_resumed"), resumed),
            None => self.absent(",\"tls_resumed\":null"),
        }
        self.optional(&key!(quoted "alpn"), tls.alpn.as_deref(), ",\"alpn\":null");
    }

    #[cold]
    fn escaped(&mut self, value: &str) {
        for character in value.chars() {
            match character {
                '"' | '\\' => self.line.extend(['\\', character]),
                control if control.is_control() => {
                    let _ = write!(self.line, "\\u{:04x}", u32::from(control));
                }
                other => self.line.push(other),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
            tls: None,
            duration: Duration::from_secs(2),
            bytes_in: 64,
            bytes_out: 1_024,
            close_notify: None,
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
            "tls_close_notify",
            "reason",
            "id",
        ] {
            assert!(object.contains_key(key), "{key}");
        }
        assert_eq!(object["backend"], "app\"1\\");
        assert_eq!(object["client_port"], 4567);
        assert!(object["pool"].is_null() && object["connect_ms"].is_null());
    }

    /// A number of any length.
    fn number() -> impl Strategy<Value = u64> {
        (any::<u64>(), 0u32..64).prop_map(|(bits, shift)| bits >> shift)
    }

    fn duration() -> impl Strategy<Value = Duration> {
        (prop_oneof![Just(0), number()], 0u32..1_000_000_000)
            .prop_map(|(seconds, nanos)| Duration::new(seconds, nanos))
    }

    proptest! {
        #[test]
        fn numbers_are_as_the_library_writes_them(
            number in prop_oneof![Just(0), Just(u64::MAX), number()],
        ) {
            let mut line = String::new();
            decimal(&mut line, number);
            line.push(' ');
            hexadecimal(&mut line, number);
            line.push(' ');
            three_digits(&mut line, number);
            prop_assert_eq!(line, format!("{number} {number:x} {:03}", number % 1_000));
        }

        #[test]
        fn names_arrive_whatever_is_in_them(
            name in prop_oneof![any::<String>(), "[ -~]{0,9}", "[\"\\\\a\\x00-\\x1f\\x7f-\\xa0]{0,9}"],
        ) {
            let mut line = String::new();
            Record { listener: &name, ..record() }.write(Format::Json, &mut line);
            let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(parsed["listener"].as_str(), Some(&*name));
            prop_assert!(!line.trim_end_matches('\n').contains(char::is_control));
            if name.chars().all(|character| !character.is_control()) {
                let theirs = format!("\"listener\":{},", serde_json::to_string(&name).unwrap());
                prop_assert!(line.contains(&theirs), "{line} has no {theirs}");
            }
        }

        /// The whole line, as the library's formatting would have it.
        #[test]
        fn lines_are_exact(
            (port, attempts, bits) in (any::<u16>(), any::<u32>(), any::<u128>()),
            v6 in any::<bool>(),
            (queue, connect, lasted) in (duration(), proptest::option::of(duration()), duration()),
            (bytes_in, bytes_out, sequence) in (number(), number(), number()),
            pool in proptest::option::of("[!-~]{1,9}"),
        ) {
            let ip = if v6 {
                IpAddr::from(bits.to_be_bytes())
            } else {
                IpAddr::from((bits as u32).to_be_bytes())
            };
            let record = Record {
                client: SocketAddr::new(ip, port),
                pool: pool.as_deref(),
                attempts,
                queue,
                connect,
                duration: lasted,
                bytes_in,
                bytes_out,
                id: Id { started: 0x65, worker: 12, sequence },
                ..record()
            };
            let millis = |duration: Duration| {
                let micros = duration.as_micros();
                format!("{}.{:03}", micros / 1_000, micros % 1_000)
            };
            let ip = ip.to_canonical();
            let (queue, lasted) = (millis(queue), millis(lasted));
            let mut line = String::new();
            record.write(Format::Text, &mut line);
            let pool_field = pool.as_ref().map_or_else(String::new, |pool| format!(" pool={pool}"));
            let connect_field =
                connect.map_or_else(String::new, |time| format!(" connect_ms={}", millis(time)));
            prop_assert_eq!(&line, &format!(
                "time=2023-11-14T22:13:20.123Z listener=web client={ip} client_port={port}{pool_field} \
                 backend=app\"1\\ attempts={attempts} queue_ms={queue}{connect_field} \
                 duration_ms={lasted} bytes_in={bytes_in} bytes_out={bytes_out} reason=closed \
                 id=65-c-{sequence:x}\n"
            ));
            line.clear();
            record.write(Format::Json, &mut line);
            let pool = serde_json::to_string(&pool).unwrap();
            let connect = connect.map_or_else(|| "null".to_owned(), millis);
            prop_assert_eq!(&line, &format!(
                "{{\"time\":\"2023-11-14T22:13:20.123Z\",\"listener\":\"web\",\"client\":\"{ip}\",\
                 \"client_port\":{port},\"server_name\":null,\"tls_version\":null,\
                 \"tls_cipher\":null,\"tls_resumed\":null,\"alpn\":null,\"pool\":{pool},\
                 \"backend\":\"app\\\"1\\\\\",\"attempts\":{attempts},\"queue_ms\":{queue},\
                 \"connect_ms\":{connect},\"handshake_ms\":null,\"duration_ms\":{lasted},\
                 \"bytes_in\":{bytes_in},\"bytes_out\":{bytes_out},\
                 \"tls_close_notify\":null,\"reason\":\"closed\",\
                 \"id\":\"65-c-{sequence:x}\"}}\n"
            ));
        }
    }
}
