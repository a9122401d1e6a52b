//! What holds in a proxy: the last word of each directive, its defaults included.

use std::path::Path;
use std::time::Duration;

use super::super::ledger::{Id, Kind, Ledger};
use super::super::pattern;
use super::known;
use super::sections::Statement;

/// HAProxy counts time in milliseconds.
pub(super) const MILLISECOND: Duration = Duration::from_millis(1);

/// The statements that hold in a proxy, those of its defaults first.
#[derive(Clone, Debug)]
pub(super) struct Settings<'a>(pub(super) Vec<&'a Statement>);

impl<'a> Settings<'a> {
    /// All that begin with these words.
    pub(super) fn all(&self, prefix: &'a [&'a str]) -> impl Iterator<Item = &'a Statement> {
        let statements = self.0.clone();
        statements.into_iter().filter(move |statement| {
            prefix.iter().enumerate().all(|(index, word)| statement.word(index) == *word)
        })
    }

    /// The last of them.
    pub(super) fn last(&self, prefix: &'a [&'a str]) -> Option<&'a Statement> {
        self.all(prefix).last()
    }

    /// An option, unless it is turned off again.
    pub(super) fn option(&self, name: &str) -> Option<&'a Statement> {
        let mut found = None;
        for statement in &self.0 {
            match (statement.word(0), statement.word(1), statement.word(2)) {
                ("option", option, _) if option == name => found = Some(*statement),
                ("no", "option", option) if option == name => found = None,
                _ => {}
            }
        }
        found
    }

    /// A timeout. What cannot be read is noted.
    pub(super) fn timeout(&self, name: &str, ledger: &mut Ledger) -> Option<(Duration, Id)> {
        let of_name =
            |statement: &&&Statement| statement.word(0) == "timeout" && statement.word(1) == name;
        let statement = self.0.iter().rev().find(of_name)?;
        match pattern::duration(statement.word(2), MILLISECOND) {
            // 0 is none, which lockgate does not have.
            Some(Duration::ZERO) => {
                ledger.lost(statement.id, "lockgate has no infinite timeout; its default holds");
                None
            }
            Some(duration) => {
                ledger.carried(statement.id);
                Some((duration, statement.id))
            }
            None => {
                ledger.lost(statement.id, "it is not a duration");
                None
            }
        }
    }

    /// Whether requests of HTTP are looked at.
    pub(super) fn is_http(&self, ledger: &mut Ledger) -> bool {
        let modes: Vec<_> = self.all(&["mode"]).collect();
        for statement in &modes {
            match statement.word(1) {
                "http" => ledger.changed(
                    statement.id,
                    "lockgate relays what is inside as it is: headers, paths and cookies stay \
                     unseen, and requests of a connection go to the same backend",
                ),
                _ => ledger.carried(statement.id),
            }
        }
        modes.last().is_some_and(|statement| statement.word(1) == "http")
    }

    /// Whether it takes part at all.
    pub(super) fn disabled(&self) -> Option<Id> {
        let of_word = |word| self.0.iter().rposition(|statement| statement.word(0) == word);
        let disabled = of_word("disabled")?;
        (of_word("enabled") < Some(disabled)).then(|| self.0[disabled].id)
    }

    /// Says what is known of everything that nobody has said anything of.
    pub(super) fn account(&self, ledger: &mut Ledger) {
        for statement in &self.0 {
            if ledger.is_accounted_for(statement.id) {
                continue;
            }
            match known::proxy(&statement.all()) {
                Some((Kind::Needless, why)) => ledger.needless(statement.id, why),
                Some((_, why)) => ledger.lost(statement.id, why),
                None => {}
            }
        }
    }
}

/// What `global` says that matters to others.
#[derive(Clone, Debug, Default)]
pub(super) struct Global {
    pub(super) crt_base: Option<String>,
    pub(super) ca_base: Option<String>,
    pub(super) ciphers: Option<(String, Id)>,
    pub(super) ciphersuites: Option<(String, Id)>,
    /// `ssl-default-bind-options`
    pub(super) bind_options: Vec<(Vec<String>, Id)>,
    pub(super) ssl_verify_none: bool,
}

/// A path, below `base` unless it is whole.
pub(super) fn below(base: Option<&String>, path: &str) -> String {
    match base {
        Some(base) if !path.starts_with('/') => {
            Path::new(base).join(path).to_string_lossy().into_owned()
        }
        _ => path.to_owned(),
    }
}
