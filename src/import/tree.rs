//! Directives with blocks, as nginx and keepalived have them.

use super::ledger::{Id, Ledger};

/// A directive.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) id: Id,
    /// Never empty.
    pub(super) words: Vec<String>,
    pub(super) block: Option<Vec<Self>>,
}

impl Node {
    /// Its name.
    pub(super) fn name(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// Word `index`, of which the name is the first, or nothing.
    pub(super) fn word(&self, index: usize) -> &str {
        self.words.get(index).map_or("", String::as_str)
    }

    /// The words after the name.
    pub(super) fn rest(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }

    /// What is in its block.
    pub(super) fn children(&self) -> &[Self] {
        self.block.as_deref().unwrap_or_default()
    }

    /// The first of its block with this name.
    pub(super) fn child(&self, name: &str) -> Option<&Self> {
        self.children().iter().find(|child| child.name() == name)
    }

    /// The number after the name.
    pub(super) fn number<T: std::str::FromStr>(&self) -> Option<T> {
        self.word(1).parse().ok()
    }

    /// Says the same of it and of all that is in it and has not been told of.
    pub(super) fn all_lost(&self, why: &str, ledger: &mut Ledger) {
        ledger.lost_unless_told(self.id, why);
        for child in self.children() {
            child.all_lost(why, ledger);
        }
    }

    /// Says that nothing in it is in the result after all.
    pub(super) fn forsake(&self, why: &str, ledger: &mut Ledger) {
        ledger.forsake(self.id, why);
        for child in self.children() {
            child.forsake(why, ledger);
        }
    }

    /// Says that it is not needed, and nothing in it that has not been told of.
    pub(super) fn all_needless(&self, why: &str, ledger: &mut Ledger) {
        if !ledger.is_accounted_for(self.id) {
            ledger.needless(self.id, why);
        }
        for child in self.children() {
            child.all_needless(why, ledger);
        }
    }
}
