//! What operators have set, and the file that keeps it over restarts.
//!
//! [`Control`](super::Control) changes it only after the file has it: a change that cannot be kept is
//! refused, and nothing has happened. Without `runtime.state_dir` it ends with the process. The file is
//! replaced as a whole (written beside it, synced, renamed), so that whatever happens it is the old
//! one or the new one. One that cannot be understood, or that others may have written, is set aside and
//! told of, and never keeps the gateway from starting. A directory that others may write to is warned of
//! and used: see [`safe_file`] for what they cannot do there.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::admin::status::{NodeDrain, Set};
use crate::config::plan::Plan;
use crate::control::addresses::is_made_of;
use crate::health::Admin;
use crate::safe_file;

/// Name of the file.
const FILE: &str = "state.json";

/// The form that is written. A file of a later one is not understood.
const VERSION: u32 = 1;

/// No real file comes near; it stops a mistaken one from being read to the end.
const LARGEST: u64 = 16 << 20;

/// What operators have set.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(super) struct Kept {
    /// By pool and backend.
    #[serde(default)]
    backends: BTreeMap<String, BTreeMap<String, Set>>,
    /// The node as a whole is drained.
    #[serde(default)]
    pub(super) drain: Option<NodeDrain>,
    /// The floating addresses were handed over.
    #[serde(default)]
    pub(super) handover: Option<NodeDrain>,
}

/// As it is in the file.
#[derive(Deserialize, Serialize)]
struct Written {
    version: u32,
    #[serde(flatten)]
    kept: Kept,
}

impl Kept {
    /// What is set for a backend.
    pub(super) fn of(&self, pool: &str, backend: &str) -> Option<&Set> {
        self.backends.get(pool)?.get(backend)
    }

    /// The weight that is set for a backend, if it is not that of the file.
    pub(super) fn weight(&self, pool: &str, backend: &str) -> Option<u16> {
        self.of(pool, backend)?.weight
    }

    /// What an operator wants of a backend.
    pub(super) fn wish(&self, pool: &str, backend: &str) -> Admin {
        match self.of(pool, backend).and_then(|set| set.state.as_deref()) {
            Some("draining") => Admin::Draining,
            Some("disabled") => Admin::Disabled,
            _ => Admin::Enabled,
        }
    }

    /// Sets something for a backend; one that says nothing takes it away.
    pub(super) fn put(&mut self, pool: &str, backend: &str, set: Set) {
        let of_pool = self.backends.entry(pool.to_owned()).or_default();
        if set.state.is_none() && set.weight.is_none() {
            of_pool.remove(backend);
        } else {
            of_pool.insert(backend.to_owned(), set);
        }
        if of_pool.is_empty() {
            self.backends.remove(pool);
        }
    }

    /// Forgets what is set for backends that are not in `plan`. Returns their names.
    pub(super) fn prune(&mut self, plan: &Plan) -> Vec<String> {
        let mut gone = Vec::new();
        self.backends.retain(|pool, backends| {
            let of_plan = plan.pools.iter().find(|known| known.name == *pool);
            backends.retain(|backend, _| {
                let known = |pool: &crate::config::plan::Pool| {
                    pool.backends.iter().any(|known| is_made_of(backend, known))
                };
                let stays = of_plan.is_some_and(known);
                if !stays {
                    gone.push(format!("{pool}/{backend}"));
                }
                stays
            });
            !backends.is_empty()
        });
        gone
    }

    /// Each backend that something is set for.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str, &Set)> {
        self.backends.iter().flat_map(|(pool, backends)| {
            backends.iter().map(|(backend, set)| (&**pool, &**backend, set))
        })
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What operators have set, and where it is kept.
#[derive(Debug, Default)]
pub(super) struct State {
    directory: Option<PathBuf>,
    pub(super) kept: Kept,
}

impl State {
    /// Reads what is kept in `directory`, and tells of what is wrong with it.
    pub(super) fn read(directory: Option<&Path>) -> Self {
        let directory = directory.map(Path::to_owned);
        let kept = match &directory {
            None => Kept::default(),
            Some(directory) => {
                if let Some(doubt) = doubt(directory) {
                    tracing::warn!(directory = %directory.display(), "runtime.state_dir: {doubt}");
                }
                load(&directory.join(FILE))
            }
        };
        Self { directory, kept }
    }

    /// Whether what is set outlives the process.
    pub(super) fn is_kept(&self) -> bool {
        self.directory.is_some()
    }

    /// Takes over a change, once it is in the file.
    ///
    /// Fails if it cannot be written; then nothing has changed.
    pub(super) async fn change(&mut self, kept: Kept) -> io::Result<()> {
        if kept == self.kept {
            return Ok(());
        }
        if let Some(directory) = self.directory.clone() {
            let written = Written { version: VERSION, kept: kept.clone() };
            let text = serde_json::to_vec_pretty(&written)?;
            // A disk may take its time; checks and answers go on meanwhile.
            let saved = tokio::task::spawn_blocking(move || save(&directory, &text));
            saved.await.map_err(io::Error::other)??;
        }
        self.kept = kept;
        Ok(())
    }

    /// Keeps it elsewhere from now on.
    pub(super) fn move_to(&mut self, directory: Option<&Path>) {
        if self.directory.as_deref() == directory {
            return;
        }
        self.directory = directory.map(Path::to_owned);
        if let (Some(directory), false) = (directory, self.kept.is_empty()) {
            let written = Written { version: VERSION, kept: self.kept.clone() };
            let saved = serde_json::to_vec_pretty(&written)
                .map_err(io::Error::from)
                .and_then(|text| save(directory, &text));
            if let Err(error) = saved {
                let directory = directory.display();
                tracing::warn!(%error, %directory, "cannot keep what operators have set");
            }
        }
    }
}

/// Why a change could not be kept in `directory`, as far as can be told without writing.
fn doubt(directory: &Path) -> Option<String> {
    let writable = |path: &Path| nix::unistd::access(path, nix::unistd::AccessFlags::W_OK);
    match fs::metadata(directory) {
        Ok(found) if !found.is_dir() => Some("it is not a directory".to_owned()),
        Ok(_) => match (writable(directory), safe_file::exposure(directory)) {
            (Err(error), _) => {
                let refused = "what operators set cannot be kept, and is refused";
                Some(format!("{}: {refused}", error.desc()))
            }
            // It is used all the same (volumes of containers are like that): what others put there is
            // neither followed nor read. What they cannot be kept from is taking away.
            (Ok(()), Ok(Some(exposed))) => {
                Some(format!("{exposed}: what operators have set could be removed"))
            }
            (Ok(()), _) => None,
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let above = directory.ancestors().skip(1).find(|above| above.exists())?;
            writable(above).err().map(|error| {
                let above = above.display();
                format!("it is not there, and cannot be made in {above}: {}", error.desc())
            })
        }
        Err(error) => Some(error.to_string()),
    }
}

fn load(path: &Path) -> Kept {
    let broken = match read(path) {
        Ok(Written { version: VERSION, kept }) => return kept,
        Ok(Written { version, .. }) => format!("it is of version {version}, not {VERSION}"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Kept::default(),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => error.to_string(),
        Err(error) => {
            // It may be all right: it stays where it is until a change replaces it.
            tracing::error!(%error, path = %path.display(), "cannot read what operators have set");
            return Kept::default();
        }
    };
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let seconds = seconds.as_ref().map_or(0, Duration::as_secs);
    let aside = path.with_file_name(format!("{FILE}.broken-{seconds}"));
    match fs::rename(path, &aside) {
        Ok(()) => tracing::error!(
            cause = broken,
            "the state file is of no use: it is set aside as {}, and nothing is set",
            aside.display()
        ),
        Err(error) => tracing::error!(
            cause = broken,
            %error,
            "the state file {} is of no use, and cannot be set aside: nothing is set",
            path.display()
        ),
    }
    Kept::default()
}

fn read(path: &Path) -> io::Result<Written> {
    let invalid = |error: String| io::Error::new(io::ErrorKind::InvalidData, error);
    let text = safe_file::read(path, LARGEST)?;
    let written: Written =
        serde_json::from_slice(&text).map_err(|error| invalid(error.to_string()))?;
    let known = |set: &Set| matches!(set.state.as_deref(), None | Some("draining" | "disabled"));
    let odd = written.kept.iter().find(|(_, _, set)| !known(set));
    let odd = odd.map(|(pool, backend, _)| format!("the state of {pool}/{backend} is none"));
    odd.map_or(Ok(written), |error| Err(invalid(error)))
}

/// Replaces the file, for good: it survives a crash of the host from here on.
fn save(directory: &Path, text: &[u8]) -> io::Result<()> {
    safe_file::create_directory(directory, 0o700)?;
    safe_file::replace(&directory.join(FILE), &[text, b"\n"].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(state: Option<&str>, weight: Option<u16>) -> Set {
        let state = state.map(str::to_owned);
        Set { state, weight, by: "uid 0".to_owned(), since: "then".to_owned() }
    }

    #[tokio::test]
    async fn what_is_set_is_read_again_and_a_broken_file_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let nested = directory.path().join("not/there/yet");
        let mut state = State::read(Some(&nested));
        let mut kept = state.kept.clone();
        kept.put("app", "a", set(Some("draining"), None));
        kept.put("app", "b", set(None, Some(7)));
        kept.put("app", "c", set(None, None));
        state.change(kept.clone()).await.unwrap();
        let again = State::read(Some(&nested));
        assert_eq!(again.kept, kept);
        assert_eq!(again.kept.wish("app", "a"), Admin::Draining);
        assert_eq!(again.kept.weight("app", "b"), Some(7));
        assert_eq!(again.kept.iter().count(), 2);

        let file = nested.join(FILE);
        for broken in ["", "{\"version\": 1, \"backends\": 5}", "{\"version\": 9}", "\u{0}"] {
            fs::write(&file, broken).unwrap();
            assert_eq!(State::read(Some(&nested)).kept, Kept::default(), "{broken:?}");
            assert!(!file.exists(), "{broken:?} is still there");
        }
    }

    #[tokio::test]
    async fn a_change_that_cannot_be_kept_does_not_happen() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let mut state = State::read(Some(&file));
        let mut kept = Kept::default();
        kept.put("app", "a", set(Some("disabled"), None));
        assert!(state.change(kept).await.is_err());
        assert_eq!(state.kept, Kept::default());
    }
}
