//! Reading what a plan needs of files, in a bounded time: a file system may hang, and the control
//! plane must not.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::material::Material;
use crate::config::plan::{Plan, Protocol};
use crate::tls::tickets::Secret;

/// How long reading all files of a configuration may take.
const LONGEST: Duration = Duration::from_secs(5);

/// [`Material::read`] on a thread of its own, which is left to itself if a file system hangs.
///
/// Fails as that does, and if it takes more than five seconds: with the file that it got to.
pub(super) async fn material(plan: &Plan, secret: &Secret) -> Result<Material, String> {
    let (plan, secret) = (plan.clone(), secret.clone());
    let (tell, told) = oneshot::channel();
    let at = Arc::new(Mutex::new(None::<PathBuf>));
    let noted = Arc::clone(&at);
    let note = move |file: Option<&Path>| {
        *noted.lock().unwrap_or_else(PoisonError::into_inner) = file.map(Path::to_owned);
    };
    let reading = thread::Builder::new().name("files-read".to_owned()).spawn(move || {
        // Each by itself first: where a file system hangs, this does, and the file is known.
        for file in files(&plan) {
            note(Some(file));
            // That it is not there is told with what it is for.
            let _ = fs::metadata(file);
        }
        note(None);
        // Who waits may have given up.
        let _ = tell.send(Material::read(&plan, &secret));
    });
    reading.map_err(|error| format!("no thread to read files: {error}"))?;
    match timeout(LONGEST, told).await {
        Ok(Ok(read)) => read,
        Ok(Err(_)) => Err("reading the files of TLS and of lists panicked".to_owned()),
        Err(_elapsed) => {
            let seconds = LONGEST.as_secs();
            let at = at.lock().unwrap_or_else(PoisonError::into_inner).take();
            Err(match at {
                Some(file) => {
                    let file = file.display();
                    format!("{file}: no answer for {seconds} s: its file system hangs")
                }
                None => format!("the files of TLS and of lists are not read within {seconds} s"),
            })
        }
    }
}

/// All files that [`Material::read`] reads.
fn files(plan: &Plan) -> Vec<&Path> {
    let mut files: Vec<&Path> = plan.pair.secret_file.iter().map(|file| &**file).collect();
    for listener in &plan.listeners {
        files.extend(listener.guard.files().map(|file| &**file));
        let Protocol::Tls(tls) = &listener.protocol else {
            continue;
        };
        for pair in &tls.certificates {
            files.extend([&*pair.cert, &*pair.key]);
        }
        files.extend(tls.ocsp.iter().map(|file| &**file));
        if let Some(auth) = &tls.client_auth {
            files.push(&auth.ca);
            files.extend(auth.crl.iter().map(|file| &**file));
        }
    }
    for tls in plan.pools.iter().filter_map(|pool| pool.tls.as_ref()) {
        files.extend(tls.ca.iter().map(|file| &**file));
        files.extend(tls.client_certificate.iter().flat_map(|pair| [&*pair.cert, &*pair.key]));
    }
    files
}
