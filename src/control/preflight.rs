//! Trying, without serving, what a configuration needs of the machine.

mod host;

use std::io;
use std::path::Path;
use std::time::SystemTime;

use crate::config::plan::{Address, Node, Plan};
use crate::control::{material, resolve, room};
use crate::safe_file::{self, Exposure};
use crate::{admin, socket};

/// What the machine lacks, and what is worth knowing.
#[derive(Debug, Default)]
pub struct Findings {
    /// The gateway would not start, or not serve.
    pub faults: Vec<Fault>,
    /// It would, but perhaps not as expected.
    pub notes: Vec<String>,
}

/// One thing that the machine lacks.
#[derive(Debug)]
pub struct Fault {
    /// For people to read.
    pub message: String,
    /// A permission is what is missing.
    pub not_permitted: bool,
}

impl Findings {
    fn fault(&mut self, what: String, error: &io::Error) {
        self.faults.push(Fault {
            message: format!("{what}: {error}"),
            not_permitted: error.kind() == io::ErrorKind::PermissionDenied,
        });
    }
}

/// Tries everything; leaves nothing behind.
pub async fn inspect(plan: &Plan, node: Option<&Node>) -> Findings {
    let mut found = Findings::default();
    let mut runs = false;
    if let Some(path) = &plan.admin.socket
        && admin::client::get(path, "/healthz").await.is_ok()
    {
        runs = true;
        found.notes.push(format!(
            "a gateway runs already and answers on {}: addresses are not tried",
            path.display()
        ));
    } else {
        inspect_addresses(plan, &mut found).await;
    }
    for pool in &plan.pools {
        for backend in &pool.backends {
            if let Address::Name { host, port } = &backend.address
                && let Err(cause) = resolve::look_up(host, *port, pool.source).await
            {
                let message = format!("pool {}: cannot resolve {host}: {cause}", pool.name);
                found.faults.push(Fault { message, not_permitted: false });
            }
        }
    }
    found.notes.extend(material::ending_soon(plan, SystemTime::now()));
    if !plan.vrrp.is_empty() {
        host::inspect(plan, node, runs, &mut found);
    }
    inspect_limits(plan, &mut found);
    inspect_directories(plan, &mut found);
    found
}

/// Where others could put files in the place of the gateway's own.
fn inspect_directories(plan: &Plan, found: &mut Findings) {
    let state = plan.runtime.state_dir.as_deref();
    let socket = plan.admin.socket.as_deref().and_then(Path::parent);
    for (key, directory) in [("runtime.state_dir", state), ("admin.socket", socket)] {
        // What is not there yet is made.
        let Some(Ok(Some(exposed))) = directory.map(safe_file::exposure) else { continue };
        if !matches!(exposed, Exposure::Group(_)) {
            found.notes.push(format!("{key}: {exposed}"));
        }
    }
}

async fn inspect_addresses(plan: &Plan, found: &mut Findings) {
    for listener in &plan.listeners {
        for &address in &listener.bind {
            if let Err(error) = socket::listen(address, 1) {
                found.fault(
                    format!("listener {}: cannot listen on {address}", listener.name),
                    &error,
                );
            }
        }
    }
    if let Some(address) = plan.admin.http
        && let Err(error) = admin::open_http(address).await
    {
        found.fault(format!("admin.http: cannot listen on {address}"), &error);
    }
    if let Some(path) = &plan.admin.socket {
        match admin::open_socket(path) {
            Ok(listener) => {
                drop(listener);
                if let Err(error) = std::fs::remove_file(path) {
                    found.fault(format!("admin.socket: cannot remove {}", path.display()), &error);
                }
            }
            Err(error) => {
                found.fault(format!("admin.socket: cannot listen on {}", path.display()), &error);
            }
        }
    }
}

fn inspect_limits(plan: &Plan, found: &mut Findings) {
    match socket::raise_open_files() {
        Err(error) => found.fault("cannot raise RLIMIT_NOFILE".to_owned(), &error),
        Ok(open_files) => {
            let workers = room::workers(plan).unwrap_or(1);
            if let Err(failure) = room::suffices(plan, workers, open_files) {
                let message = failure.to_string();
                return found.faults.push(Fault { message, not_permitted: false });
            }
            let room = room::room(plan, workers, open_files);
            match plan.runtime.max_connections {
                Some(wanted) if wanted.get() > room => found.notes.push(format!(
                    "runtime.max_connections = {wanted}, but {open_files} open files have room for {room}"
                )),
                Some(_) => {}
                None => found.notes.push(format!("room for {room} connections at once")),
            }
        }
    }
    match std::fs::read_to_string("/proc/sys/net/ipv4/tcp_syncookies") {
        // Without IPv4 there is no such file.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => found.fault("cannot read net.ipv4.tcp_syncookies".to_owned(), &error),
        Ok(cookies) if cookies.trim() == "0" => found.notes.push(
            "net.ipv4.tcp_syncookies = 0: a flood of SYNs keeps clients out (1 is better)"
                .to_owned(),
        ),
        Ok(_) => {}
    }
    match std::fs::read_to_string("/proc/sys/net/core/somaxconn") {
        Err(error) => found.fault("cannot read net.core.somaxconn".to_owned(), &error),
        Ok(somaxconn) => match somaxconn.trim().parse::<u32>() {
            Ok(queue) if queue < 1_024 => found.notes.push(format!(
                "net.core.somaxconn = {queue}: bursts of more connections than that are dropped"
            )),
            Ok(_) | Err(_) => {}
        },
    }
}
