//! Files with keys and secrets, which nobody else should be able to read.
//!
//! They are told of and not refused: a key that others have read is no safer in a gateway that does
//! not start.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::geteuid;

use crate::config::plan;

/// What others than the gateway's user and root may do with the keys and secrets of a plan: a
/// sentence for each file of which they may do anything. Files that are not there are others'
/// concern.
pub fn exposed(plan: &plan::Plan) -> Vec<String> {
    files(plan).into_iter().filter_map(|(file, what)| doubt(file, what)).collect()
}

/// All files with secrets, and what is in them.
fn files(plan: &plan::Plan) -> BTreeMap<&Path, &'static str> {
    let mut files = BTreeMap::new();
    for listener in &plan.listeners {
        if let plan::Protocol::Tls(tls) = &listener.protocol {
            files.extend(tls.certificates.iter().map(|pair| (&*pair.key, "a private key")));
        }
    }
    let clients =
        plan.pools.iter().filter_map(|pool| pool.tls.as_ref()?.client_certificate.as_ref());
    files.extend(clients.map(|pair| (&*pair.key, "a private key")));
    files.extend(plan.pair.secret_file.iter().map(|file| (&**file, "the secret of the pair")));
    files
}

/// Who besides the gateway's user and root has to do with a file.
fn doubt(file: &Path, what: &str) -> Option<String> {
    let found = fs::metadata(file).ok()?;
    let (owner, mode) = (found.uid(), found.mode() & 0o7777);
    let shown = file.display();
    if owner != 0 && owner != geteuid().as_raw() {
        return Some(format!(
            "{shown} has {what} in it, and belongs to user {owner}: `chown root`"
        ));
    }
    let others = match (mode & 0o070 != 0, mode & 0o007 != 0) {
        (false, false) => return None,
        (true, false) => "its group",
        (_, true) => "everybody",
    };
    Some(format!(
        "{shown} has {what} in it, and is open to {others} (mode {mode:04o}): `chmod 600`"
    ))
}
