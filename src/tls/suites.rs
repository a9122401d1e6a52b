//! Cipher suites by the names people use, and the order in which they are preferred.
//!
//! There are nine, all of them with forward secrecy and authenticated encryption: three of TLS 1.3
//! (RFC 8446, appendix B.4) and six of TLS 1.2 (RFC 5289, RFC 7905). The two versions are
//! configured apart, as HAProxy does with `ciphersuites` and `ciphers`: a list that names suites
//! of one version leaves those of the other as they are by default.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::{self, cipher_suite as known, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::sign::SigningKey;
use rustls::{CipherSuite, SupportedCipherSuite};

/// A suite under its names: IANA's, OpenSSL's (for TLS 1.3 they are the same).
struct Named {
    iana: &'static str,
    openssl: &'static str,
    suite: SupportedCipherSuite,
}

/// All suites there are, the recommended order within each version.
///
/// AES-128 goes before AES-256: it is the cheaper, and no attack is known that the longer key would
/// withstand alone. ChaCha20 is for clients without AES in hardware.
static ALL: [Named; 9] = [
    Named {
        iana: "TLS_AES_128_GCM_SHA256",
        openssl: "TLS_AES_128_GCM_SHA256",
        suite: known::TLS13_AES_128_GCM_SHA256,
    },
    Named {
        iana: "TLS_AES_256_GCM_SHA384",
        openssl: "TLS_AES_256_GCM_SHA384",
        suite: known::TLS13_AES_256_GCM_SHA384,
    },
    Named {
        iana: "TLS_CHACHA20_POLY1305_SHA256",
        openssl: "TLS_CHACHA20_POLY1305_SHA256",
        suite: known::TLS13_CHACHA20_POLY1305_SHA256,
    },
    Named {
        iana: "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        openssl: "ECDHE-ECDSA-AES128-GCM-SHA256",
        suite: known::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    },
    Named {
        iana: "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        openssl: "ECDHE-RSA-AES128-GCM-SHA256",
        suite: known::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    },
    Named {
        iana: "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        openssl: "ECDHE-ECDSA-AES256-GCM-SHA384",
        suite: known::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    },
    Named {
        iana: "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        openssl: "ECDHE-RSA-AES256-GCM-SHA384",
        suite: known::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    },
    Named {
        iana: "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        openssl: "ECDHE-ECDSA-CHACHA20-POLY1305",
        suite: known::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    },
    Named {
        iana: "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        openssl: "ECDHE-RSA-CHACHA20-POLY1305",
        suite: known::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    },
];

/// Groups for the key exchange, the hybrid with ML-KEM first: what is recorded today must not be
/// read by the quantum computers of tomorrow. Of these, the client's favourite is taken.
static GROUPS: [&dyn SupportedKxGroup; 4] =
    [kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];

/// Why a name is no cipher suite.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadSuite {
    /// No such suite, or one that is not offered on purpose (CBC, RSA key exchange, RC4, …).
    #[error("no such cipher suite, or one without forward secrecy or authenticated encryption")]
    Unknown,
    /// The list has it already, perhaps under its other name.
    #[error("the list has this cipher suite twice")]
    Repeated,
}

/// The cipher suites of a listener or a client, in order of preference.
#[derive(Clone, Debug, PartialEq)]
pub struct Suites {
    suites: Vec<SupportedCipherSuite>,
    chosen: bool,
}

impl Suites {
    /// All suites, in the recommended order.
    pub fn recommended() -> Self {
        Self { suites: ALL.iter().map(|named| named.suite).collect(), chosen: false }
    }

    /// The suites called `names`, in that order; the recommended ones if there are no names.
    ///
    /// A name is IANA's or OpenSSL's, in any case. Fails with the index of every bad name.
    pub fn from_names<S: AsRef<str>>(names: &[S]) -> Result<Self, Vec<(usize, BadSuite)>> {
        if names.is_empty() {
            return Ok(Self::recommended());
        }
        let mut suites: Vec<SupportedCipherSuite> = Vec::new();
        let mut bad = Vec::new();
        for (index, name) in names.iter().enumerate() {
            match find(name.as_ref()) {
                None => bad.push((index, BadSuite::Unknown)),
                Some(suite) if suites.contains(&suite) => bad.push((index, BadSuite::Repeated)),
                Some(suite) => suites.push(suite),
            }
        }
        if !bad.is_empty() {
            return Err(bad);
        }
        for missing in [is_tls13 as fn(&_) -> bool, |suite| !is_tls13(suite)] {
            if !suites.iter().any(missing) {
                suites.extend(ALL.iter().map(|named| named.suite).filter(missing));
            }
        }
        Ok(Self { suites, chosen: true })
    }

    /// The names of IANA and of OpenSSL of all suites there are.
    pub fn known_names() -> impl Iterator<Item = (&'static str, &'static str)> {
        ALL.iter().map(|named| (named.iana, named.openssl))
    }

    /// IANA's names of these suites, in order.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.suites.iter().filter_map(|suite| iana_name(suite.suite()))
    }

    /// Whether our order decides, and not the client's.
    ///
    /// It does if somebody took the trouble to write it down. Otherwise the client knows better
    /// whether it has AES in hardware, and all of these suites are good.
    pub fn server_decides(&self) -> bool {
        self.chosen
    }

    /// How much `key` is to be preferred for a client that offers these suites: the lower, the
    /// more; `None` if they have no suite for it.
    ///
    /// In TLS 1.3 a suite says nothing of the key. In TLS 1.2 it does, and where our order decides,
    /// it decides between two certificates too.
    pub(super) fn rank(&self, key: &dyn SigningKey, offered: &[CipherSuite]) -> Option<usize> {
        let mut shared = self.suites.iter().filter(|suite| offered.contains(&suite.suite()));
        if shared.clone().any(is_tls13) {
            return Some(0);
        }
        let place = shared.position(|suite| match suite {
            SupportedCipherSuite::Tls12(suite) => key.choose_scheme(suite.sign).is_some(),
            SupportedCipherSuite::Tls13(_) => false,
        })?;
        Some(if self.chosen { place } else { 0 })
    }

    /// The cryptography with these suites and our groups.
    pub(super) fn provider(&self) -> Arc<CryptoProvider> {
        Arc::new(CryptoProvider {
            cipher_suites: self.suites.clone(),
            kx_groups: GROUPS.to_vec(),
            ..aws_lc_rs::default_provider()
        })
    }
}

impl Default for Suites {
    fn default() -> Self {
        Self::recommended()
    }
}

/// IANA's name of a suite, which rustls spells differently for TLS 1.3.
pub(super) fn iana_name(suite: CipherSuite) -> Option<&'static str> {
    ALL.iter().find(|named| named.suite.suite() == suite).map(|named| named.iana)
}

fn find(name: &str) -> Option<SupportedCipherSuite> {
    let same = |known: &str| known.eq_ignore_ascii_case(name);
    ALL.iter().find(|named| same(named.iana) || same(named.openssl)).map(|named| named.suite)
}

fn is_tls13(suite: &SupportedCipherSuite) -> bool {
    suite.tls13().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<&'static str> {
        Suites::from_names(names).unwrap().names().collect()
    }

    #[test]
    fn no_names_are_the_recommended_suites_and_the_client_decides() {
        let suites = Suites::from_names::<&str>(&[]).unwrap();
        assert_eq!(suites, Suites::recommended());
        assert!(!suites.server_decides());
        assert_eq!(suites.names().next(), Some("TLS_AES_128_GCM_SHA256"));
        assert_eq!(suites.names().count(), 9);
    }

    #[test]
    fn both_kinds_of_names_in_the_order_given() {
        let suites = Suites::from_names(&[
            "ECDHE-RSA-AES256-GCM-SHA384",
            "TLS_CHACHA20_POLY1305_SHA256",
            "tls_ecdhe_ecdsa_with_aes_128_gcm_sha256",
        ])
        .unwrap();
        assert!(suites.server_decides());
        let names: Vec<_> = suites.names().collect();
        assert_eq!(
            names,
            [
                "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
                "TLS_CHACHA20_POLY1305_SHA256",
                "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
            ]
        );
    }

    #[test]
    fn a_list_of_one_version_leaves_the_other_alone() {
        assert_eq!(
            names(&["ECDHE-RSA-CHACHA20-POLY1305"]),
            [
                "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
                "TLS_AES_128_GCM_SHA256",
                "TLS_AES_256_GCM_SHA384",
                "TLS_CHACHA20_POLY1305_SHA256",
            ]
        );
        let only_tls13 = names(&["TLS_AES_256_GCM_SHA384"]);
        assert_eq!(only_tls13[0], "TLS_AES_256_GCM_SHA384");
        assert_eq!(only_tls13.len(), 7);
    }

    #[test]
    fn every_bad_name_is_told() {
        let bad = Suites::from_names(&[
            "AES128-SHA",
            "ECDHE-RSA-AES128-GCM-SHA256",
            "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            "",
        ]);
        let expected = [(0, BadSuite::Unknown), (2, BadSuite::Repeated), (3, BadSuite::Unknown)];
        assert_eq!(bad.unwrap_err(), expected);
    }

    #[test]
    fn all_suites_of_the_library_have_names() {
        for suite in aws_lc_rs::ALL_CIPHER_SUITES {
            assert!(iana_name(suite.suite()).is_some(), "{suite:?}");
        }
    }

    #[test]
    fn groups_begin_with_the_hybrid() {
        let provider = Suites::recommended().provider();
        let groups: Vec<_> = provider.kx_groups.iter().map(|group| group.name()).collect();
        use rustls::NamedGroup::{X25519, X25519MLKEM768, secp256r1, secp384r1};
        assert_eq!(groups, [X25519MLKEM768, X25519, secp256r1, secp384r1]);
    }
}
