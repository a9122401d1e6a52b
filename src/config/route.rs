//! `[[listener.route]]`: which pool a client gets, by what its ClientHello and its address say.

use super::address::{parse_network, parse_sni_pattern};
use super::findings::Span;
use super::plan::{Network, SniPattern};
use super::reader::{Field, Section};
use super::tls::{MOST_PROTOCOLS, parse_alpn};
use super::vocabulary as known;

/// Most routes of a listener: they are tried one after another.
const MOST_ROUTES: usize = 10_000;

/// Most names, and most networks, in a route.
const MOST_PATTERNS: usize = 10_000;

/// A route, before its pool is looked up.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) header: Span,
    pub(super) sni: Vec<SniPattern>,
    pub(super) alpn: Vec<String>,
    pub(super) client: Vec<Network>,
    pub(super) pool: Field<String>,
    /// Whether no condition is written, nor was meant to be.
    matches_all: bool,
}

/// Reads all routes of a listener.
pub(super) fn routes(section: &mut Section<'_, '_>) -> Vec<Route> {
    let Some(routes) = section.sections("route", &known::ROUTE, route).given() else {
        return Vec::new();
    };
    let count = routes.value.len();
    if count > MOST_ROUTES {
        section.errors.wrong(routes.span, format!("route: {count} are more than {MOST_ROUTES}"));
    }
    let last = routes.value.iter().position(|route| route.matches_all);
    if let Some(last) = last
        && let Some(next) = routes.value.get(last + 1)
    {
        let message = "this route is never reached: every client matches the one";
        section
            .errors
            .clash(next.header, message, routes.value[last].header)
            .help("give that one an 'sni', 'alpn' or 'client', or put it last");
    }
    routes.value
}

fn route(mut section: Section<'_, '_>) -> Route {
    let sni = section.distinct("sni", MOST_PATTERNS, parse_sni_pattern);
    let alpn = section.distinct("alpn", MOST_PROTOCOLS, parse_alpn);
    let client = section.distinct("client", MOST_PATTERNS, parse_network);
    let matches_all = sets_nothing(&sni) && sets_nothing(&alpn) && sets_nothing(&client);
    Route {
        header: section.span,
        sni: sni.or(Vec::new()),
        alpn: alpn.or(Vec::new()),
        client: client.or(Vec::new()),
        pool: section.parsed("pool", |name| Ok(name.to_owned())),
        matches_all,
    }
}

fn sets_nothing<T>(condition: &Field<Vec<T>>) -> bool {
    match condition {
        Field::Absent => true,
        Field::Given(listed) => listed.value.is_empty(),
        Field::Wrong => false,
    }
}
