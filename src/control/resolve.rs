//! Backends that are given by name: keeps asking, as long as each answer is good for.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use tokio::sync::mpsc;
use tokio::time::sleep;

/// However short an answer is good for, it is not asked again before.
const SHORTEST: Duration = Duration::from_secs(1);

/// However long an answer is good for, it is asked again after this.
const LONGEST: Duration = Duration::from_secs(3_600);

/// After a failure: at first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What a name turned out to mean.
#[derive(Debug)]
pub struct Answer {
    /// Id of the backend.
    pub backend: u64,
    /// Its address, or why there is none.
    pub address: Result<SocketAddr, String>,
}

/// Resolves the name of a backend for as long as it is polled.
///
/// Of several addresses the one in use stays, while it is among them; otherwise the first in
/// order is taken, so that two gateways choose the same.
pub async fn keep_resolving(
    backend: u64,
    host: String,
    port: u16,
    source: Option<IpAddr>,
    answers: mpsc::UnboundedSender<Answer>,
) {
    let mut present = None;
    let mut retry = RETRY.0;
    loop {
        let (address, next) = match look_up(&host, port, source, present).await {
            Ok((address, good_for)) => {
                retry = RETRY.0;
                present = Some(address);
                (Ok(address), good_for.clamp(SHORTEST, LONGEST))
            }
            Err(cause) => {
                let wait = retry;
                retry = (retry * 2).min(RETRY.1);
                (Err(format!("cannot resolve {host}: {cause}")), wait)
            }
        };
        if answers.send(Answer { backend, address }).is_err() {
            return;
        }
        sleep(next).await;
    }
}

/// Resolves a name once. Returns the address and how long it is good for, or a cause.
pub async fn look_up(
    host: &str,
    port: u16,
    source: Option<IpAddr>,
    present: Option<SocketAddr>,
) -> Result<(SocketAddr, Duration), String> {
    // A resolver of its own each time: it reads the system's configuration as it is now, and
    // keeps no answer longer than it was good for.
    let resolver = TokioResolver::builder_tokio()
        .and_then(|builder| builder.build())
        .map_err(|error| error.to_string())?;
    let found = resolver.lookup_ip(host).await.map_err(|error| {
        if error.is_nx_domain() || error.is_no_records_found() {
            "no such name, or it has no address".to_owned()
        } else {
            error.to_string()
        }
    })?;
    // From an address of one family only the same family can be reached.
    let reachable = |ip: &IpAddr| source.is_none_or(|source| source.is_ipv4() == ip.is_ipv4());
    let mut addresses: Vec<_> =
        found.iter().filter(reachable).map(|ip| SocketAddr::new(ip, port)).collect();
    addresses.sort_unstable();
    let chosen = present.filter(|address| addresses.contains(address));
    let chosen = chosen.or_else(|| addresses.first().copied()).ok_or("no address")?;
    Ok((chosen, found.valid_until().saturating_duration_since(Instant::now())))
}
