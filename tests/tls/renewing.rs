//! Certificates that change while they are in use.

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustls::ClientConfig;
use rustls::client::Resumption;

use super::{NAME, Site, failures};
use crate::harness::tls::{
    Authority, Files, Issued, Store, asking_for_ocsp, shake_hands, visit_tls,
};
use crate::harness::{Config, Gateway, Server, StopAtEnd, eventually, unused_address};

/// A client that shakes hands in full every time.
fn forgetful(authority: &Authority) -> ClientConfig {
    let mut config = authority.client();
    config.resumption = Resumption::disabled();
    config
}

/// A gateway with a certificate in these files.
fn start(server: &Server, files: &Files) -> (Gateway, SocketAddr) {
    let address = unused_address();
    (Gateway::start(Config::new(address).tls(&[files], "").backend(server, "")), address)
}

/// How many renewals there were.
fn renewals(gateway: &Gateway, result: &str) -> f64 {
    gateway.metric("lockgate_tls_certificate_renewals_total", &[("result", result)])
}

/// Renews a certificate under the eyes of clients: none of them may fail, those that are there
/// stay, those that come see the new one.
fn renewed_under_load(
    authority: &Authority,
    server: &Server,
    files: &Files,
    old: &Issued,
    new: &Issued,
    renew: impl FnOnce(),
) {
    let (gateway, address) = start(server, files);
    let client = forgetful(authority);
    let mut established = shake_hands(&client, NAME, address).unwrap();
    let stop = AtomicBool::new(false);
    let (visits, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        for _ in 0..2 {
            scope.spawn(|| {
                let mut seen_new = false;
                while !stop.load(Ordering::SeqCst) {
                    match shake_hands(&client, NAME, address).and_then(echo) {
                        Err(error) => wrong.lock().unwrap().push(error.to_string()),
                        Ok(shown) => {
                            visits.fetch_add(1, Ordering::SeqCst);
                            let is_new = shown == new.der;
                            if !is_new && (shown != old.der || seen_new) {
                                wrong.lock().unwrap().push("the old one again".to_owned());
                            }
                            seen_new |= is_new;
                        }
                    }
                }
            });
        }
        let some = |more: usize| {
            let before = visits.load(Ordering::SeqCst);
            eventually("clients come", || visits.load(Ordering::SeqCst) > before + more);
        };
        some(10);
        renew();
        eventually("the new certificate is shown", || {
            shake_hands(&client, NAME, address).and_then(echo).unwrap() == new.der
        });
        some(10);
    });
    assert_eq!(*wrong.lock().unwrap(), Vec::<String>::new());
    assert_eq!(echo_on(&mut established).unwrap(), old.der);
    eventually("it is counted once", || renewals(&gateway, "ok") == 1.0);
    assert_eq!(renewals(&gateway, "failed"), 0.0);
    gateway.await_log("a certificate was renewed");
    assert_eq!(failures(&gateway, "protocol"), 0.0);
}

fn echo(
    mut client: crate::harness::tls::TlsStream,
) -> std::io::Result<rustls::pki_types::CertificateDer<'static>> {
    echo_on(&mut client)
}

/// Sends something, gets it back, and says whose certificate it was.
fn echo_on(
    client: &mut crate::harness::tls::TlsStream,
) -> std::io::Result<rustls::pki_types::CertificateDer<'static>> {
    client.write_all(b"hello")?;
    let mut answer = [0; 5];
    client.read_exact(&mut answer)?;
    assert_eq!(&answer, b"hello");
    Ok(client.conn.peer_certificates().unwrap()[0].clone().into_owned())
}

/// Puts a link in the place of another at once.
fn switch(link: &Path, target: impl AsRef<Path>) {
    let new = link.with_file_name("..data_new");
    symlink(target, &new).unwrap();
    fs::rename(new, link).unwrap();
}

#[test]
fn as_certbot_does_it() {
    let (authority, server, store) = (Authority::new("a"), Server::echo(), Store::new());
    let [old, new] = [0; 2].map(|_| authority.issue(&[NAME]));
    let (archive, live) = (store.path().join("archive"), store.path().join("live"));
    fs::create_dir(&archive).unwrap();
    fs::create_dir(&live).unwrap();
    let archived = |number: usize, issued: &Issued| {
        fs::write(archive.join(format!("fullchain{number}.pem")), &issued.certificate).unwrap();
        fs::write(archive.join(format!("privkey{number}.pem")), &issued.key).unwrap();
    };
    archived(1, &old);
    let files = Files { cert: live.join("fullchain.pem"), key: live.join("privkey.pem") };
    let target = |kind, number| format!("../archive/{kind}{number}.pem");
    symlink(target("fullchain", 1), &files.cert).unwrap();
    symlink(target("privkey", 1), &files.key).unwrap();
    renewed_under_load(&authority, &server, &files, &old, &new, || {
        archived(2, &new);
        // Certbot removes each link and makes another.
        for (link, kind) in [(&files.key, "privkey"), (&files.cert, "fullchain")] {
            fs::remove_file(link).unwrap();
            symlink(target(kind, 2), link).unwrap();
        }
    });
}

#[test]
fn as_acme_sh_does_it() {
    let (authority, server, store) = (Authority::new("a"), Server::echo(), Store::new());
    let [old, new] = [0; 2].map(|_| authority.issue(&[NAME]));
    let files = store.put("site", &old);
    renewed_under_load(&authority, &server, &files, &old, &new, || files.write(&new));
}

#[test]
fn as_kubernetes_does_it() {
    let (authority, server, store) = (Authority::new("a"), Server::echo(), Store::new());
    let [old, new] = [0; 2].map(|_| authority.issue(&[NAME]));
    let put = |name: &str, issued: &Issued| {
        let directory = store.path().join(name);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("tls.crt"), &issued.certificate).unwrap();
        fs::write(directory.join("tls.key"), &issued.key).unwrap();
    };
    put("..2026_01", &old);
    let data = store.path().join("..data");
    symlink("..2026_01", &data).unwrap();
    let files = Files { cert: store.path().join("tls.crt"), key: store.path().join("tls.key") };
    symlink("..data/tls.crt", &files.cert).unwrap();
    symlink("..data/tls.key", &files.key).unwrap();
    renewed_under_load(&authority, &server, &files, &old, &new, || {
        put("..2026_02", &new);
        switch(&data, "..2026_02");
        fs::remove_dir_all(store.path().join("..2026_01")).unwrap();
    });
}

#[test]
fn by_files_that_take_the_place_of_others() {
    let (authority, server, store) = (Authority::new("a"), Server::echo(), Store::new());
    let [old, new] = [0; 2].map(|_| authority.issue(&[NAME]));
    let files = store.put("site", &old);
    renewed_under_load(&authority, &server, &files, &old, &new, || {
        let next = store.put("next", &new);
        fs::rename(next.key, &files.key).unwrap();
        fs::rename(next.cert, &files.cert).unwrap();
    });
}

#[test]
fn one_that_is_of_no_use_is_refused_and_the_next_good_one_taken() {
    let server = Server::named("server");
    let site = Site::before(&server);
    let client = forgetful(&site.authority);
    let [good, expired, other, next] = [
        site.authority.issue(&[NAME]),
        site.authority.issue_expired(&[NAME]),
        site.authority.issue(&[NAME]),
        site.authority.issue(&[NAME]),
    ];
    let shown = || visit_tls(&client, NAME, site.address).unwrap().shown;
    let in_use = |serial: u64| {
        let found = site.gateway.status()["certificates"][0]["serial"].as_str().unwrap().to_owned();
        found.replace(':', "").trim_start_matches('0') == format!("{serial:x}")
    };
    let first = shown();

    let (cert, key) = (&site.files.cert, &site.files.key);
    let cases: [(&str, &dyn Fn(), &str); 6] = [
        ("an expired one", &|| site.files.write(&expired), "expired"),
        ("half of one", &|| fs::write(cert, &good.certificate[..200]).unwrap(), "PEM"),
        ("an empty file", &|| fs::write(cert, "").unwrap(), "no certificate"),
        (
            "another's key",
            &|| {
                fs::write(cert, &good.certificate).unwrap();
                fs::write(key, &other.key).unwrap();
            },
            "not that of the certificate",
        ),
        ("no key", &|| fs::remove_file(key).unwrap(), "No such file"),
        ("no certificate", &|| fs::remove_file(cert).unwrap(), "No such file"),
    ];
    let mut failed = 0.0;
    for (what, spoil, why) in cases {
        let told = site.gateway.stderr().len();
        spoil();
        failed += 1.0;
        eventually(&format!("{what} is refused"), || renewals(&site.gateway, "failed") == failed);
        eventually(&format!("{what}: the log says why"), || {
            let log = site.gateway.stderr();
            let refusal = log[told..].lines().find(|line| line.contains("refused"));
            refusal.is_some_and(|line| {
                line.contains(why)
                    && line.contains(cert.to_str().unwrap())
                    && line.contains("serial_in_use")
            })
        });
        assert!(shown() == first, "{what}: the old one stays");
    }
    assert_eq!(renewals(&site.gateway, "ok"), 0.0);

    site.files.write(&good);
    eventually("the good one is taken", || shown() == good.der);
    eventually("the status says so", || in_use(good.serial));
    site.files.write(&next);
    eventually("the next one is taken", || shown() == next.der);
    eventually("the status says so", || in_use(next.serial));
    assert_eq!(renewals(&site.gateway, "ok"), 2.0);
    assert_eq!(renewals(&site.gateway, "failed"), failed);
}

#[test]
fn a_key_that_comes_late() {
    let server = Server::named("server");
    let site = Site::before(&server);
    let client = forgetful(&site.authority);
    let new = site.authority.issue(&[NAME]);
    fs::write(&site.files.cert, &new.certificate).unwrap();
    eventually("a certificate without its key is refused", || {
        renewals(&site.gateway, "failed") == 1.0
    });
    visit_tls(&client, NAME, site.address).unwrap();
    fs::write(&site.files.key, &new.key).unwrap();
    eventually("both are taken", || {
        visit_tls(&client, NAME, site.address).unwrap().shown == new.der
    });
}

#[test]
fn one_of_several_is_renewed() {
    let (authority, server, store) = (Authority::new("a"), Server::named("s"), Store::new());
    let [one, other] =
        ["one.example.com", "other.example.com"].map(|name| authority.issue(&[name]));
    let files = [store.put("one", &one), store.put("other", &other)];
    let address = unused_address();
    let config = Config::new(address).tls(&[&files[0], &files[1]], "").backend(&server, "");
    let gateway = Gateway::start(config.clone());
    let client = forgetful(&authority);
    let new = authority.issue(&["other.example.com", "third.example.com"]);
    files[1].write(&new);
    eventually("a name that is new is known", || {
        visit_tls(&client, "third.example.com", address).is_ok_and(|visit| visit.shown == new.der)
    });
    assert!(visit_tls(&client, "one.example.com", address).unwrap().shown == one.der);
    assert!(visit_tls(&client, "other.example.com", address).unwrap().shown == new.der);

    // A reload forgets nothing of it.
    gateway.reload(config);
    assert!(visit_tls(&client, "other.example.com", address).unwrap().shown == new.der);
    assert_eq!(renewals(&gateway, "ok"), 1.0);
    let newest = authority.issue(&["other.example.com"]);
    files[1].write(&newest);
    eventually("the files are watched as before", || {
        visit_tls(&client, "other.example.com", address).unwrap().shown == newest.der
    });
}

/// As much of an OCSP response as a gateway looks at: its status, and the number of a certificate.
fn ocsp_response(serial: u64, padding: &[u8]) -> Vec<u8> {
    let digits = serial.to_be_bytes();
    let digits = &digits[digits.iter().position(|&byte| byte != 0).unwrap()..];
    let body = [&[0x0a, 1, 0], digits, padding].concat();
    [&[0x30, u8::try_from(body.len()).unwrap()], &*body].concat()
}

#[test]
fn a_stapled_response_is_read_again() {
    let (authority, server, store) = (Authority::new("a"), Server::named("s"), Store::new());
    let issued = authority.issue(&[NAME]);
    let (serial, files) = (issued.serial, store.put("site", &issued));
    // Whether it is a good one is the authority's business, and the client's.
    let (first, second) = (ocsp_response(serial, b"1st"), ocsp_response(serial, b"2nd"));
    let response = store.file("ocsp.der", &first);
    let address = unused_address();
    let lines = format!("ocsp = {response:?}");
    let config = Config::new(address).tls(&[&files], &lines).backend(&server, "");
    let gateway = Gateway::start(config);
    let (client, responses) = asking_for_ocsp();
    let stapled = || {
        visit_tls(&client, NAME, address).unwrap();
        responses.try_recv().unwrap()
    };
    assert_eq!(stapled(), first);
    store.file("ocsp.der", b"something else");
    eventually("what is no response is refused", || renewals(&gateway, "failed") == 1.0);
    assert_eq!(stapled(), first);
    store.file("ocsp.der", &second);
    eventually("the new response is stapled", || stapled() == second);
}

/// To open a pipe is to wait for somebody at its other end.
#[test]
fn a_pipe_in_the_place_of_a_certificate_is_refused() {
    let (authority, server, store) = (Authority::new("a"), Server::named("s"), Store::new());
    let files = store.put("site", &authority.issue(&[NAME]));
    let address = unused_address();
    let gateway = Gateway::start(Config::new(address).tls(&[&files], "").backend(&server, ""));
    fs::remove_file(&files.cert).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&files.cert).status().unwrap();
    assert!(made.success());
    eventually("it is refused", || renewals(&gateway, "failed") == 1.0);
    gateway.await_log("not an ordinary file");
}
