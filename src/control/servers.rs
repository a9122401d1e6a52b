//! The admin servers: what is opened, kept and closed as the configuration changes, and handed on.

use crate::admin::server::Entrance;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use tokio::sync::oneshot;

use super::inherit::Inheritance;
use super::*;
use crate::safe_file;

/// The admin servers.
#[derive(Default)]
pub(super) struct Admin {
    pub(super) socket: Option<Server<PathBuf, UnixListener>>,
    pub(super) http: Option<Server<SocketAddr, TcpListener>>,
    /// Those that finish what has been asked.
    ending: Vec<Task>,
}

/// One of them.
pub(super) struct Server<A, L> {
    at: A,
    listener: L,
    /// What serves, and how it is told to stop.
    running: Option<(oneshot::Sender<()>, Task)>,
    /// It was opened by somebody else.
    inherited: bool,
    /// What it leaves in the file system goes when it ends.
    removes_file: bool,
}

impl<A, L> Server<A, L> {
    fn new(at: A, listener: L, inherited: bool) -> Self {
        Self { at, listener, running: None, inherited, removes_file: !inherited }
    }

    /// Whether it was opened by somebody else.
    pub(super) fn is_inherited(&self) -> bool {
        self.inherited
    }

    fn pause(&mut self) -> Option<Task> {
        let (stop, task) = self.running.take()?;
        // If it has ended already, nothing has to be told.
        let _ = stop.send(());
        Some(task)
    }
}

/// A task that ends when it is no longer wanted.
pub(super) struct Task(pub(super) JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Admin {
    /// Opens what `wanted` has and `before` has not, or takes it from what the process was started
    /// with; what both have is left as it is, and not part of the result.
    pub(super) async fn open(
        wanted: &plan::Admin,
        before: &Self,
        handed: &mut Inheritance,
    ) -> Result<Self, Failure> {
        let mut opened = Self::default();
        if let Some(address) = wanted.http
            && before.http.as_ref().is_none_or(|present| present.at != address)
        {
            let what = format!("admin.http: cannot listen on {address}");
            let none = HashSet::new();
            let refused = Failure::listen(what, address, &none);
            let handed = handed.tcp(address);
            let inherited = handed.is_some();
            let listener = match handed {
                Some(listener) => Ok(listener),
                None => admin::open_http(address).await.and_then(tokio::net::TcpListener::into_std),
            };
            opened.http = Some(Server::new(address, listener.map_err(refused)?, inherited));
        }
        // Last, for it is the one that leaves something behind.
        if let Some(path) = &wanted.socket
            && before.socket.as_ref().is_none_or(|present| present.at != *path)
        {
            let what = format!("admin.socket: cannot listen on {}", path.display());
            let refused = |source: io::Error| {
                let hint = match source.kind() {
                    io::ErrorKind::AddrInUse => " (another gateway answers on it)",
                    io::ErrorKind::AlreadyExists => {
                        " (remove it, or set admin.socket to another path)"
                    }
                    _ => " (set admin.socket to a path that you may write, or \"\" for none)",
                };
                Failure::System { what, source, hint: hint.to_owned() }
            };
            let handed = handed.unix(path);
            let inherited = handed.is_some();
            let listener = match handed {
                Some(listener) => Ok(listener),
                None => admin::open_socket(path).and_then(tokio::net::UnixListener::into_std),
            };
            let server = Server::new(path.clone(), listener.map_err(refused)?, inherited);
            let directory =
                path.parent().and_then(|directory| safe_file::exposure(directory).ok()?);
            if let Some(exposed @ safe_file::Exposure::Everybody(_)) = directory {
                tracing::warn!(
                    "admin.socket: another user could listen on {} while this process does not: \
                     {exposed}",
                    path.display()
                );
            }
            opened.socket = Some(server);
        }
        Ok(opened)
    }

    /// Serves where it does not yet.
    pub(super) fn serve(&mut self, asks: &mpsc::Sender<Ask>) {
        let failed = |error: io::Error| tracing::error!(%error, "the admin server cannot serve");
        if let Some(server) = self.socket.as_mut().filter(|server| server.running.is_none()) {
            let listener = server.listener.try_clone().and_then(tokio::net::UnixListener::from_std);
            match listener {
                Ok(listener) => server.running = Some(start(listener, asks)),
                Err(error) => failed(error),
            }
        }
        if let Some(server) = self.http.as_mut().filter(|server| server.running.is_none()) {
            let listener = server.listener.try_clone().and_then(tokio::net::TcpListener::from_std);
            match listener {
                Ok(listener) => server.running = Some(start(listener, asks)),
                Err(error) => failed(error),
            }
        }
    }

    /// Answers what has been asked, and takes no more questions: they wait in the sockets' queues.
    pub(super) fn pause(&mut self) {
        let tasks = [
            self.socket.as_mut().and_then(Server::pause),
            self.http.as_mut().and_then(Server::pause),
        ];
        self.ending.retain(|task| !task.0.is_finished());
        self.ending.extend(tasks.into_iter().flatten());
    }

    /// Whether all has been answered that was asked before [`Admin::pause`].
    pub(super) fn has_answered(&self) -> bool {
        self.ending.iter().all(|task| task.0.is_finished())
    }

    /// Closes the sockets. Another process has them, and the file too if `keeps_file`.
    pub(super) fn leave(&mut self, keeps_file: bool) {
        self.pause();
        self.http = None;
        match keeps_file {
            true => self.socket = None,
            false => self.remove_socket(),
        }
    }

    /// The unix socket is this process's now. `removes_file`: whether its file goes with it.
    pub(super) fn inherit(&mut self, removes_file: bool) {
        if let Some(server) = self.socket.as_mut().filter(|server| server.inherited) {
            server.removes_file = removes_file;
        }
    }

    /// Whether the file of the unix socket goes with the process.
    pub(super) fn removes_socket(&self) -> bool {
        self.socket.as_ref().is_some_and(|server| server.removes_file)
    }

    /// The sockets, for another process.
    pub(super) fn sockets(&self) -> impl Iterator<Item = io::Result<OwnedFd>> {
        let unix = self.socket.iter().map(|server| server.listener.try_clone().map(OwnedFd::from));
        let http = self.http.iter().map(|server| server.listener.try_clone().map(OwnedFd::from));
        unix.chain(http)
    }

    /// Closes the unix socket and removes its file.
    pub(super) fn remove_socket(&mut self) {
        let Some(server) = self.socket.take() else { return };
        if !server.removes_file {
            return;
        }
        let path = &server.at;
        let found = std::fs::symlink_metadata(path).map(|found| found.file_type());
        if found.is_ok_and(|found| !std::os::unix::fs::FileTypeExt::is_socket(&found)) {
            // Whatever it is, it has been put there by somebody else.
            tracing::warn!(path = %path.display(), "no admin socket there any more: left as it is");
        } else if let Err(error) = std::fs::remove_file(path) {
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

fn start(listener: impl Entrance + Sync, asks: &mpsc::Sender<Ask>) -> (oneshot::Sender<()>, Task) {
    let (stop, stopped) = oneshot::channel::<()>();
    // Nobody to say so any more is no reason to stop: the task is ended then.
    let stopped = async move {
        if stopped.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    (stop, Task(tokio::spawn(admin::serve(listener, asks.clone(), stopped))))
}
