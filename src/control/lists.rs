//! The lists of listeners, `allow` and `deny`, and the files that they are read from: read before a
//! configuration is taken over, and again when they change.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::files::Files;
use crate::access::{self, Access, Lists, Set};
use crate::config::plan::{Guard, Listed};

/// What was read.
#[derive(Debug)]
pub(super) struct Loaded {
    lists: Lists,
    /// What is doubtful about the files.
    pub(super) doubts: Vec<String>,
}

/// The lists of one listener, in use.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) access: Arc<Access>,
    plan: Guard,
    files: Files,
    /// What has changed is read by a thread of its own: a hundred thousand lines take a while, and
    /// whoever else waits for the control plane shall not.
    reading: Option<JoinHandle<Result<Loaded, String>>>,
}

impl Kept {
    /// Reads the lists of a listener; `None` = it has none.
    ///
    /// Fails if a file is of no use.
    pub(super) fn read(plan: &Guard) -> Result<Option<Self>, String> {
        if plan.allow.is_empty() && plan.deny.is_empty() {
            return Ok(None);
        }
        // Before they are read: a change meanwhile is seen.
        let files = Files::new(plan.files().cloned().collect());
        let loaded = load(plan)?;
        loaded.tell_doubts();
        let access = Arc::new(Access::new(loaded.lists));
        Ok(Some(Self { access, plan: plan.clone(), files, reading: None }))
    }

    /// Takes over what has changed in files; what is of no use is refused, and the lists in use
    /// stay. `None` if there is nothing to be told.
    pub(super) fn renew(&mut self) -> Option<Result<(), String>> {
        if let Some(reading) = self.reading.take_if(|reading| reading.is_finished()) {
            let loaded = reading.join().unwrap_or_else(|_| Err("reading it panicked".to_owned()));
            return Some(loaded.map(|loaded| {
                loaded.tell_doubts();
                self.access.replace(loaded.lists);
            }));
        }
        if self.reading.is_none() && self.files.have_changed() {
            let plan = self.plan.clone();
            let reading = thread::Builder::new().name("lists".to_owned());
            match reading.spawn(move || load(&plan)) {
                Ok(reading) => self.reading = Some(reading),
                Err(error) => return Some(Err(format!("no thread to read them: {error}"))),
            }
        }
        None
    }
}

impl Loaded {
    fn tell_doubts(&self) {
        self.doubts.iter().for_each(|doubt| tracing::warn!("{doubt}"));
    }
}

/// Reads the lists of a listener.
///
/// # Errors
///
/// All that is wrong with its files.
pub(super) fn load(plan: &Guard) -> Result<Loaded, String> {
    let (mut doubts, mut faults) = (Vec::new(), Vec::new());
    let mut set = |name: &str, list: &[Listed]| {
        let mut networks = Vec::new();
        for listed in list {
            match listed {
                Listed::Network(network) => networks.push((*network).into()),
                Listed::File(path) => match read(path) {
                    Ok(parsed) => {
                        doubts.extend(parsed.beyond.map(|(line, count)| {
                            let others = match count {
                                1 => String::new(),
                                _ => format!(", as {} others have", count - 1),
                            };
                            format!(
                                "{}:{line}: the address has bits beyond its prefix{others}: the \
                                 whole network counts",
                                path.display()
                            )
                        }));
                        networks.extend(parsed.networks);
                    }
                    Err(error) => faults.push(format!("{name}: {error}")),
                },
            }
        }
        Set::new(networks)
    };
    let allow = (!plan.allow.is_empty()).then(|| set("allow", &plan.allow));
    let deny = set("deny", &plan.deny);
    // Half a file, or the failure of what writes it.
    if faults.is_empty() && allow.as_ref().is_some_and(Set::is_empty) {
        faults.push("allow: its files have no address in them: nobody could come in".to_owned());
    }
    match faults.is_empty() {
        true => Ok(Loaded { lists: Lists { allow, deny }, doubts }),
        false => Err(faults.join("; ")),
    }
}

fn read(path: &Path) -> Result<access::Parsed, String> {
    let told = |error: io::Error| format!("{}: {error}", path.display());
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = file.map_err(told)?;
    // A pipe would be waited for, and a device has no end.
    if !file.metadata().map_err(told)?.is_file() {
        return Err(format!("{}: it is no ordinary file", path.display()));
    }
    let mut text = Vec::new();
    file.take(access::MAX_FILE_SIZE + 1).read_to_end(&mut text).map_err(told)?;
    if text.len() as u64 > access::MAX_FILE_SIZE {
        let most = access::MAX_FILE_SIZE >> 20;
        return Err(format!("{}: larger than {most} MiB", path.display()));
    }
    access::parse(&text).map_err(|mistakes| mistakes.of(path.display()))
}
