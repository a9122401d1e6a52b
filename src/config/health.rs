//! What is known about backends: `[pool.NAME.health]`, by asking them, and `[pool.NAME.passive]`,
//! by watching live traffic. Neither section depends on another, so both are read to the end here.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeValue;

use super::findings::{Problem, Spanned, quote};
use super::plan::{Check, Health, Passive};
use super::reader::{Field, Section};
use super::schema::optional;
use super::units::format_duration;
use super::value::{number, text};
use crate::proto::http_head::Host;

/// Most checks or failures in a row that a verdict may wait for.
const MAX_COUNT: u32 = 65_535;

/// Longest `send` and `expect`, in bytes.
const MAX_EXCHANGE: usize = 16 << 10;

const DEFAULT_INTERVAL: Duration = Duration::from_secs(2);
const DEFAULT_FAST_INTERVAL: Duration = Duration::from_millis(500);

/// `health.type`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tcp,
    Tls,
    Http,
    SendExpect,
}

const KINDS: [(&str, Kind); 4] = [
    ("tcp", Kind::Tcp),
    ("tls", Kind::Tls),
    ("http", Kind::Http),
    ("send_expect", Kind::SendExpect),
];

/// The keys that only one type of check has a use for.
const KEYS_OF_A_KIND: [(&str, Kind); 6] = [
    ("tls", Kind::Http),
    ("path", Kind::Http),
    ("host", Kind::Http),
    ("expect_status", Kind::Http),
    ("send", Kind::SendExpect),
    ("expect", Kind::SendExpect),
];

/// Reads `[pool.NAME.health]`.
pub(super) fn health(mut section: Section<'_, '_>) -> Health {
    let check = check(&mut section);
    let (interval, fast_interval) = intervals(&mut section);
    Health {
        check,
        interval,
        fast_interval,
        timeout: section.duration("timeout").or(Duration::from_secs(1)),
        rise: count(&mut section, "rise", NonZeroU32::MIN.saturating_add(1)),
        fall: count(&mut section, "fall", NonZeroU32::MIN.saturating_add(2)),
        port: Some(section.number("port", 0..=u16::MAX).or(0)).filter(|&port| port != 0),
    }
}

/// Reads `[pool.NAME.passive]`; `None` when it is turned off.
pub(super) fn passive(mut section: Section<'_, '_>) -> Option<Passive> {
    let max_fails = section.number("max_fails", 0..=MAX_COUNT).or(3);
    let window = section.duration("window").or(Duration::from_secs(30));
    let eject_for = section.duration("eject_for").or(Duration::from_secs(30));
    let max_ejected = section.number("max_ejected", 0..=100).or(50);
    Some(Passive { max_fails: NonZeroU32::new(max_fails)?, window, eject_for, max_ejected })
}

fn check(section: &mut Section<'_, '_>) -> Check {
    let kind = section.choice("type", &KINDS);
    let tls = section.flag("tls");
    let path = section.parsed("path", parse_path);
    let host = section.parsed("host", optional(parse_host_header));
    let expect_status = section.one_or_more("expect_status", parse_status);
    let send = section.parsed("send", parse_exchange);
    let expect = section.parsed("expect", parse_expect);

    // Of a type that cannot be read nobody knows which keys belong to it.
    if !matches!(kind, Field::Wrong) {
        refuse_keys_of_other_kinds(section, kind.as_given());
    }
    match kind.or(Kind::Tcp) {
        Kind::Tcp => Check::Tcp,
        Kind::Tls => Check::Tls,
        Kind::Http => Check::Http {
            tls: tls.or(false),
            path: path.or_else(|| "/healthz".to_owned()),
            host: host.or(None),
            expect_status: expect_status.given().map_or_else(
                || vec![200..=399],
                |ranges| ranges.value.into_iter().map(|range| range.value).collect(),
            ),
        },
        Kind::SendExpect => {
            if expect.is_absent() {
                section
                    .errors
                    .key_missing(section.span, "type \"send_expect\" needs the key 'expect'");
            }
            Check::SendExpect { send: send.or_else(Vec::new), expect: expect.or_else(Vec::new) }
        }
    }
}

fn refuse_keys_of_other_kinds(section: &mut Section<'_, '_>, written: Option<&Spanned<Kind>>) {
    let kind = written.map_or(Kind::Tcp, |written| written.value);
    for (key, owner) in KEYS_OF_A_KIND {
        if owner == kind {
            continue;
        }
        if let Some(span) = section.key_span(key) {
            let message = format!(
                "'{key}' is a key of type \"{}\", not of \"{}\"",
                owner.name(),
                kind.name()
            );
            let finding = section.errors.wrong(span, message);
            if written.is_none() {
                finding.note("without a 'type', the type is \"tcp\"");
            }
        }
    }
}

/// `interval` and `fast_interval`, which must not be the longer one.
fn intervals(section: &mut Section<'_, '_>) -> (Duration, Duration) {
    let interval = section.duration("interval");
    let fast = section.duration("fast_interval");
    let interval_is_known = !matches!(interval, Field::Wrong);
    let interval = interval.or(DEFAULT_INTERVAL);
    let Some(fast) = fast.given() else {
        return (interval, DEFAULT_FAST_INTERVAL.min(interval));
    };
    if interval_is_known && fast.value > interval {
        let (fast_text, text) = (format_duration(fast.value), format_duration(interval));
        let message = format!("fast_interval: {fast_text} is longer than the interval of {text}");
        section.errors.wrong(fast.span, message);
    }
    (interval, fast.value)
}

fn count(section: &mut Section<'_, '_>, key: &'static str, default: NonZeroU32) -> NonZeroU32 {
    NonZeroU32::new(section.number(key, 1..=MAX_COUNT).or(default.get())).unwrap_or(default)
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Http => "http",
            Self::SendExpect => "send_expect",
        }
    }
}

/// A request target in origin form, RFC 9112, section 3.2.1.
fn parse_path(text: &str) -> Result<String, Problem> {
    if !text.starts_with('/') {
        return Err(Problem::new("a path begins with '/'").help("write \"/healthz\""));
    }
    if let Some(c) = text.chars().find(|c| !c.is_ascii_graphic()) {
        return Err(unfit_character(c).help("percent-encode it"));
    }
    Ok(text.to_owned())
}

/// What `host` may be.
const HOST_HEADER: &str = "write a host name, as in \"www.example.com\", or an address";

fn parse_host_header(text: &str) -> Result<String, Problem> {
    match text.chars().find(|c| !c.is_ascii_graphic() || *c == '/') {
        Some(c) => Err(unfit_character(c).help(HOST_HEADER)),
        // As it is written: a trailing dot or a port may be what the backend wants.
        None => match Host::parse(text) {
            Some(_) => Ok(text.to_owned()),
            None => Err(Problem::new(format!("{} is not a host", quote(text))).help(HOST_HEADER)),
        },
    }
}

fn unfit_character(c: char) -> Problem {
    // A control character or a space would hardly be seen.
    let shown =
        if c.is_ascii_graphic() { quote(&c.to_string()) } else { c.escape_unicode().to_string() };
    Problem::new(format!("the character {shown} is not allowed here"))
}

/// A status, `200` or `"200"`, or a range of them, `"200-399"`.
fn parse_status(value: &DeValue<'_>) -> Result<RangeInclusive<u16>, Problem> {
    if let DeValue::Integer(_) = value {
        let status = number(value, 100..=599)?;
        return Ok(status..=status);
    }
    let text = text(value)?;
    let not_a_status = || {
        let message = format!("{} is not a status or range within 100 to 599", quote(text));
        Problem::new(message).help("write \"200\" or \"200-399\"")
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let status = |digits: &str| {
        let number = digits.parse::<u16>().ok()?;
        (digits.len() == 3 && (100..=599).contains(&number)).then_some(number)
    };
    match (status(first), status(last)) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        (Some(_), Some(_)) => Err(Problem::new(format!("{} is an empty range", quote(text)))
            .help(format!("write \"{last}-{first}\""))),
        _ => Err(not_a_status()),
    }
}

fn parse_exchange(text: &str) -> Result<Vec<u8>, Problem> {
    if text.len() > MAX_EXCHANGE {
        return Err(Problem::new(format!("longer than {} KiB", MAX_EXCHANGE >> 10)));
    }
    Ok(text.as_bytes().to_vec())
}

fn parse_expect(text: &str) -> Result<Vec<u8>, Problem> {
    if text.is_empty() {
        return Err(Problem::new("must not be empty: any answer begins with nothing"));
    }
    parse_exchange(text)
}
