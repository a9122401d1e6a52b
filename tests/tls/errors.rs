//! Files that are of no use: the error names them, and says why.

use std::fs;
use std::process::{Command, Output};

use super::{NAME, Site};
use crate::harness::tls::{Authority, Files, Issued, Store, visit_tls};
use crate::harness::{Config, Server, lockgate, output_of, unused_address};

const CONFIG: i32 = 78;

fn error_of(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Files that are wrong in one way each: what they are, the lines that name them, the file that is
/// to be named, and the cause.
struct Faults {
    store: Store,
    good: Files,
    cases: Vec<(&'static str, Files, String, String, &'static str)>,
}

impl Faults {
    fn new() -> Self {
        let (store, authority) = (Store::new(), Authority::new("authority"));
        let issued: Issued = authority.issue(&[NAME]);
        let other = authority.issue(&[NAME]);
        let good = store.put("good", &issued);
        let mut faults = Self { store, good, cases: Vec::new() };
        let key = |faults: &Self, name: &str, text: &str| {
            let key = faults.store.file(name, text);
            (Files { key: key.clone(), ..faults.good.clone() }, key)
        };
        let cert = |faults: &Self, name: &str, text: &str| {
            let cert = faults.store.file(name, text);
            (Files { cert: cert.clone(), ..faults.good.clone() }, cert)
        };
        let mut cases = vec![
            ("another's key", key(&faults, "other.key", &other.key), "not that of the certificate"),
            ("an empty key", key(&faults, "empty.key", ""), "no private key"),
            (
                "a certificate as key",
                key(&faults, "cert.key", &issued.certificate),
                "no private key",
            ),
            ("a broken key", key(&faults, "broken.key", &issued.key.replace("MI", "!!")), ""),
            (
                "a locked key",
                key(
                    &faults,
                    "locked.key",
                    "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n",
                ),
                "encrypted",
            ),
            ("an empty certificate", cert(&faults, "empty.pem", ""), "no certificate"),
            ("a key as certificate", cert(&faults, "key.pem", &issued.key), "no certificate"),
            ("half of one", cert(&faults, "half.pem", &issued.certificate[..200]), "PEM"),
            ("text", cert(&faults, "text.pem", "hello\n"), "no certificate"),
        ];
        let gone = faults.store.path().join("gone.pem");
        cases.push((
            "no certificate",
            (Files { cert: gone.clone(), ..faults.good.clone() }, gone.clone()),
            "No such file",
        ));
        cases.push((
            "no key",
            (Files { key: gone.clone(), ..faults.good.clone() }, gone.clone()),
            "No such file",
        ));
        let directory = faults.store.path().join("directory");
        fs::create_dir(&directory).unwrap();
        cases.push((
            "a directory",
            (Files { cert: directory.clone(), ..faults.good.clone() }, directory),
            "directory",
        ));
        for (what, (files, named), why) in cases {
            let named = named.display().to_string();
            faults.cases.push((what, files, String::new(), named, why));
        }
        for (what, lines, why) in [
            ("no authority", format!("client_ca = {gone:?}"), "No such file"),
            (
                "no list",
                format!("client_ca = {:?}\nclient_crl = {gone:?}", faults.good.cert),
                "No such file",
            ),
        ] {
            let lines = format!("client_auth = \"required\"\n{lines}");
            let (files, named) = (faults.good.clone(), gone.display().to_string());
            faults.cases.push((what, files, lines, named, why));
        }
        let ocsp = format!("ocsp = {gone:?}");
        let named = gone.display().to_string();
        faults.cases.push(("no response", faults.good.clone(), ocsp, named, "No such file"));
        faults
    }
}

#[test]
fn run_refuses_files_of_no_use() {
    refuses_files_of_no_use(&["run"]);
}

#[test]
fn preflight_refuses_files_of_no_use() {
    refuses_files_of_no_use(&["check", "--preflight"]);
}

fn refuses_files_of_no_use(command: &[&str]) {
    let (faults, server) = (Faults::new(), Server::named("server"));
    let address = unused_address();
    let path = faults.store.path().join("lockgate.toml");
    let socket = faults.store.path().join("admin.sock");
    let mut wrong = Vec::new();
    for (what, files, lines, named, why) in &faults.cases {
        let config = Config::new(address).tls(&[files], lines).backend(&server, "");
        fs::write(&path, format!("admin = {{ socket = {socket:?}, http = \"\" }}\n{config}"))
            .unwrap();
        let output = output_of(Command::new(lockgate()).args(command).arg("-c").arg(&path));
        let error = error_of(&output);
        let as_told = [named.as_str(), why, "web"].into_iter().all(|said| error.contains(said));
        if output.status.code() != Some(CONFIG) || !as_told {
            wrong.push(format!("{what}: {}\n{error}", output.status));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_reload_with_files_of_no_use_leaves_what_runs() {
    let server = Server::named("server");
    let site = Site::before(&server);
    let faults = Faults::new();
    let mut wrong = Vec::new();
    for (what, files, lines, named, why) in &faults.cases {
        let before = site.gateway.stderr().len();
        let config = Config::new(site.address).tls(&[files], lines).backend(&server, "");
        assert!(!site.gateway.try_reload(config), "{what}");
        visit_tls(&site.client, NAME, site.address).unwrap();
        let told = |log: &str| log.contains(named.as_str()) && log.contains(why);
        crate::harness::eventually("something is logged", || site.gateway.stderr().len() > before);
        let log = site.gateway.stderr()[before..].to_owned();
        if !told(&log) {
            wrong.push(format!("{what}: {log}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(site.gateway.status()["generation"], 1);
    assert_eq!(site.gateway.status()["certificates"].as_array().unwrap().len(), 1);
}

#[test]
fn preflight_tells_what_is_doubtful() {
    let (store, authority, server) =
        (Store::new(), Authority::new("authority"), Server::named("server"));
    let files = store.put("site", &authority.issue_expired(&[NAME]));
    let path = store.path().join("lockgate.toml");
    let config = Config::new(unused_address()).tls(&[&files], "").backend(&server, "");
    fs::write(&path, format!("admin = {{ socket = \"\", http = \"\" }}\n{config}")).unwrap();
    let output =
        output_of(Command::new(lockgate()).args(["check", "--preflight", "-c"]).arg(&path));
    let said = error_of(&output);
    assert!(said.contains("expired 2001-01-01"), "{said}");
    assert!(said.contains(files.cert.to_str().unwrap()), "{said}");
}

#[test]
fn a_certificate_that_has_expired_is_shown_for_want_of_a_better() {
    let (store, authority, server) =
        (Store::new(), Authority::new("authority"), Server::named("server"));
    let expired = authority.issue_expired(&[NAME]);
    let files = store.put("site", &expired);
    let address = unused_address();
    let config = Config::new(address).tls(&[&files], "").backend(&server, "");
    let gateway = crate::harness::Gateway::start(config);
    let anybody = crate::harness::tls::credulous(rustls::ALL_VERSIONS, &[]);
    assert!(visit_tls(&anybody, NAME, address).unwrap().shown == expired.der);
    gateway.await_log("expired");
    files.write(&authority.issue(&[NAME]));
    crate::harness::eventually("it is renewed", || {
        visit_tls(&authority.client(), NAME, address).is_ok()
    });
}
