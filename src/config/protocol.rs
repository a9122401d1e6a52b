//! What a listener does with its connections: `protocol`, and the keys of `[[listener]]` that only
//! some protocols have a use for.

use std::path::PathBuf;

use super::findings::{Problem, Spanned, quote};
use super::plan::ServerTls;
use super::reader::{Field, Section};
use super::route::{Conditions, Route, routes};
use super::schema::{optional, parse_file};
use super::tls;
use super::value::unknown_value;
use super::vocabulary as known;

/// What belongs to the protocol of a listener.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) protocol: Protocol,
    pub(super) routes: Vec<Route>,
    pub(super) pool: Field<String>,
}

/// `protocol`, with the keys that belong to it.
#[derive(Debug)]
pub(super) enum Protocol {
    Tcp,
    Tls(Box<ServerTls>),
    TlsPassthrough,
    Redirect { acme_dir: Option<PathBuf>, acme_pool: Option<Spanned<String>> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tcp,
    Tls,
    TlsPassthrough,
    Redirect,
}

const KINDS: [Kind; 4] = [Kind::Tcp, Kind::Tls, Kind::TlsPassthrough, Kind::Redirect];

/// The keys that not every protocol has a use for, and the protocols that have.
const KEYS_OF_KINDS: [(&str, &[Kind]); 6] = [
    ("pool", &[Kind::Tcp, Kind::Tls, Kind::TlsPassthrough]),
    ("tls", &[Kind::Tls]),
    ("route", &[Kind::Tcp, Kind::Tls, Kind::TlsPassthrough]),
    ("first_bytes_timeout", &[Kind::Tcp, Kind::TlsPassthrough]),
    ("acme_dir", &[Kind::Redirect]),
    ("acme_pool", &[Kind::Redirect]),
];

/// Reads these keys of `[[listener]]`.
pub(super) fn service(section: &mut Section<'_, '_>) -> Service {
    let written = section.parsed("protocol", parse_kind);
    // Of a protocol that cannot be read nobody knows which keys belong to it.
    if matches!(written, Field::Wrong) {
        section.section("tls", &known::LISTENER_TLS, tls::listener);
        redirect(section);
        let routes = routes(section, Conditions::Any);
        return Service { protocol: Protocol::Tcp, routes, pool: pool(section) };
    }
    refuse_keys_of_other_kinds(section, written.as_given());
    match written.or(Kind::Tcp) {
        Kind::Tcp => {
            let routes = routes(section, Conditions::WithoutHello);
            Service { protocol: Protocol::Tcp, routes, pool: pool(section) }
        }
        Kind::Tls => {
            let tls = section.section_or_empty("tls", &known::LISTENER_TLS, tls::listener);
            let protocol = Protocol::Tls(Box::new(tls));
            let routes = routes(section, Conditions::OfHello);
            Service { protocol, routes, pool: pool(section) }
        }
        Kind::TlsPassthrough => {
            let routes = routes(section, Conditions::Any);
            Service { protocol: Protocol::TlsPassthrough, routes, pool: pool(section) }
        }
        Kind::Redirect => {
            Service { protocol: redirect(section), routes: Vec::new(), pool: Field::Absent }
        }
    }
}

fn pool(section: &mut Section<'_, '_>) -> Field<String> {
    section.parsed("pool", |name| Ok(name.to_owned()))
}

/// Whoever answers the challenges of ACME, there is one of them.
fn redirect(section: &mut Section<'_, '_>) -> Protocol {
    let directory = section.parsed("acme_dir", optional(parse_file));
    let pool = section.parsed("acme_pool", optional(|name| Ok(name.to_owned())));
    let pool = pool.given().and_then(|pool| Some(Spanned { value: pool.value?, span: pool.span }));
    if let (Some(Spanned { value: Some(_), span }), Some(pool)) = (directory.as_given(), &pool) {
        let message = "acme_pool: challenges are answered from the acme_dir";
        section.errors.clash(pool.span, message, *span).help("remove one of them");
    }
    Protocol::Redirect { acme_dir: directory.or(None), acme_pool: pool }
}

fn refuse_keys_of_other_kinds(section: &mut Section<'_, '_>, written: Option<&Spanned<Kind>>) {
    let kind = written.map_or(Kind::Tcp, |written| written.value);
    for (key, owners) in KEYS_OF_KINDS {
        if owners.contains(&kind) {
            continue;
        }
        if let Some(span) = section.key_span(key) {
            let names: Vec<String> =
                owners.iter().map(|owner| format!("\"{}\"", owner.name())).collect();
            let names = names.join(", ");
            let message =
                format!("'{key}' is a key of protocol {names}, not of \"{}\"", kind.name());
            let finding = section.errors.wrong(span, message);
            if written.is_none() {
                finding.note("without a 'protocol', the protocol is \"tcp\"");
            }
            if let Some(help) = help(key, kind) {
                finding.help(help);
            }
        }
    }
}

/// What to do about `key` under a protocol that has no use for it.
fn help(key: &str, kind: Kind) -> Option<&'static str> {
    match (key, kind) {
        ("pool", _) => Some("a redirect answers by itself; only challenges can go to an acme_pool"),
        ("tls", Kind::Tcp) => Some("write protocol = \"tls\" to decrypt here"),
        ("tls", Kind::TlsPassthrough) => {
            Some("the backends decrypt; write protocol = \"tls\" to do it here")
        }
        ("tls", _) => Some("a redirect speaks plain HTTP; HTTPS needs a listener of its own"),
        ("first_bytes_timeout", Kind::Tls) => Some("the client_timeout is for the handshake"),
        ("acme_dir" | "acme_pool", _) => {
            Some("challenges come to port 80: add a listener with protocol = \"redirect\"")
        }
        _ => None,
    }
}

fn parse_kind(word: &str) -> Result<Kind, Problem> {
    if word == "udp" {
        return Err(Problem::new(format!("{} is not supported yet", quote(word))));
    }
    let kind = KINDS.into_iter().find(|kind| kind.name() == word);
    kind.ok_or_else(|| unknown_value(word, KINDS.iter().map(|kind| kind.name()).chain(["udp"])))
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::TlsPassthrough => "tls_passthrough",
            Self::Redirect => "redirect",
        }
    }
}
