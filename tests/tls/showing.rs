//! Certificates that clients show.

use std::net::SocketAddr;
use std::path::Path;

use rcgen::{ExtendedKeyUsagePurpose, date_time_ymd};
use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, SupportedProtocolVersion};

use super::{NAME, failures};
use crate::harness::tls::{
    Authority, Files, Issued, Kind, Store, credulous, refusal, s_client, visit_tls,
};
use crate::harness::{Config, Gateway, Server, eventually, unused_address};

const VERSIONS: [&[&SupportedProtocolVersion]; 2] = [&[&TLS12], &[&TLS13]];

/// A gateway whose clients show certificates of the authority `staff`.
struct Guarded {
    staff: Authority,
    site: Authority,
    store: Store,
    files: Files,
    server: Server,
    gateway: Gateway,
    address: SocketAddr,
}

impl Guarded {
    fn new(mode: &str, crl: impl FnOnce(&Authority) -> Option<String>) -> Self {
        let (address, server, store) = (unused_address(), Server::named("server"), Store::new());
        let (staff, site) = (Authority::new("staff"), Authority::new("site"));
        let files = store.put("site", &site.issue(&[NAME]));
        let ca = store.file("staff.pem", staff.pem());
        let crl = crl(&staff).map(|text| store.file("staff.crl", text));
        let config = config(address, &files, mode, &ca, crl.as_deref(), &server);
        let gateway = Gateway::start(config);
        Self { staff, site, store, files, server, gateway, address }
    }

    fn reload(&self, mode: &str) {
        let [ca, crl] = ["staff.pem", "staff.crl"].map(|name| self.store.path().join(name));
        let crl = crl.exists().then_some(&*crl);
        self.gateway.reload(config(self.address, &self.files, mode, &ca, crl, &self.server));
    }

    #[track_caller]
    fn admits(&self, own: Option<&Issued>) {
        for versions in VERSIONS {
            let config = self.site.client_of(versions, own);
            visit_tls(&config, NAME, self.address).unwrap();
        }
    }

    /// Each version of TLS says so by an alert of this kind.
    #[track_caller]
    fn refuses(&self, own: Option<&Issued>, alerts: [AlertDescription; 2]) {
        let before = failures(&self.gateway, "bad_certificate");
        for (versions, alert) in VERSIONS.into_iter().zip(alerts) {
            let config = self.site.client_of(versions, own);
            assert_eq!(refusal(&config, NAME, self.address), alert, "{versions:?}");
        }
        eventually("the failures are counted", || {
            failures(&self.gateway, "bad_certificate") == before + 2.0
        });
    }
}

fn config(
    address: SocketAddr,
    files: &Files,
    mode: &str,
    ca: &Path,
    crl: Option<&Path>,
    server: &Server,
) -> Config {
    let mut lines = format!("client_auth = \"{mode}\"\nclient_ca = {ca:?}\n");
    if let Some(crl) = crl {
        lines += &format!("client_crl = {crl:?}\n");
    }
    Config::new(address).tls(&[files], &lines).backend(server, "")
}

#[test]
fn clients_without_a_certificate() {
    let guarded = Guarded::new("required", |_| None);
    // TLS 1.2 has no alert of its own for that (RFC 5246, section 7.4.6).
    let none = [AlertDescription::HandshakeFailure, AlertDescription::CertificateRequired];
    let before = failures(&guarded.gateway, "bad_certificate");
    for (versions, alert) in VERSIONS.into_iter().zip(none) {
        let config = guarded.site.client_of(versions, None);
        assert_eq!(refusal(&config, NAME, guarded.address), alert, "{versions:?}");
    }
    eventually("the failures are counted", || {
        failures(&guarded.gateway, "bad_certificate") == before + 2.0
    });
    assert_eq!(guarded.server.accepted(), 0);
    for record in guarded.gateway.await_records(2, "tls_failed") {
        assert_eq!(record["server_name"], NAME);
    }
    guarded.reload("optional");
    guarded.admits(None);
}

#[test]
fn clients_with_a_certificate() {
    for mode in ["required", "optional"] {
        let guarded = Guarded::new(mode, |_| None);
        guarded.admits(Some(&guarded.staff.issue(&["alice"])));
        guarded.admits(Some(&guarded.staff.issue_as(&["rob"], Kind::Rsa, |_| {})));

        let stranger = Authority::new("strangers").issue(&["mallory"]);
        guarded.refuses(Some(&stranger), [AlertDescription::UnknownCA; 2]);
        // The same name does not make it the same authority.
        let double = Authority::new("staff").issue(&["mallory"]);
        let config = guarded.site.client_of(&[&TLS13], Some(&double));
        let alert = refusal(&config, NAME, guarded.address);
        let right = [
            AlertDescription::DecryptError,
            AlertDescription::UnknownCA,
            AlertDescription::BadCertificate,
        ];
        assert!(right.contains(&alert), "{alert:?}");

        let expired = guarded.staff.issue_expired(&["bob"]);
        guarded.refuses(Some(&expired), [AlertDescription::CertificateExpired; 2]);
        let early = guarded.staff.issue_as(&["early"], Kind::Ecdsa, |params| {
            params.not_before = date_time_ymd(2090, 1, 1);
        });
        let config = guarded.site.client_of(&[&TLS13], Some(&early));
        refusal(&config, NAME, guarded.address);
        // One for servers alone.
        let server = guarded.staff.issue_as(&["www"], Kind::Ecdsa, |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        });
        let config = guarded.site.client_of(&[&TLS13], Some(&server));
        refusal(&config, NAME, guarded.address);
        guarded.gateway.await_log("TLS handshake failed");
    }
}

#[test]
fn the_site_is_no_authority_over_its_clients() {
    let guarded = Guarded::new("required", |_| None);
    guarded.refuses(Some(&guarded.site.issue(&["eve"])), [AlertDescription::UnknownCA; 2]);
}

#[test]
fn revoked_certificates() {
    let staff = std::cell::OnceCell::new();
    let guarded = Guarded::new("required", |authority| {
        let [good, bad] = ["good", "bad"].map(|name| authority.issue(&[name]));
        let list = authority.revoke(&[&bad]);
        let _ = staff.set((good, bad));
        Some(list)
    });
    let (good, bad) = staff.get().unwrap();
    guarded.admits(Some(good));
    guarded.refuses(Some(bad), [AlertDescription::CertificateRevoked; 2]);

    // A longer list, by a reload.
    guarded.store.file("staff.crl", guarded.staff.revoke(&[bad, good]));
    guarded.reload("required");
    guarded.refuses(Some(good), [AlertDescription::CertificateRevoked; 2]);
}

/// Lists of revocations come out every few days.
#[test]
fn lists_and_authorities_are_read_again_when_they_change() {
    let alice = std::cell::OnceCell::new();
    let guarded = Guarded::new("required", |authority| {
        let _ = alice.set(authority.issue(&["alice"]));
        Some(authority.revoke(&[]))
    });
    let alice = alice.get().unwrap();
    guarded.admits(Some(alice));
    let renewed = || guarded.gateway.metric(RENEWALS, &[("result", "ok")]);
    let refused = || guarded.gateway.metric(RENEWALS, &[("result", "failed")]);

    guarded.store.file("staff.crl", "no list");
    eventually("it is refused", || refused() == 1.0);
    guarded.admits(Some(alice));

    guarded.store.file("staff.crl", guarded.staff.revoke(&[alice]));
    eventually("it is read", || renewed() == 1.0);
    guarded.refuses(Some(alice), [AlertDescription::CertificateRevoked; 2]);

    let others = Authority::new("others");
    guarded.store.file("staff.crl", others.revoke(&[]));
    guarded.store.file("staff.pem", others.pem());
    eventually("they are read", || renewed() == 2.0);
    guarded.admits(Some(&others.issue(&["bob"])));
    guarded.refuses(Some(alice), [AlertDescription::UnknownCA; 2]);
}

const RENEWALS: &str = "lockgate_tls_certificate_renewals_total";

#[test]
fn who_was_revoked_does_not_resume() {
    let alice = std::cell::OnceCell::new();
    let guarded = Guarded::new("required", |authority| {
        let _ = alice.set(authority.issue(&["alice"]));
        Some(authority.revoke(&[]))
    });
    let alice = alice.get().unwrap();
    for versions in VERSIONS {
        guarded.store.file("staff.crl", guarded.staff.revoke(&[]));
        guarded.reload("required");
        let config = guarded.site.client_of(versions, Some(alice));
        assert!(!visit_tls(&config, NAME, guarded.address).unwrap().resumed);
        assert!(visit_tls(&config, NAME, guarded.address).unwrap().resumed, "{versions:?}");
        guarded.store.file("staff.crl", guarded.staff.revoke(&[alice]));
        guarded.reload("required");
        let alert = refusal(&config, NAME, guarded.address);
        assert_eq!(alert, AlertDescription::CertificateRevoked, "{versions:?}");
    }
}

#[test]
fn who_came_without_a_certificate_does_not_resume_where_one_is_needed() {
    let guarded = Guarded::new("optional", |_| None);
    let config = guarded.site.client_of(&[&TLS13], None);
    visit_tls(&config, NAME, guarded.address).unwrap();
    guarded.reload("required");
    refusal(&config, NAME, guarded.address);
}

#[test]
fn openssl_is_asked_and_told() {
    let guarded = Guarded::new("required", |_| None);
    let own = guarded.store.put("alice", &guarded.staff.issue(&["alice"]));
    let (cert, key) = (own.cert.to_str().unwrap(), own.key.to_str().unwrap());
    let output = s_client(guarded.address, &["-cert", cert, "-key", key]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("CN = staff"), "the authorities are named: {text}");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    eventually("the handshake is counted", || super::handshakes(&guarded.gateway) == 1.0);
    // A client that trusts anybody is still to show who it is.
    refusal(&credulous(&[&TLS13], &[]), NAME, guarded.address);
}
