//! What stands before a listener: `accept_proxy_from`, `allow`, `deny` and `[listener.limit]`; and
//! the like of a pool, `send_proxy`.

use super::address::parse_network;
use super::findings::Problem;
use super::plan::guard::{Action, Guard, Limit, Listed, Rate, SendProxy};
use super::reader::Section;
use super::schema::{optional, parse_file};
use super::units::{MAX_RATE, parse_rate};
use super::value::choose;
use super::vocabulary as known;

/// Most networks of a list that are written in the configuration itself.
const MOST_LISTED: usize = 100_000;

/// Most networks whose PROXY headers are believed.
const MOST_PROXIES: usize = 10_000;

/// Reads these keys of `[[listener]]`.
pub(super) fn guard(section: &mut Section<'_, '_>) -> Guard {
    Guard {
        accept_proxy_from: section
            .distinct("accept_proxy_from", MOST_PROXIES, parse_network)
            .or(Vec::new()),
        allow: section.distinct("allow", MOST_LISTED, parse_listed).or(Vec::new()),
        deny: section.distinct("deny", MOST_LISTED, parse_listed).or(Vec::new()),
        limit: section.section("limit", &known::LIMIT, limit).value(),
    }
}

fn limit(mut section: Section<'_, '_>) -> Limit {
    let actions = [("reset", Action::Reset), ("drop", Action::Drop), ("log", Action::Log)];
    let rate = section.parsed("rate", optional(parse_rate));
    Limit {
        connections: section.limit("connections"),
        rate: rate.or(None).map(|(count, period)| Rate { count, period }),
        burst: std::num::NonZeroU32::new(section.number("burst", 0..=MAX_RATE).or(0)),
        prefix_v4: section.number("prefix_v4", 0..=32).or(32),
        prefix_v6: section.number("prefix_v6", 0..=128).or(64),
        action: section.choice("action", &actions).or(Action::Reset),
    }
}

/// Reads a network, or the path of a file that has them.
fn parse_listed(text: &str) -> Result<Listed, Problem> {
    if ["/", "./", "../"].iter().any(|start| text.starts_with(start)) {
        return parse_file(text).map(Listed::File);
    }
    parse_network(text).map(Listed::Network).map_err(|problem| {
        // Whoever writes letters means a file.
        let is_path = text.contains(|c: char| c.is_ascii_alphabetic() && !c.is_ascii_hexdigit());
        match is_path {
            true => problem.help(format!("a file is written with its directory: \"./{text}\"")),
            false => problem,
        }
    })
}

/// Reads the version of the PROXY protocol that backends are spoken to in.
pub(super) fn parse_send_proxy(word: &str) -> Result<SendProxy, Problem> {
    choose(word, &[("v1", SendProxy::V1), ("v2", SendProxy::V2)])
}
