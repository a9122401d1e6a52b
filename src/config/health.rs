//! What is known about backends: `[pool.NAME.health]`, by asking them, and `[pool.NAME.passive]`,
//! by watching live traffic. Neither section depends on another, so both are read to the end here.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use super::address::parse_server_name;
use super::findings::{Problem, Spanned, quote};
use super::plan::{Check, Health, MOST_STEPS, Passive, Pattern, Step};
use super::reader::{Field, Section};
use super::schema::{optional, parse_file};
use super::units::format_duration;
use super::value::{number, text};
use super::vocabulary as known;
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

/// The keys that only some types of check have a use for.
const KEYS_OF_KINDS: [(&str, &[Kind]); 9] = [
    ("tls", &[Kind::Http]),
    ("path", &[Kind::Http]),
    ("host", &[Kind::Http]),
    ("expect_status", &[Kind::Http]),
    ("send", &[Kind::SendExpect]),
    ("expect", &[Kind::SendExpect]),
    ("steps", &[Kind::SendExpect]),
    ("sni", &[Kind::Tls, Kind::Http]),
    ("ca", &[Kind::Tls, Kind::Http]),
];

/// Reads `[pool.NAME.health]`.
pub(super) fn health(mut section: Section<'_, '_>) -> Health {
    let check = check(&mut section);
    let (sni, ca) = tls(&mut section, &check);
    let (interval, fast_interval) = intervals(&mut section);
    Health {
        check,
        interval,
        fast_interval,
        timeout: section.duration("timeout").or(Duration::from_secs(1)),
        rise: count(&mut section, "rise", NonZeroU32::MIN.saturating_add(1)),
        fall: count(&mut section, "fall", NonZeroU32::MIN.saturating_add(2)),
        port: Some(section.number("port", 0..=u16::MAX).or(0)).filter(|&port| port != 0),
        sni,
        ca,
    }
}

/// `sni` and `ca`, which a check over plain HTTP has no use for.
fn tls(section: &mut Section<'_, '_>, check: &Check) -> (Option<String>, Option<PathBuf>) {
    let sni = section.parsed("sni", optional(parse_server_name));
    let ca = section.parsed("ca", optional(parse_file));
    if matches!(check, Check::Http { tls: false, .. }) {
        let given = [sni.as_given().map(|sni| sni.span), ca.as_given().map(|ca| ca.span)];
        for (key, span) in ["sni", "ca"].into_iter().zip(given) {
            if let Some(span) = span {
                let message = format!("{key}: this check does not speak TLS");
                section.errors.wrong(span, message).help("add tls = true");
            }
        }
    }
    (sni.or(None), ca.or(None))
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
    let steps = section.sections("steps", &known::STEP, step);

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
        Kind::SendExpect => Check::SendExpect(exchange(section, send, expect, steps)),
    }
}

/// What is sent and expected: `steps`, or the two keys that stand for the simplest.
fn exchange(
    section: &mut Section<'_, '_>,
    send: Field<Vec<u8>>,
    expect: Field<Vec<u8>>,
    steps: Field<Vec<Option<Step>>>,
) -> Vec<Step> {
    if let Field::Wrong = steps {
        return Vec::new();
    }
    let Some(steps) = steps.given() else {
        if expect.is_absent() {
            let message = "type \"send_expect\" needs the key 'expect', or 'steps'";
            section.errors.key_missing(section.span, message);
        }
        let send = send.value().filter(|bytes| !bytes.is_empty()).map(Step::Send);
        return send.into_iter().chain(expect.value().map(Step::Begins)).collect();
    };
    for (key, span) in [("send", section.key_span("send")), ("expect", section.key_span("expect"))]
    {
        if let Some(span) = span {
            let message = format!("{key}: 'steps' says all that is sent and expected");
            section.errors.clash(span, message, steps.span);
        }
    }
    if steps.value.len() > MOST_STEPS {
        let message = format!("steps: {} are more than {MOST_STEPS}", steps.value.len());
        section.errors.wrong(steps.span, message);
    }
    // A step that is wrong has been reported.
    if steps.value.iter().flatten().count() == steps.value.len()
        && steps.value.iter().flatten().all(|step| matches!(step, Step::Send(_)))
    {
        let message = "steps: none of them expects anything";
        section.errors.wrong(steps.span, message).help("add { expect = \"…\" }");
    }
    steps.value.into_iter().flatten().collect()
}

/// `None` for one that has been reported.
fn step(mut section: Section<'_, '_>) -> Option<Step> {
    let send = section.parsed("send", |text| match text {
        "" => Err(Problem::new("must not be empty")),
        text => parse_exchange(text),
    });
    let begins = section.parsed("expect", parse_expect);
    let contains = section.parsed("expect_contains", parse_expect);
    let matches = section.parsed("expect_regex", parse_pattern);
    let are_there =
        [!send.is_absent(), !begins.is_absent(), !contains.is_absent(), !matches.is_absent()];
    if are_there.iter().filter(|is_there| **is_there).count() != 1 {
        section
            .errors
            .wrong(section.span, "steps: a step is one thing that is sent or expected")
            .help("write { send = \"PING\\r\\n\" }, { expect = \"+PONG\" }");
        return None;
    }
    let text = send.value().map(Step::Send);
    let text = text.or_else(|| begins.value().map(Step::Begins));
    let text = text.or_else(|| contains.value().map(Step::Contains));
    text.or_else(|| matches.value().map(Step::Matches))
}

fn parse_pattern(text: &str) -> Result<Pattern, Problem> {
    parse_expect(text)?;
    Pattern::new(text).map_err(|error| {
        // The crate shows the expression over several lines; the last says what is wrong.
        let told = error.to_string();
        let told = told.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        Problem::new(format!("no regular expression: {told}"))
    })
}

fn refuse_keys_of_other_kinds(section: &mut Section<'_, '_>, written: Option<&Spanned<Kind>>) {
    let kind = written.map_or(Kind::Tcp, |written| written.value);
    for (key, owners) in KEYS_OF_KINDS {
        let [owner, ..] = owners else { continue };
        if owners.contains(&kind) {
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
