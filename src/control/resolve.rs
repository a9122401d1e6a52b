//! Backends that are given by name: keeps asking, as long as each answer is good for.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::addresses::{Family, Found, Key};

/// However short an answer is good for, it is not asked again before.
const SHORTEST: Duration = Duration::from_secs(1);

/// However long an answer is good for, it is asked again after this.
const LONGEST: Duration = Duration::from_secs(3_600);

/// After a failure: at first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// So many addresses of a name are tried at most.
const MOST_ADDRESSES: usize = 16;

/// What a name turned out to mean.
#[derive(Debug)]
pub enum Answer {
    /// For a backend that is reached at any of its addresses.
    One {
        /// Id of the backend.
        backend: u64,
        /// Its addresses, at least one, in the order of preference; or why there is none.
        addresses: Result<Vec<SocketAddr>, String>,
    },
    /// For a backend of the file that one is made of for each address.
    All(Key, Found),
}

/// Resolves the name of a backend for as long as it is polled.
pub async fn keep_resolving(
    backend: u64,
    host: String,
    port: u16,
    source: Option<IpAddr>,
    answers: mpsc::UnboundedSender<Answer>,
) {
    let mut retry = RETRY.0;
    loop {
        let (addresses, next) = match look_up(&host, port, source).await {
            Ok((addresses, good_for)) => {
                retry = RETRY.0;
                (Ok(addresses), good_for.clamp(SHORTEST, LONGEST))
            }
            Err(cause) => {
                let wait = retry;
                retry = (retry * 2).min(RETRY.1);
                (Err(format!("cannot resolve {host}: {cause}")), wait)
            }
        };
        if answers.send(Answer::One { backend, addresses }).is_err() {
            return;
        }
        sleep(next).await;
    }
}

/// The same for a backend of the file that one is made of for each address. The families are asked for
/// each by itself: that the look-up of one has failed does not mean that it has no address.
pub async fn keep_resolving_all(
    key: Key,
    source: Option<IpAddr>,
    answers: mpsc::UnboundedSender<Answer>,
) {
    let mut retry = RETRY.0;
    loop {
        let of = |strategy, is_v4: bool| {
            // From an address of one family only the same family can be reached.
            let reachable = source.is_none_or(|source| source.is_ipv4() == is_v4);
            let host = &key.host;
            async move {
                if reachable { look_up_family(host, strategy).await } else { Ok((vec![], LONGEST)) }
            }
        };
        let (v4, v6) = tokio::join!(
            of(LookupIpStrategy::Ipv4Only, true),
            of(LookupIpStrategy::Ipv6Only, false)
        );
        let good_for = [&v4, &v6].into_iter().flatten().map(|(_, good_for)| *good_for).min();
        let has_failed = v4.is_err() || v6.is_err();
        let family = |answer: Result<(Vec<IpAddr>, Duration), String>| match answer {
            Ok((list, _)) => Family::Are(list),
            Err(cause) => Family::Unknown(format!("cannot resolve {}: {cause}", key.host)),
        };
        let found = Found { v4: family(v4), v6: family(v6) };
        let is_empty = matches!((&found.v4, &found.v6),
            (Family::Are(v4), Family::Are(v6)) if v4.is_empty() && v6.is_empty());
        let mut next = good_for.unwrap_or(LONGEST).clamp(SHORTEST, LONGEST);
        if has_failed || is_empty {
            next = next.min(retry);
            retry = (retry * 2).min(RETRY.1);
        } else {
            retry = RETRY.0;
        }
        if answers.send(Answer::All(key.clone(), found)).is_err() {
            return;
        }
        sleep(next).await;
    }
}

/// Looks up the addresses of one family that a name has. None is an answer, too.
async fn look_up_family(
    host: &str,
    strategy: LookupIpStrategy,
) -> Result<(Vec<IpAddr>, Duration), String> {
    let resolver = resolver(strategy)?;
    match resolver.lookup_ip(host).await {
        Ok(found) => Ok((
            found.iter().collect(),
            found.valid_until().saturating_duration_since(Instant::now()),
        )),
        Err(error) if error.is_nx_domain() || error.is_no_records_found() => {
            Ok((Vec::new(), LONGEST))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// One of its own each time: it reads the system's configuration as it is now, and keeps no answer
/// longer than it was good for.
fn resolver(strategy: LookupIpStrategy) -> Result<TokioResolver, String> {
    let built = TokioResolver::builder_tokio().and_then(|mut builder| {
        builder.options_mut().ip_strategy = strategy;
        builder.build()
    });
    built.map_err(|error| error.to_string())
}

/// Resolves a name once. Returns its addresses, at most [`MOST_ADDRESSES`], and how long they are good
/// for, or a cause.
pub async fn look_up(
    host: &str,
    port: u16,
    source: Option<IpAddr>,
) -> Result<(Vec<SocketAddr>, Duration), String> {
    // By itself it asks for one family, and for the other only if there is none.
    let resolver = resolver(LookupIpStrategy::Ipv4AndIpv6)?;
    let found = resolver.lookup_ip(host).await.map_err(|error| {
        if error.is_nx_domain() || error.is_no_records_found() {
            "no such name, or it has no address".to_owned()
        } else {
            error.to_string()
        }
    })?;
    // From an address of one family only the same family can be reached.
    let reachable = |ip: &IpAddr| source.is_none_or(|source| source.is_ipv4() == ip.is_ipv4());
    let addresses =
        ordered(found.iter().filter(reachable).map(|ip| SocketAddr::new(ip, port)).collect());
    if addresses.is_empty() {
        return Err("no address".to_owned());
    }
    Ok((addresses, found.valid_until().saturating_duration_since(Instant::now())))
}

/// The order in which addresses are tried: sorted, so that two gateways choose the same, and the
/// families by turns (RFC 8305, section 4), so that one of them that is not connected costs one
/// attempt. IPv4 is first.
fn ordered(mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    addresses.sort_unstable();
    addresses.dedup();
    let (v4, v6): (Vec<_>, Vec<_>) = addresses.into_iter().partition(SocketAddr::is_ipv4);
    let both = v4.len().min(v6.len());
    let by_turns = v4[..both].iter().zip(&v6[..both]).flat_map(|(&v4, &v6)| [v4, v6]);
    let rest = v4[both..].iter().chain(&v6[both..]).copied();
    by_turns.chain(rest).take(MOST_ADDRESSES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let order = |texts: &[&str]| {
            let addresses = texts.iter().map(|text| SocketAddr::new(text.parse().unwrap(), 1));
            ordered(addresses.collect()).iter().map(|a| a.ip().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            order(&["::2", "::1", "10.0.0.2", "::3", "10.0.0.1", "::1"]),
            ["10.0.0.1", "::1", "10.0.0.2", "::2", "::3"]
        );
        assert_eq!(order(&["::1"]), ["::1"]);
        let many: Vec<_> = (0..100).map(|n| format!("10.0.0.{n}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert_eq!(order(&many).len(), MOST_ADDRESSES);
    }
}
