//! `[[listener.route]]`: which pool a client gets, by what it says first, and by what its ClientHello
//! and its address say.

use super::address::{parse_network, parse_sni_pattern};
use super::findings::{Findings, Problem, Span};
use super::plan::{FirstBytes, Network, SniPattern};
use super::reader::{Field, Section};
use super::tls::{MOST_PROTOCOLS, parse_alpn};
use super::value::unknown_value;
use super::vocabulary as known;

/// Most routes of a listener: they are tried one after another.
const MOST_ROUTES: usize = 10_000;

/// Most names, and most networks, in a route.
const MOST_PATTERNS: usize = 10_000;

/// What the routes of a listener may ask for, beside the client's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conditions {
    /// What a client says first, and what its ClientHello says.
    Any,
    /// No ClientHello is read.
    WithoutHello,
    /// There is nothing but a ClientHello.
    OfHello,
}

/// A route, before its pool is looked up.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) header: Span,
    pub(super) first_bytes: Vec<FirstBytes>,
    pub(super) sni: Vec<SniPattern>,
    pub(super) alpn: Vec<String>,
    pub(super) client: Vec<Network>,
    pub(super) pool: Field<String>,
    /// A condition is written that nobody understands, and has been reported.
    is_unclear: bool,
}

/// Reads all routes of a listener.
pub(super) fn routes(section: &mut Section<'_, '_>, conditions: Conditions) -> Vec<Route> {
    let read = |section: Section<'_, '_>| route(section, conditions);
    let Some(routes) = section.sections("route", &known::ROUTE, read).given() else {
        return Vec::new();
    };
    let count = routes.value.len();
    if count > MOST_ROUTES {
        section.errors.wrong(routes.span, format!("route: {count} are more than {MOST_ROUTES}"));
    }
    report_unreachable(&routes.value, section.errors);
    routes.value
}

fn route(mut section: Section<'_, '_>, conditions: Conditions) -> Route {
    let spans = ["first_bytes", "sni", "alpn"].map(|key| section.key_span(key));
    let first_bytes = section.distinct("first_bytes", FirstBytes::ALL.len(), parse_first_bytes);
    let sni = section.distinct("sni", MOST_PATTERNS, parse_sni_pattern);
    let alpn = section.distinct("alpn", MOST_PROTOCOLS, parse_alpn);
    let client = section.distinct("client", MOST_PATTERNS, parse_network);
    let is_unclear = matches!(first_bytes, Field::Wrong)
        || matches!(sni, Field::Wrong)
        || matches!(alpn, Field::Wrong)
        || matches!(client, Field::Wrong);
    let route = Route {
        header: section.span,
        first_bytes: first_bytes.or(Vec::new()),
        sni: sni.or(Vec::new()),
        alpn: alpn.or(Vec::new()),
        client: client.or(Vec::new()),
        pool: section.parsed("pool", |name| Ok(name.to_owned())),
        is_unclear,
    };
    let is_asked = [!route.first_bytes.is_empty(), !route.sni.is_empty(), !route.alpn.is_empty()];
    for ((key, span), is_asked) in
        ["first_bytes", "sni", "alpn"].into_iter().zip(spans).zip(is_asked)
    {
        let Some(span) = span.filter(|_| is_asked) else { continue };
        match (key, conditions) {
            ("first_bytes", Conditions::OfHello) => {
                section
                    .errors
                    .wrong(span, "first_bytes: with protocol \"tls\" a client says nothing but TLS")
                    .help(
                        "write protocol = \"tls_passthrough\" or \"tcp\" to tell protocols apart",
                    );
            }
            ("sni" | "alpn", Conditions::WithoutHello) => {
                let message = format!("{key}: with protocol \"tcp\" no ClientHello is read");
                section
                    .errors
                    .wrong(span, message)
                    .help("write protocol = \"tls_passthrough\" to route without decrypting");
            }
            _ => {}
        }
    }
    if Clients::reached_by(&route) == Clients::NONE {
        section
            .errors
            .wrong(route.header, "this route never matches: only TLS has an 'sni' or 'alpn'")
            .help("add \"tls\" to its 'first_bytes'");
    }
    route
}

fn parse_first_bytes(word: &str) -> Result<FirstBytes, Problem> {
    let kind = FirstBytes::ALL.into_iter().find(|kind| kind.name() == word);
    kind.ok_or_else(|| unknown_value(word, FirstBytes::ALL.iter().map(|kind| kind.name())))
}

/// Reports the first route that no client gets to, because those before it take them all.
fn report_unreachable(routes: &[Route], errors: &mut Findings) {
    let mut taken = Clients::NONE;
    let mut takers: Vec<(Clients, Span)> = Vec::new();
    for route in routes {
        let reached = Clients::reached_by(route);
        if !route.is_unclear && reached != Clients::NONE && reached.are_in(taken) {
            let one = takers.iter().find(|(taken, _)| reached.are_in(*taken));
            let (message, help, other) = match one {
                Some((Clients::ALL, taker)) => (
                    "this route is never reached: every client matches the one",
                    "give that one a 'first_bytes', 'sni', 'alpn' or 'client', or put it last",
                    *taker,
                ),
                Some((_, taker)) => (
                    "this route is never reached: all its clients match the one",
                    "put this one before it",
                    *taker,
                ),
                None => (
                    "this route is never reached: all its clients match others before, up to the one",
                    "put this one before them",
                    takers.last().map_or(route.header, |(_, taker)| *taker),
                ),
            };
            errors.clash(route.header, message, other).help(help);
            return;
        }
        let new = Clients::taken_by(route);
        if !new.are_in(taken) {
            taken = taken.and(new);
            takers.push((new, route.header));
        }
    }
}

/// Clients, as far as routes tell them apart without an address or a list of names: a bit for each
/// of [`FirstBytes`], of which the one of TLS stands for clients that ask for a name, and one more
/// for those of TLS that ask for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Clients(u8);

impl Clients {
    const NONE: Self = Self(0);
    const ALL: Self = Self((1 << (FirstBytes::ALL.len() + 1)) - 1);
    const NAMED: Self = Self(1 << FirstBytes::Tls as u8);
    const NAMELESS: Self = Self(1 << FirstBytes::ALL.len());

    /// Those of whom at least one may match.
    fn reached_by(route: &Route) -> Self {
        let mut reached = Self::ALL;
        if !route.first_bytes.is_empty() {
            reached = route.first_bytes.iter().fold(Self::NONE, |all, kind| match kind {
                FirstBytes::Tls => all.and(Self::NAMED).and(Self::NAMELESS),
                kind => all.and(Self(1 << *kind as u8)),
            });
        }
        if !route.alpn.is_empty() {
            reached = reached.also(Self::NAMED.and(Self::NAMELESS));
        }
        if !route.sni.is_empty() {
            reached = reached.also(Self::NAMED);
        }
        reached
    }

    /// Those of whom every one matches.
    fn taken_by(route: &Route) -> Self {
        let takes_some = route.is_unclear
            || !route.client.is_empty()
            || !route.alpn.is_empty()
            || !(route.sni.is_empty() || route.sni.contains(&SniPattern::Any));
        if takes_some { Self::NONE } else { Self::reached_by(route) }
    }

    fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    fn also(self, others: Self) -> Self {
        Self(self.0 & others.0)
    }

    fn are_in(self, others: Self) -> bool {
        self.also(others) == self
    }
}
