//! Names of cipher suites, as IANA and as OpenSSL write them.

use super::findings::{Problem, quote};
use super::plan::CipherSuite;
use super::suggest::nearest;

/// How many suites there are.
pub(super) const COUNT: usize = 9;

/// Every suite, and what OpenSSL calls it. Those of TLS 1.3 have one name.
const SUITES: [(CipherSuite, &str); COUNT] = [
    (CipherSuite::Aes128GcmSha256, "TLS_AES_128_GCM_SHA256"),
    (CipherSuite::Aes256GcmSha384, "TLS_AES_256_GCM_SHA384"),
    (CipherSuite::Chacha20Poly1305Sha256, "TLS_CHACHA20_POLY1305_SHA256"),
    (CipherSuite::EcdheEcdsaAes128GcmSha256, "ECDHE-ECDSA-AES128-GCM-SHA256"),
    (CipherSuite::EcdheEcdsaAes256GcmSha384, "ECDHE-ECDSA-AES256-GCM-SHA384"),
    (CipherSuite::EcdheEcdsaChacha20Poly1305Sha256, "ECDHE-ECDSA-CHACHA20-POLY1305"),
    (CipherSuite::EcdheRsaAes128GcmSha256, "ECDHE-RSA-AES128-GCM-SHA256"),
    (CipherSuite::EcdheRsaAes256GcmSha384, "ECDHE-RSA-AES256-GCM-SHA384"),
    (CipherSuite::EcdheRsaChacha20Poly1305Sha256, "ECDHE-RSA-CHACHA20-POLY1305"),
];

/// Reads the name of a suite.
pub(super) fn parse(name: &str) -> Result<CipherSuite, Problem> {
    known_cipher(name).ok_or_else(|| {
        let names = SUITES.iter().flat_map(|(suite, openssl)| [suite.name(), openssl]);
        let help = match nearest(name, names) {
            Some(near) => format!("did you mean '{near}'?"),
            None => "write a list of names, as in [\"TLS_AES_256_GCM_SHA384\", \
                     \"ECDHE-RSA-AES256-GCM-SHA384\"]"
                .to_owned(),
        };
        let shown = quote(name);
        Problem::new(format!("{shown} is no cipher suite that is supported")).help(help)
    })
}

fn known_cipher(name: &str) -> Option<CipherSuite> {
    let known = SUITES.iter().find(|(suite, openssl)| name == suite.name() || name == *openssl);
    known.map(|(suite, _)| *suite)
}

#[cfg(test)]
mod tests {
    use super::super::plan::TlsVersion;
    use super::*;

    #[test]
    fn both_names_lead_to_the_suite() {
        for (suite, openssl) in SUITES {
            assert_eq!(known_cipher(suite.name()), Some(suite));
            assert_eq!(known_cipher(openssl), Some(suite));
            let has_one_name = suite.name() == openssl;
            assert_eq!(suite.version() == TlsVersion::Tls13, has_one_name, "{suite}");
        }
        assert_eq!(
            known_cipher("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
            known_cipher("ECDHE-RSA-CHACHA20-POLY1305")
        );
    }

    #[test]
    fn other_names_are_refused_with_the_nearest() {
        for (name, help) in [
            ("TLS_AES_128_GCM_SHA265", "did you mean 'TLS_AES_128_GCM_SHA256'?"),
            ("ecdhe-rsa-aes256-gcm-sha384", "did you mean 'ECDHE-RSA-AES256-GCM-SHA384'?"),
            ("ECDHE-ECDSA-CHACHA20", "did you mean 'ECDHE-ECDSA-CHACHA20-POLY1305'?"),
            (
                "HIGH:!aNULL",
                "write a list of names, as in [\"TLS_AES_256_GCM_SHA384\", \
                 \"ECDHE-RSA-AES256-GCM-SHA384\"]",
            ),
        ] {
            let problem = parse(name).unwrap_err();
            assert_eq!(problem.message, format!("'{name}' is no cipher suite that is supported"));
            assert_eq!(problem.help.as_deref(), Some(help), "{name}");
        }
    }
}
