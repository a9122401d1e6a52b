//! The admin servers: what is opened, kept and closed as the configuration changes.

use super::*;

/// The admin servers.
#[derive(Default)]
pub(super) struct Admin {
    pub(super) socket: Option<(PathBuf, Task)>,
    pub(super) http: Option<(SocketAddr, Task)>,
}

/// A task that ends when it is no longer wanted.
pub(super) struct Task(pub(super) JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Admin {
    /// Opens what `wanted` has and `before` has not; what both have is left as it is, and not
    /// part of the result.
    pub(super) async fn open(
        wanted: &plan::Admin,
        before: &Self,
        asks: &mpsc::Sender<Ask>,
    ) -> Result<Self, Failure> {
        let mut opened = Self::default();
        if let Some(address) = wanted.http
            && before.http.as_ref().is_none_or(|(present, _)| *present != address)
        {
            let what = format!("admin.http: cannot listen on {address}");
            let listener = admin::open_http(address).await.map_err(Failure::listen(
                what,
                address,
                &HashSet::new(),
            ))?;
            let task = Task(tokio::spawn(admin::serve(listener, asks.clone())));
            opened.http = Some((address, task));
        }
        // Last, for it is the one that leaves something behind.
        if let Some(path) = &wanted.socket
            && before.socket.as_ref().is_none_or(|(present, _)| present != path)
        {
            let what = format!("admin.socket: cannot listen on {}", path.display());
            let refused = |source: io::Error| {
                let hint = match source.kind() {
                    io::ErrorKind::AddrInUse => " (another gateway answers on it)",
                    _ => " (set admin.socket to a path that you may write, or \"\" for none)",
                };
                Failure::System { what, source, hint: hint.to_owned() }
            };
            let listener = admin::open_socket(path).map_err(refused)?;
            let task = Task(tokio::spawn(admin::serve(listener, asks.clone())));
            opened.socket = Some((path.clone(), task));
        }
        Ok(opened)
    }

    /// Closes the unix socket and removes its file.
    pub(super) fn remove_socket(&mut self) {
        let Some((path, task)) = self.socket.take() else { return };
        drop(task);
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(%error, path = %path.display(), "cannot remove the admin socket");
        }
    }

    /// Takes over what was opened for `wanted`, and closes what is no longer.
    pub(super) fn replace(&mut self, wanted: &plan::Admin, opened: Self) {
        if opened.socket.is_some() || wanted.socket.is_none() {
            self.remove_socket();
            self.socket = opened.socket;
        }
        if opened.http.is_some() || wanted.http.is_none() {
            self.http = opened.http;
        }
    }
}
