//! What TLS needs of files: read before a configuration is taken over, and the certificates of
//! listeners again when their files change.
//!
//! Files are looked at, not subscribed to: a Certbot renewal switches a symbolic link, Kubernetes
//! one that is two levels up, others rewrite a file in place, and all three change what `stat(2)`
//! says of the path. What has changed is read when it has been the same twice in a row, so that a
//! certificate and its key are both there.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::config::plan;
use crate::tls::certificate::Certificate;
use crate::tls::certificates::Certificates;
use crate::tls::client::{Ask, Client, ClientSettings, PeerName, Trust};
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
    clients: HashMap<String, Client>,
    /// Certificates taken over since the start because their files changed, and refused ones.
    pub(super) renewals: (u64, u64),
}

/// What has been read for one listener.
#[derive(Debug)]
struct Held {
    server: Server,
    ocsp: Option<PathBuf>,
    /// In their order.
    certificates: Vec<Kept>,
}

/// A certificate in use, and its files as they were when it was read.
#[derive(Debug)]
struct Kept {
    files: plan::Certificate,
    certificate: Certificate,
    read: Stamps,
    /// How they looked last time, if that was different.
    seen: Option<Stamps>,
}

/// How files look from outside: by these, a change is noticed. `None` = not there.
type Stamps = Vec<Option<(u64, u64, u64, i64, i64)>>;

fn stamps<'a>(files: impl IntoIterator<Item = &'a Path>) -> Stamps {
    let stamp = |file: &Path| {
        let found = fs::metadata(file).ok()?;
        Some((found.dev(), found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
    };
    files.into_iter().map(stamp).collect()
}

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
        let mut held = HashMap::new();
        for listener in &plan.listeners {
            if let plan::Protocol::Tls(tls) = &listener.protocol {
                let read = Held::read(&listener.name, tls, &secret)
                    .map_err(|error| format!("listener {}: {error}", listener.name))?;
                held.insert(listener.name.clone(), read);
            }
        }
        let mut clients = HashMap::new();
        for pool in &plan.pools {
            if let Some(tls) = &pool.tls {
                let client = client(tls).map_err(|error| format!("pool {}: {error}", pool.name))?;
                clients.insert(pool.name.clone(), client);
            }
        }
        Ok(Self { held, clients, renewals: (0, 0) })
    }

    /// TLS towards the backends of a pool; `None` if it has none.
    pub fn client(&self, pool: &str) -> Option<&Client> {
        self.clients.get(pool)
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

    /// All certificates in use, with the names of their listeners.
    pub fn certificates(&self) -> impl Iterator<Item = (&str, &Certificate)> {
        self.held.iter().flat_map(|(listener, held)| {
            held.certificates.iter().map(move |kept| (&**listener, &kept.certificate))
        })
    }

    /// Takes over the certificates whose files have changed; those that are of no use are refused,
    /// and the ones in use stay.
    pub(super) fn renew(&mut self, now: SystemTime) {
        for (listener, held) in &mut self.held {
            let (taken, refused) = held.renew(listener, now);
            self.renewals.0 += taken;
            self.renewals.1 += refused;
        }
    }
}

/// What is wrong, or doubtful, about the files of a plan.
#[derive(Debug, Default)]
pub struct Inspection {
    /// The gateway would not start, or nobody would be served.
    pub faults: Vec<String>,
    /// It would, but not everybody might be content.
    pub doubts: Vec<String>,
}

/// Looks at every file that TLS needs, and tells all that is wrong at once.
pub fn inspect(plan: &plan::Plan, now: SystemTime) -> Inspection {
    let mut found = Inspection::default();
    if let Some(file) = &plan.pair.secret_file
        && let Err(error) = Secret::read(file)
    {
        found.faults.push(format!("pair.secret_file: {}: {error}", file.display()));
    }
    for listener in &plan.listeners {
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
        // The rest of it: client_auth, ocsp.
        if found.faults.len() == before
            && let Ok(secret) = Secret::random()
            && let Err(error) = Held::read(&listener.name, tls, &secret)
        {
            found.faults.push(told(&error));
        }
    }
    for pool in &plan.pools {
        if let Some(Err(error)) = pool.tls.as_ref().map(client) {
            found.faults.push(format!("pool {}: {error}", pool.name));
        }
    }
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

fn client(plan: &plan::PoolTls) -> Result<Client, Box<dyn std::error::Error>> {
    let authorities = || match &plan.ca {
        Some(ca) => Authorities::read(ca, None),
        None => Authorities::system(),
    };
    let settings = ClientSettings {
        trust: match plan.verify {
            true => Trust::Authorities(authorities()?),
            false => Trust::Anyone,
        },
        ask: match &plan.sni {
            plan::Sni::Backend => Ask::Backend,
            plan::Sni::Client => Ask::Client,
            plan::Sni::Name(name) => Ask::Name(PeerName::parse(name)?),
        },
        identity: match &plan.client_certificate {
            Some(files) => Some(Certificate::read(&files.cert, &files.key)?),
            None => None,
        },
        clock: Clock::system(),
    };
    Ok(Client::new(settings)?)
}

impl Held {
    fn read(
        listener: &str,
        plan: &plan::ServerTls,
        secret: &Secret,
    ) -> Result<Self, Box<dyn std::error::Error>> {
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
        let client_auth = match &plan.client_auth {
            None => ClientAuth::None,
            Some(auth) => {
                let authorities = Authorities::read(&auth.ca, auth.crl.as_deref())?;
                match auth.required {
                    true => ClientAuth::Required(authorities),
                    false => ClientAuth::Optional(authorities),
                }
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
            clock: Clock::system(),
        })?;
        Ok(Self { server, ocsp: plan.ocsp.clone(), certificates })
    }

    /// How many certificates were taken over, and how many refused.
    fn renew(&mut self, listener: &str, now: SystemTime) -> (u64, u64) {
        let (mut taken, mut refused) = (0, 0);
        for kept in &mut self.certificates {
            match kept.renew(self.ocsp.as_deref(), now) {
                None => {}
                Some(Ok(())) => {
                    taken += 1;
                    tracing::info!(
                        listener,
                        file = %kept.files.cert.display(),
                        names = %kept.certificate.names(),
                        serial = kept.certificate.serial(),
                        not_after = %humantime::format_rfc3339_seconds(kept.certificate.not_after()),
                        "a certificate was renewed"
                    );
                }
                Some(Err(error)) => {
                    refused += 1;
                    tracing::error!(
                        listener,
                        file = %kept.files.cert.display(),
                        serial_in_use = kept.certificate.serial(),
                        "a changed certificate is refused, the one in use stays: {error}"
                    );
                }
            }
        }
        if taken > 0 {
            let shown = self.certificates.iter().map(|kept| kept.certificate.clone()).collect();
            if let Err(error) = self.server.certificates().replace(shown) {
                tracing::error!(listener, "certificates stay as they were: {error}");
            }
        }
        (taken, refused)
    }
}

impl Kept {
    fn read(
        files: &plan::Certificate,
        ocsp: Option<&Path>,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let read = stamps(paths(files, ocsp));
        let certificate = Certificate::read(&files.cert, &files.key)?;
        let certificate = staple(certificate, ocsp)?;
        Ok(Self { files: files.clone(), certificate, read, seen: None })
    }

    /// `None` if there is nothing to be done.
    fn renew(
        &mut self,
        ocsp: Option<&Path>,
        now: SystemTime,
    ) -> Option<Result<(), Box<dyn std::error::Error>>> {
        let present = stamps(paths(&self.files, ocsp));
        if present == self.read {
            self.seen = None;
            return None;
        }
        if self.seen.as_ref() != Some(&present) {
            self.seen = Some(present);
            return None;
        }
        // Read or refused, it is not looked at again before it changes again.
        self.read = present;
        self.seen = None;
        let renewed = Certificate::load(&self.files.cert, &self.files.key, now)
            .map_err(Into::into)
            .and_then(|certificate| staple(certificate, ocsp));
        Some(renewed.map(|certificate| self.certificate = certificate))
    }
}

fn paths<'a>(
    files: &'a plan::Certificate,
    ocsp: Option<&'a Path>,
) -> impl Iterator<Item = &'a Path> {
    [&*files.cert, &*files.key].into_iter().chain(ocsp)
}

fn staple(
    certificate: Certificate,
    file: Option<&Path>,
) -> Result<Certificate, Box<dyn std::error::Error>> {
    match file {
        None => Ok(certificate),
        Some(file) => {
            certificate.stapled_from(file).map_err(|error| format!("ocsp: {error}").into())
        }
    }
}
