//! `map`: which pool a client gets, by what it says.

use super::super::ledger::Ledger;
use super::super::pattern;
use super::super::tree::Node;

/// A line of a map.
#[derive(Clone, Debug)]
pub(super) struct Choice<'a> {
    pub(super) node: &'a Node,
    pub(super) sni: Vec<String>,
    pub(super) alpn: Vec<String>,
    pub(super) client: Vec<String>,
    pub(super) value: &'a str,
    /// In which order they are asked.
    rank: (u8, usize),
}

/// What a map says.
#[derive(Clone, Debug, Default)]
pub(super) struct Map<'a> {
    pub(super) choices: Vec<Choice<'a>>,
    /// For whom no other line is.
    pub(super) default: Option<(&'a Node, &'a str)>,
    /// For who does not speak TLS.
    pub(super) without_tls: Option<(&'a Node, &'a str)>,
    /// Whether the map asks whether a client speaks TLS at all.
    pub(super) by_version: bool,
}

/// Reads a map. `None` if it looks at what lockgate does not see.
pub(super) fn read<'a>(node: &'a Node, ledger: &mut Ledger) -> Option<Map<'a>> {
    let subject =
        if node.name() == "geo" && node.words.len() == 2 { "$remote_addr" } else { node.word(1) };
    let kind = match subject {
        "$ssl_preread_server_name" | "$ssl_server_name" => Kind::Name,
        "$ssl_preread_alpn_protocols" | "$ssl_alpn_protocol" => Kind::Protocols,
        "$ssl_preread_protocol" => Kind::Version,
        "$remote_addr" | "$binary_remote_addr" => Kind::Address,
        _ => return None,
    };
    ledger.carried(node.id);
    let mut map = Map { by_version: kind == Kind::Version, ..Map::default() };
    for (index, line) in node.children().iter().enumerate() {
        let (key, value) = (line.name(), line.word(1));
        match key {
            "hostnames" | "volatile" if line.words.len() == 1 => ledger.carried(line.id),
            "default" => map.default = Some((line, value)),
            _ if line.words.len() != 2 => {}
            _ => {
                let mut choice = Choice {
                    node: line,
                    sni: Vec::new(),
                    alpn: Vec::new(),
                    client: Vec::new(),
                    value,
                    rank: (0, index),
                };
                if choose(kind, key, &mut choice, &mut map, ledger) {
                    map.choices.push(choice);
                }
            }
        }
    }
    map.choices.sort_by_key(|choice| choice.rank);
    Some(map)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Name,
    Protocols,
    Version,
    Address,
}

/// Reads a key. Whether it is a choice.
fn choose<'a>(
    kind: Kind,
    key: &str,
    choice: &mut Choice<'a>,
    map: &mut Map<'a>,
    ledger: &mut Ledger,
) -> bool {
    let id = choice.node.id;
    let index = choice.rank.1;
    match (kind, key) {
        (Kind::Version | Kind::Name, "") => {
            // A client that asks for no name is one whom no route is for.
            if kind == Kind::Version {
                map.without_tls = Some((choice.node, choice.value));
            } else {
                let why = "clients that ask for no name go where those with unknown names go";
                ledger.lost(id, why);
            }
            return false;
        }
        (Kind::Version, _) => {
            // All versions of TLS have to go the same way.
            map.default.get_or_insert((choice.node, choice.value));
            ledger.changed(id, "TLS is TLS, of any version");
            return false;
        }
        (Kind::Name, key) => {
            let key = key.to_ascii_lowercase();
            if let Some(regex) = key.strip_prefix("~*").or_else(|| key.strip_prefix('~')) {
                let Some(names) = pattern::names_of_regex(regex) else {
                    ledger.lost(id, "names are not compared with regular expressions: these clients go where the rest goes");
                    return false;
                };
                choice.sni = names;
                choice.rank = (2, index);
            } else if let Some(parent) = key.strip_prefix('.') {
                choice.sni = vec![parent.to_owned(), format!("*.{parent}")];
                choice.rank = (1, usize::MAX - parent.len());
            } else if key.starts_with("*.") {
                choice.rank = (1, usize::MAX - key.len());
                choice.sni = vec![key];
            } else {
                choice.sni = vec![key.trim_start_matches('\\').to_owned()];
            }
        }
        (Kind::Protocols, key) => {
            if key.is_empty() {
                let why = "clients that offer no protocol go where those with other ones go";
                ledger.lost(id, why);
                return false;
            }
            let Some((name, difference)) = protocol(key) else {
                ledger.lost(id, "a protocol is compared as a whole, and by itself");
                return false;
            };
            if let Some(difference) = difference {
                ledger.changed(id, difference);
            }
            choice.alpn = vec![name];
            choice.rank = (if key.starts_with('~') { 2 } else { 0 }, index);
        }
        (Kind::Address, key) => {
            choice.client = vec![key.to_owned()];
            // The narrowest network of a geo decides.
            let length = key.split_once('/').and_then(|(_, length)| length.parse().ok());
            choice.rank = (0, 128 - length.unwrap_or(128_usize).min(128));
        }
    }
    true
}

/// The protocol that a key of `$ssl_preread_alpn_protocols` asks for, and what is not the same with
/// lockgate. What a client offers is a list in nginx, with commas; a key is all of it, an expression
/// looks for something in it.
fn protocol(key: &str) -> Option<(String, Option<&'static str>)> {
    let Some(regex) = key.strip_prefix("~*").or_else(|| key.strip_prefix('~')) else {
        let difference = "clients that offer other protocols beside it match as well";
        return (!key.contains(',')).then(|| (key.to_owned(), Some(difference)));
    };
    let inner = regex.strip_prefix("\\b").unwrap_or(regex);
    let inner = inner.strip_suffix("\\b").unwrap_or(inner);
    let is_bounded = regex.len() == inner.len() + 4;
    let name = pattern::literal(inner)?;
    let difference = "only a protocol of just this name matches, not one that has it in its name";
    Some((name, (!is_bounded).then_some(difference)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_of_keys() {
        for (key, expected) in [
            (r"~\bhttp/1\.1\b", Some(("http/1.1", true))),
            (r"~*\bh2\b", Some(("h2", true))),
            ("~h2", Some(("h2", false))),
            ("h2", Some(("h2", false))),
            ("h2,http/1.1", None),
            ("~^h2$", None),
            ("~h2|http/1", None),
            ("~", None),
        ] {
            let found = protocol(key);
            let found = found.as_ref().map(|(name, differs)| (name.as_str(), differs.is_none()));
            assert_eq!(found, expected, "{key}");
        }
    }
}
