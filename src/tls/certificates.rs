//! The certificates of a listener, and which of them a client gets.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::certificate::Certificate;
use super::clock::Clock;
use super::suites::Suites;

/// There must be a certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a TLS listener needs a certificate")]
pub struct NoCertificates;

/// The certificates of a listener: a handle to a set that can be replaced under way.
///
/// A connection keeps the certificate it was given; those that come later see the new set, whole.
#[derive(Clone, Debug)]
pub struct Certificates(Arc<ArcSwap<Set>>);

/// Certificates in the order in which one is chosen for a client that takes several kinds.
type Choices = Vec<Arc<Certificate>>;

#[derive(Debug)]
struct Set {
    /// As configured; never empty.
    all: Vec<Arc<Certificate>>,
    /// By full name.
    exact: HashMap<Box<str>, Choices>,
    /// By what follows `*.`.
    wildcard: HashMap<Box<str>, Choices>,
    /// For those who ask for nothing we have: the first, and those of its name.
    default: Choices,
}

impl Certificates {
    /// A set of certificates, of which the first is the default.
    pub fn new(certificates: Vec<Certificate>) -> Result<Self, NoCertificates> {
        Ok(Self(Arc::new(ArcSwap::from_pointee(Set::new(certificates)?))))
    }

    /// Puts these in place of those, for connections to come.
    pub fn replace(&self, certificates: Vec<Certificate>) -> Result<(), NoCertificates> {
        self.0.store(Arc::new(Set::new(certificates)?));
        Ok(())
    }

    /// All of them, in their order.
    pub fn all(&self) -> Vec<Arc<Certificate>> {
        self.0.load().all.clone()
    }

    /// The certificate for a client that asks for `name` at the time `now` and takes any kind: an exact
    /// match, then a wildcard, then, unless `strict`, the default. One that has expired, or is not
    /// valid yet, is chosen only if no other has the name.
    pub fn find(
        &self,
        name: Option<&str>,
        strict: bool,
        now: SystemTime,
    ) -> Option<Arc<Certificate>> {
        self.0.load().choose(name, strict, now, |_| Some(0)).cloned()
    }
}

impl Set {
    fn new(certificates: Vec<Certificate>) -> Result<Self, NoCertificates> {
        let all: Vec<_> = certificates.into_iter().map(Arc::new).collect();
        let mut exact: HashMap<Box<str>, Choices> = HashMap::new();
        let mut wildcard: HashMap<Box<str>, Choices> = HashMap::new();
        for certificate in &all {
            for name in &certificate.names().dns {
                // A wildcard stands for the whole first label and no more (RFC 9525, section 6.3).
                let (map, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut wildcard, parent),
                    None => (&mut exact, name.as_str()),
                };
                let choices = map.entry(name.into()).or_default();
                // A certificate may have a name twice.
                if !choices.iter().any(|other| Arc::ptr_eq(other, certificate)) {
                    choices.push(Arc::clone(certificate));
                }
            }
        }
        // Stable: of two of a kind, the one configured first.
        for choices in exact.values_mut().chain(wildcard.values_mut()) {
            choices.sort_by_key(|certificate| certificate.kind());
        }
        let first = all.first().ok_or(NoCertificates)?;
        let of_its_name =
            first.names().dns.first().and_then(|name| match name.strip_prefix("*.") {
                Some(parent) => wildcard.get(parent),
                None => exact.get(name.as_str()),
            });
        let default = match of_its_name {
            // The first is the default, if another of its kind has the name as well.
            Some(choices) => {
                let mut choices = choices.clone();
                choices.sort_by_key(|other| (other.kind(), !Arc::ptr_eq(other, first)));
                choices
            }
            None => vec![Arc::clone(first)],
        };
        Ok(Self { all, exact, wildcard, default })
    }

    /// The certificate for `name` that suits the client best, by the lowest rank: one that is valid
    /// `now`, else any. If none has a rank, the first for the name, whose handshake will fail with the
    /// right reason.
    fn choose(
        &self,
        name: Option<&str>,
        strict: bool,
        now: SystemTime,
        rank: impl Fn(&Certificate) -> Option<usize>,
    ) -> Option<&Arc<Certificate>> {
        let name = name.map(canonical);
        let (exact, wildcard) = match name.as_deref() {
            None => (None, None),
            Some(name) => {
                let parent = name.split_once('.').filter(|(label, _)| !label.is_empty());
                let wildcard = parent.and_then(|(_, parent)| self.wildcard.get(parent));
                (self.exact.get(name), wildcard)
            }
        };
        let default = (exact.is_none() && wildcard.is_none() && !strict).then_some(&self.default);
        let levels = || [exact, wildcard, default].into_iter().flatten();
        let best = |only_valid: bool| {
            levels().find_map(|choices| {
                let usable = choices.iter().filter(|choice| !only_valid || choice.is_valid(now));
                let ranked = usable.filter_map(|choice| Some((rank(choice)?, choice)));
                ranked.min_by_key(|(rank, _)| *rank).map(|(_, choice)| choice)
            })
        };
        best(true).or_else(|| best(false)).or_else(|| levels().flatten().next())
    }
}

/// A name as the maps have it: without the dot of the root, in lower case.
fn canonical(name: &str) -> Cow<'_, str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

/// Chooses for the handshakes of a listener.
#[derive(Debug)]
pub(super) struct Resolver {
    pub(super) certificates: Certificates,
    pub(super) strict: bool,
    pub(super) clock: Clock,
    /// Those of the listener.
    pub(super) suites: Suites,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let set = self.certificates.0.load();
        let rank = |certificate: &Certificate| {
            let key = &certificate.certified_key().key;
            key.choose_scheme(hello.signature_schemes())?;
            self.suites.rank(&**key, hello.cipher_suites())
        };
        let chosen = set.choose(hello.server_name(), self.strict, self.clock.now(), rank);
        chosen.map(|chosen| Arc::clone(chosen.certified_key()))
    }
}
