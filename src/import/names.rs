//! Names that lockgate takes, no two alike.

use std::collections::HashSet;

use super::ledger::{Id, Ledger};
use crate::config::accepts;

/// Longest name, in characters; what the configuration allows, less room for a number.
const MAX_CHARS: usize = 120;

/// The names of one kind.
#[derive(Debug, Default)]
pub(super) struct Names(HashSet<String>);

impl Names {
    /// A name like `wish` that nothing else has.
    pub(super) fn claim(&mut self, wish: &str) -> String {
        let name = fit(wish);
        let mut unique = name.clone();
        let mut number = 2;
        while !self.0.insert(unique.clone()) {
            unique = format!("{name}-{number}");
            number += 1;
        }
        unique
    }
}

/// The nearest name that is allowed: no white space, control character or `/`.
pub(super) fn fit(wish: &str) -> String {
    let unfit = |c: char| c == '/' || c.is_whitespace() || c.is_control();
    let name: String =
        wish.chars().take(MAX_CHARS).map(|c| if unfit(c) { '-' } else { c }).collect();
    if name.is_empty() { "unnamed".to_owned() } else { name }
}

/// The cipher suites of a list in OpenSSL's words that lockgate has; empty = its own choice.
pub(super) fn suites(list: &str, from: Id, ledger: &mut Ledger) -> Vec<String> {
    let mut known: Vec<String> = Vec::new();
    let mut others = Vec::new();
    for word in list.split([':', ',', ' ']).filter(|word| !word.is_empty()) {
        match accepts::cipher_suite(word) {
            Some(_) if known.iter().any(|name| name == word) => {}
            Some(_) => known.push(word.to_owned()),
            None => others.push(word),
        }
    }
    if known.is_empty() {
        ledger.changed(from, "the recommended cipher suites are offered instead");
    } else if others.is_empty() {
        ledger.carried(from);
    } else {
        let others = others.join(":");
        ledger.changed(
            from,
            format!("of these, suites that are no longer recommended are left out: {others}"),
        );
    }
    known
}
