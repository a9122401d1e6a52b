//! Handshakes that fail: why, in words and as a kind, and what the other end is told.

use std::fmt;
use std::io;

use rustls::{CertificateError, Error, PeerIncompatible, ProtocolVersion};

use crate::stats::HandshakeFailure;

/// A fatal alert as it is sent before records are encrypted (RFC 8446, section 6).
pub(super) const fn alert(description: u8) -> [u8; 7] {
    [21, 3, 3, 0, 2, 2, description]
}

/// What comes is no TLS, or against its rules.
pub(super) const DECODE_ERROR: [u8; 7] = alert(50);
/// The two ends do not agree.
pub(super) const HANDSHAKE_FAILURE: [u8; 7] = alert(40);
/// None of the versions that the client speaks is spoken here.
pub(super) const PROTOCOL_VERSION: [u8; 7] = alert(70);
/// No certificate covers the name (RFC 6066, section 3).
pub(super) const UNRECOGNIZED_NAME: [u8; 7] = alert(112);

/// What a client is told of `error`, where rustls has something else: `certificate_required` is an
/// alert of TLS 1.3, and before that a client without a certificate gets a `handshake_failure`
/// (RFC 5246, section 7.4.6). A client of TLS 1.2 sends its certificate before it encrypts.
pub(super) fn alert_to_client(error: &Error, version: Option<ProtocolVersion>) -> Option<[u8; 7]> {
    let missing = matches!(error, Error::NoCertificatesPresented);
    (missing && version == Some(ProtocolVersion::TLSv1_2)).then_some(HANDSHAKE_FAILURE)
}

/// What an error of rustls counts as.
fn failure(error: &Error) -> HandshakeFailure {
    match error {
        Error::PeerIncompatible(
            PeerIncompatible::NoCipherSuitesInCommon
            | PeerIncompatible::NoKxGroupsInCommon
            | PeerIncompatible::NoSignatureSchemesInCommon
            | PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon,
        ) => HandshakeFailure::NoSharedCipher,
        Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::Tls13RequiredForQuic
            | PeerIncompatible::SupportedVersionsExtensionRequired,
        ) => HandshakeFailure::NoSharedVersion,
        Error::NoApplicationProtocol => HandshakeFailure::NoSharedProtocol,
        Error::NoCertificatesPresented
        | Error::InvalidCertificate(_)
        | Error::InvalidCertRevocationList(_) => HandshakeFailure::BadCertificate,
        Error::AlertReceived(_) => HandshakeFailure::Alert,
        _ => HandshakeFailure::Protocol,
    }
}

/// A handshake that failed, and what can be told of it.
#[derive(Debug)]
pub struct Refused {
    /// The kind.
    pub failure: HandshakeFailure,
    /// In words.
    pub detail: String,
    /// The name that the client asked for.
    pub server_name: Option<String>,
    /// The other end may be all right, but not by the name that it was asked for.
    pub misnamed: bool,
}

impl Refused {
    pub(super) fn new(failure: HandshakeFailure, detail: impl fmt::Display) -> Self {
        Self { failure, detail: detail.to_string(), server_name: None, misnamed: false }
    }

    /// For a backend whose host is no name that a certificate can have.
    pub fn nameless() -> Self {
        Self::new(HandshakeFailure::BadCertificate, "no certificate can be for this host's name")
    }

    /// For a handshake that took too long.
    pub fn timeout() -> Self {
        Self::new(HandshakeFailure::Timeout, "the handshake took too long")
    }

    pub(super) fn of(error: &Error) -> Self {
        let detail = match error {
            // The certificate's own words say more than "invalid".
            Error::InvalidCertificate(CertificateError::Other(other)) => other.to_string(),
            error => error.to_string(),
        };
        // An alert need not say what it is about.
        let misnamed = matches!(
            error,
            Error::AlertReceived(_)
                | Error::InvalidCertificate(
                    CertificateError::NotValidForName
                        | CertificateError::NotValidForNameContext { .. }
                )
        );
        Self { misnamed, ..Self::new(failure(error), detail) }
    }

    pub(super) fn naming(self, server_name: Option<String>) -> Self {
        Self { server_name, ..self }
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::new(HandshakeFailure::Closed, error)
    }
}
