//! What TLS, and the lists of listeners, need of files: read before a configuration is taken over, and again when they change.

use std::collections::HashMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::files::Files;
use super::{lists, secrets};
use crate::access::Access;
use crate::config::plan;
use crate::tls::certificate::Certificate;
use crate::tls::certificates::Certificates;
use crate::tls::client::{Ask, Client, ClientSettings, PeerName, Prober, Trust};
use crate::tls::clock::Clock;
use crate::tls::inspect::Finding;
use crate::tls::server::{ClientAuth, MinVersion, Server, ServerSettings};
use crate::tls::suites::Suites;
use crate::tls::tickets::Secret;
use crate::tls::trust::Authorities;

/// How often files are looked at.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// A certificate should have been renewed when it has no more than that left: Certbot does it 30
/// days before the end.
const SOON: Duration = Duration::from_secs(30 * 86_400);

/// What has been read.
#[derive(Debug)]
pub struct Material {
    /// By listener.
    held: HashMap<String, Held>,
    /// By pool.
    clients: HashMap<String, Towards>,
    /// By pool, of checks that trust others than connections do.
    checks: HashMap<String, Towards>,
    /// By listener.
    lists: HashMap<String, lists::Kept>,
    /// What was taken over since the start because files changed, and what was refused.
    pub(super) renewals: (u64, u64),
}

/// What has been read for one listener.
#[derive(Debug)]
struct Held {
    server: Server,
    ocsp: Option<PathBuf>,
    /// In their order.
    certificates: Vec<Kept>,
    client_auth: Option<Believed>,
}

/// A certificate in use.
#[derive(Debug)]
struct Kept {
    certificate: Certificate,
    paths: plan::Certificate,
    files: Files,
}

/// Whom the clients of a listener are believed to be by.
#[derive(Debug)]
struct Believed {
    plan: plan::ClientAuth,
    files: Files,
    /// When its first revocation list is out of date, until that has been told.
    next_update: Option<SystemTime>,
}

/// What has been read for one pool.
#[derive(Debug)]
struct Towards {
    client: Client,
    plan: plan::PoolTls,
    files: Files,
}

/// Why something that changed is of no use.
type Refusal = Box<dyn Error>;

impl Material {
    /// Reads what the listeners of a plan need. `secret` is for tickets where the plan has none.
    ///
    /// Fails with the first file that is of no use. A certificate that has expired is not refused,
    /// for then nothing at all would be served; it is told of.
    pub fn read(plan: &plan::Plan, secret: &Secret) -> Result<Self, String> {
        let secret = match &plan.pair.secret_file {
            None => secret.clone(),
            Some(file) => Secret::read(file)
                .map_err(|error| format!("pair.secret_file: {}: {error}", file.display()))?,
        };
        let (mut held, mut lists) = (HashMap::new(), HashMap::new());
        for listener in &plan.listeners {
            let read = lists::Kept::read(&listener.guard);
            let read = read.map_err(|error| format!("listener {}: {error}", listener.name))?;
            lists.extend(read.map(|kept| (listener.name.clone(), kept)));
            if let plan::Protocol::Tls(tls) = &listener.protocol {
                let read = Held::read(&listener.name, tls, &secret)
                    .map_err(|error| format!("listener {}: {error}", listener.name))?;
                held.insert(listener.name.clone(), read);
            }
        }
        let (mut clients, mut checks) = (HashMap::new(), HashMap::new());
        for pool in &plan.pools {
            if let Some(tls) = of_checks(pool) {
                let read = Towards::read(&tls);
                let read = read.map_err(|error| format!("pool {}: health: {error}", pool.name))?;
                checks.insert(pool.name.clone(), read);
            }
            if let Some(tls) = &pool.tls {
                let read = Towards::read(tls);
                let read = read.map_err(|error| format!("pool {}: {error}", pool.name))?;
                clients.insert(pool.name.clone(), read);
            }
        }
        Ok(Self { held, clients, checks, lists, renewals: (0, 0) })
    }

    /// TLS towards the backends of a pool; `None` if it has none.
    pub fn client(&self, pool: &str) -> Option<&Client> {
        self.clients.get(pool).map(|towards| &towards.client)
    }

    /// TLS for the checks of a pool; `None` if they are as those of a pool without TLS.
    pub fn prober(&self, pool: &plan::Pool) -> Option<Prober> {
        let towards = self.checks.get(&pool.name).or_else(|| self.clients.get(&pool.name));
        towards.map(|towards| Prober::of(&towards.client))
    }

    /// The same, one for each worker; empty if the pool has none.
    pub fn clients(&self, pool: &str, workers: usize) -> Box<[Client]> {
        let client = self.client(pool);
        client.map(|client| (0..workers).map(|_| client.apart()).collect()).unwrap_or_default()
    }

    /// The TLS of a listener; `None` if it has none.
    pub fn server(&self, listener: &str) -> Option<Server> {
        self.held.get(listener).map(|held| held.server.clone())
    }

    /// Who may come in at a listener; `None` = everybody.
    pub fn access(&self, listener: &str) -> Option<Arc<Access>> {
        self.lists.get(listener).map(|kept| Arc::clone(&kept.access))
    }

    /// All certificates in use, with the names of their listeners.
    pub fn certificates(&self) -> impl Iterator<Item = (&str, &Certificate)> {
        self.held.iter().flat_map(|(listener, held)| {
            held.certificates.iter().map(move |kept| (&**listener, &kept.certificate))
        })
    }

    /// Takes over what has changed in files; what is of no use is refused, and what is in use
    /// stays.
    pub(super) fn renew(&mut self, now: SystemTime) -> Vec<Renewal> {
        let (mut renewals, mut lists) = (Vec::new(), Vec::new());
        for (listener, held) in &mut self.held {
            renewals.extend(held.renew(listener, now));
        }
        for (pool, towards) in self.clients.iter_mut().chain(&mut self.checks) {
            let Some(outcome) = towards.renew() else { continue };
            match &outcome {
                Ok(()) => tracing::info!(pool, "TLS towards its backends goes by changed files"),
                Err(error) => tracing::error!(pool, "changed files for TLS are refused: {error}"),
            }
            let refused = outcome.err().map(|error| error.to_string());
            let what = "TLS towards backends".to_owned();
            renewals.push(Renewal { of: ("pool", pool.clone()), what, refused });
        }
        for (listener, kept) in &mut self.lists {
            let Some(outcome) = kept.renew() else { continue };
            match &outcome {
                Ok(()) => tracing::info!(listener, "allow and deny go by changed files"),
                Err(error) => {
                    let what = "changed files are refused, the lists in use stay";
                    tracing::error!(listener, "{what}: {error}");
                }
            }
            lists.push(Renewal {
                of: ("listener", listener.clone()),
                what: "allow, deny".to_owned(),
                refused: outcome.err(),
            });
        }
        for renewal in &renewals {
            match renewal.refused {
                None => self.renewals.0 += 1,
                Some(_) => self.renewals.1 += 1,
            }
        }
        // They are no certificates, and not counted as such.
        renewals.append(&mut lists);
        renewals
    }
}

/// Something whose files have changed.
#[derive(Debug)]
pub(super) struct Renewal {
    /// `listener` or `pool`, and its name.
    pub(super) of: (&'static str, String),
    /// The file of a certificate, or what else it is.
    pub(super) what: String,
    /// Why it is of no use; `None` = it was taken over.
    pub(super) refused: Option<String>,
}

/// What is wrong, or doubtful, about the files of a plan.
#[derive(Debug, Default)]
pub struct Inspection {
    /// The gateway would not start, or nobody would be served.
    pub faults: Vec<String>,
    /// It would, but not everybody might be content.
    pub doubts: Vec<String>,
}

/// Looks at every file that TLS and the lists need, and tells all that is wrong at once.
pub fn inspect(plan: &plan::Plan, now: SystemTime) -> Inspection {
    let mut found = Inspection::default();
    if let Some(file) = &plan.pair.secret_file
        && let Err(error) = Secret::read(file)
    {
        found.faults.push(format!("pair.secret_file: {}: {error}", file.display()));
    }
    for listener in &plan.listeners {
        match lists::load(&listener.guard) {
            Ok(loaded) => found.doubts.extend(loaded.doubts),
            Err(error) => found.faults.push(format!("listener {}: {error}", listener.name)),
        }
        let plan::Protocol::Tls(tls) = &listener.protocol else {
            continue;
        };
        let told = |what: &dyn std::fmt::Display| format!("listener {}: {what}", listener.name);
        let before = found.faults.len();
        for files in &tls.certificates {
            match Certificate::read(&files.cert, &files.key) {
                Err(error) => found.faults.push(told(&error)),
                Ok(certificate) => {
                    for finding in certificate.findings(now) {
                        let text = told(&format_args!("{}: {finding}", files.cert.display()));
                        match finding {
                            Finding::Expired(_) | Finding::NotYetValid(_) => {
                                found.faults.push(text)
                            }
                            _ => found.doubts.push(text),
                        }
                    }
                }
            }
        }
        if let Some(auth) = &tls.client_auth
            && let Ok((_, Some(next_update))) = client_auth(auth)
            && next_update <= now
        {
            let since = humantime::format_rfc3339_seconds(next_update);
            found.faults.push(told(&format_args!("client_crl is out of date since {since}")));
        }
        // The rest of it: client_auth, ocsp.
        if found.faults.len() == before
            && let Ok(secret) = Secret::random()
            && let Err(error) = Held::read(&listener.name, tls, &secret)
        {
            found.faults.push(told(&error));
        }
    }
    for pool in &plan.pools {
        if let Some(Err(error)) = pool.tls.as_ref().map(Towards::read) {
            found.faults.push(format!("pool {}: {error}", pool.name));
        }
        if let Some(Err(error)) = of_checks(pool).as_ref().map(Towards::read) {
            found.faults.push(format!("pool {}: health: {error}", pool.name));
        }
    }
    found.doubts.extend(secrets::exposed(plan));
    found
}

/// The certificates of a plan that are valid `now`, and will not be for much longer.
pub fn ending_soon(plan: &plan::Plan, now: SystemTime) -> Vec<String> {
    let mut ending = Vec::new();
    for listener in &plan.listeners {
        let plan::Protocol::Tls(tls) = &listener.protocol else {
            continue;
        };
        for files in &tls.certificates {
            let Ok(certificate) = Certificate::read(&files.cert, &files.key) else {
                continue;
            };
            let left = certificate.not_after().duration_since(now).unwrap_or_default();
            if !left.is_zero() && left < SOON {
                ending.push(format!(
                    "listener {}: {} expires in {} days, on {}",
                    listener.name,
                    files.cert.display(),
                    left.as_secs() / 86_400,
                    humantime::format_rfc3339_seconds(certificate.not_after()),
                ));
            }
        }
    }
    ending
}

/// TLS of checks that have a name or authorities of their own; `None` if they have neither.
fn of_checks(pool: &plan::Pool) -> Option<plan::PoolTls> {
    let health = pool.health.as_ref()?;
    if health.sni.is_none() && health.ca.is_none() {
        return None;
    }
    // Without authorities, checks of a pool that speaks no TLS take any certificate.
    let none = plan::PoolTls {
        ca: None,
        verify: false,
        sni: plan::Sni::Backend,
        client_certificate: None,
        require_close_notify: false,
    };
    let mut tls = pool.tls.clone().unwrap_or(none);
    if let Some(ca) = &health.ca {
        tls.ca = Some(ca.clone());
        tls.verify = true;
    }
    if let Some(name) = &health.sni {
        tls.sni = plan::Sni::Name(name.clone());
    }
    Some(tls)
}

impl Towards {
    fn read(plan: &plan::PoolTls) -> Result<Self, Refusal> {
        let identity = plan.client_certificate.iter();
        let identity = identity.flat_map(|files| [&files.cert, &files.key]);
        let files = Files::new(plan.ca.iter().chain(identity).cloned().collect());
        Ok(Self { client: Client::new(settings(plan)?)?, plan: plan.clone(), files })
    }

    /// `None` if there is nothing to be done.
    fn renew(&mut self) -> Option<Result<(), Refusal>> {
        self.files.have_changed().then(|| Ok(self.client.replace(settings(&self.plan)?)?))
    }
}

fn settings(plan: &plan::PoolTls) -> Result<ClientSettings, Refusal> {
    let authorities = || match &plan.ca {
        Some(ca) => Authorities::read(ca, None),
        None => Authorities::system(),
    };
    Ok(ClientSettings {
        trust: match plan.verify {
            true => Trust::Authorities(authorities()?),
            false => Trust::Anyone,
        },
        ask: match &plan.sni {
            plan::Sni::Backend => Ask::Backend,
            plan::Sni::Client => Ask::Client,
            plan::Sni::Name(name) => Ask::Name(PeerName::parse(name)?),
        },
        require_close_notify: plan.require_close_notify,
        identity: match &plan.client_certificate {
            Some(files) => Some(Certificate::read(&files.cert, &files.key)?),
            None => None,
        },
        clock: Clock::system(),
    })
}

impl Believed {
    fn read(plan: &plan::ClientAuth) -> Result<(Self, ClientAuth), Refusal> {
        let files = Files::new([&plan.ca].into_iter().chain(&plan.crl).cloned().collect());
        let (client_auth, next_update) = client_auth(plan)?;
        Ok((Self { plan: plan.clone(), files, next_update }, client_auth))
    }

    /// `None` if there is nothing to be done.
    fn renew(&mut self, server: &Server) -> Option<Result<(), Refusal>> {
        self.files.have_changed().then(|| {
            let (client_auth, next_update) = client_auth(&self.plan)?;
            server.replace_client_auth(&client_auth)?;
            self.next_update = next_update;
            Ok(())
        })
    }

    /// Whether a revocation list has become out of date; told once.
    fn has_expired(&mut self, now: SystemTime) -> bool {
        self.next_update.take_if(|next_update| *next_update <= now).is_some()
    }
}

/// Whom to believe, and when the first revocation list will be out of date.
fn client_auth(plan: &plan::ClientAuth) -> Result<(ClientAuth, Option<SystemTime>), Refusal> {
    let authorities = Authorities::read(&plan.ca, plan.crl.as_deref())?;
    let next_update = authorities.next_update();
    let client_auth = match plan.required {
        true => ClientAuth::Required(authorities),
        false => ClientAuth::Optional(authorities),
    };
    Ok((client_auth, next_update))
}

impl Held {
    fn read(listener: &str, plan: &plan::ServerTls, secret: &Secret) -> Result<Self, Refusal> {
        let certificates = plan
            .certificates
            .iter()
            .map(|files| Kept::read(files, plan.ocsp.as_deref()))
            .collect::<Result<Vec<_>, _>>()?;
        let shown = certificates.iter().map(|kept| kept.certificate.clone()).collect();
        let suites = plan.ciphers.iter().map(|suite| suite.name()).collect::<Vec<_>>();
        let suites = Suites::from_names(&suites).map_err(|bad| match bad.first() {
            Some((index, error)) => format!("ciphers: {}: {error}", suites[*index]),
            None => "ciphers".to_owned(),
        })?;
        let (believed, client_auth) = match &plan.client_auth {
            None => (None, ClientAuth::None),
            Some(auth) => {
                let (believed, client_auth) = Believed::read(auth)?;
                (Some(believed), client_auth)
            }
        };
        let server = Server::new(ServerSettings {
            listener: listener.to_owned(),
            certificates: Certificates::new(shown)?,
            min_version: match plan.min_version {
                plan::TlsVersion::Tls12 => MinVersion::Tls12,
                plan::TlsVersion::Tls13 => MinVersion::Tls13,
            },
            suites,
            alpn: plan.alpn.clone(),
            strict_sni: plan.strict_sni,
            client_auth,
            tickets: plan.tickets.then(|| secret.clone()),
            require_close_notify: plan.require_close_notify,
            clock: Clock::system(),
        })?;
        Ok(Self { server, ocsp: plan.ocsp.clone(), certificates, client_auth: believed })
    }

    fn renew(&mut self, listener: &str, now: SystemTime) -> Vec<Renewal> {
        let mut renewals = Vec::new();
        let mut taken = 0;
        let of = || ("listener", listener.to_owned());
        for kept in &mut self.certificates {
            let Some(outcome) = kept.renew(self.ocsp.as_deref(), now) else {
                continue;
            };
            let refused = outcome.as_ref().err().map(ToString::to_string);
            match outcome {
                Ok(()) => {
                    taken += 1;
                    tracing::info!(
                        listener,
                        file = %kept.paths.cert.display(),
                        names = %kept.certificate.names(),
                        serial = kept.certificate.serial(),
                        not_after = %humantime::format_rfc3339_seconds(kept.certificate.not_after()),
                        "a certificate was renewed"
                    );
                }
                Err(error) => {
                    tracing::error!(
                        listener,
                        file = %kept.paths.cert.display(),
                        serial_in_use = kept.certificate.serial(),
                        "a changed certificate is refused, the one in use stays: {error}"
                    );
                }
            }
            let what = kept.paths.cert.display().to_string();
            renewals.push(Renewal { of: of(), what, refused });
        }
        if taken > 0 {
            let shown = self.certificates.iter().map(|kept| kept.certificate.clone()).collect();
            if let Err(error) = self.server.certificates().replace(shown) {
                tracing::error!(listener, "certificates stay as they were: {error}");
            }
        }
        let Some(believed) = &mut self.client_auth else {
            return renewals;
        };
        if let Some(outcome) = believed.renew(&self.server) {
            match &outcome {
                Ok(()) => tracing::info!(listener, "client_ca and client_crl were renewed"),
                Err(error) => {
                    let what = "changed client_ca or client_crl is refused, the one in use stays";
                    tracing::error!(listener, "{what}: {error}");
                }
            }
            let refused = outcome.err().map(|error| error.to_string());
            renewals.push(Renewal { of: of(), what: "client_ca, client_crl".to_owned(), refused });
        }
        if believed.has_expired(now) {
            let what = "client_crl is out of date: no client is let in that it could speak of";
            tracing::error!(listener, "{what}");
        }
        renewals
    }
}

impl Kept {
    fn read(paths: &plan::Certificate, ocsp: Option<&Path>) -> Result<Self, Refusal> {
        let all = [&*paths.cert, &*paths.key].into_iter().chain(ocsp);
        // Before they are read: a change meanwhile is seen.
        let files = Files::new(all.map(Path::to_owned).collect());
        let certificate = staple(Certificate::read(&paths.cert, &paths.key)?, ocsp)?;
        Ok(Self { certificate, paths: paths.clone(), files })
    }

    /// `None` if there is nothing to be done.
    fn renew(&mut self, ocsp: Option<&Path>, now: SystemTime) -> Option<Result<(), Refusal>> {
        self.files.have_changed().then(|| {
            let renewed = Certificate::load(&self.paths.cert, &self.paths.key, now)?;
            self.certificate = staple(renewed, ocsp)?;
            Ok(())
        })
    }
}

fn staple(certificate: Certificate, file: Option<&Path>) -> Result<Certificate, Refusal> {
    match file {
        None => Ok(certificate),
        Some(file) => {
            certificate.stapled_from(file).map_err(|error| format!("ocsp: {error}").into())
        }
    }
}
