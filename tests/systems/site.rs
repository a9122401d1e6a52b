//! config/examples/django-react.

use std::fs;

use super::{Host, Service, python, state};
use crate::harness::tls::Files;
use crate::harness::{Gateway, Launch, eventually};

const NAME: &str = "tasks.example.com";

struct Behind {
    _gunicorn: Service,
    _nginx: Service,
}

/// nginx and gunicorn, as the example has them.
fn behind(host: &Host) -> Behind {
    let service = host.folder.join("service");
    let inside = |words: &[&str]| {
        let mut all = vec!["env", "-C", service.to_str().unwrap()];
        all.extend(words);
        all.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let run = |words: &[&str]| {
        let words = inside(words);
        host.run(&words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let migrated = run(&[&python("python"), "manage.py", "migrate"]);
    assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
    let words =
        inside(&[&python("gunicorn"), "tasks.wsgi", "--bind", "127.0.0.1:8000", "--workers", "2"]);
    let gunicorn = host.start(&words.iter().map(String::as_str).collect::<Vec<_>>(), &[]);

    let site = fs::read_to_string(host.folder.join("nginx.conf")).unwrap();
    let site = site.replace("/srv/tasks", host.folder.to_str().unwrap());
    let directory = host.path("nginx");
    fs::create_dir_all(&directory).unwrap();
    let at = directory.to_str().unwrap();
    // The rest of /etc/nginx/nginx.conf, with places of its own.
    let whole = format!(
        "user root;\ndaemon off;\npid {at}/pid;\nerror_log {at}/error.log;\nevents {{}}\nhttp {{\n\
         include /etc/nginx/mime.types;\naccess_log {at}/access.log;\n\
         client_body_temp_path {at}/body;\nproxy_temp_path {at}/proxy;\nfastcgi_temp_path {at}/f;\n\
         uwsgi_temp_path {at}/u;\nscgi_temp_path {at}/s;\n{site}\n}}\n"
    );
    let file = directory.join("nginx.conf");
    fs::write(&file, whole).unwrap();
    let nginx = host.start(&["nginx", "-c", file.to_str().unwrap()], &[]);
    [8000, 8080, 8081, 8090].into_iter().for_each(|port| host.await_port(port));
    Behind { _gunicorn: gunicorn, _nginx: nginx }
}

/// Anything will do as a staple: it is passed on, and the client of this test only looks whether there
/// is one. The real thing, which openssl understands, is made here.
fn staple(host: &Host) {
    let live = host.path("live").join(NAME);
    let script = r#"
set -e
cd "$1"
openssl ecparam -name prime256v1 -genkey -noout -out ca.key
openssl req -x509 -new -key ca.key -subj /CN=responder -days 30 -out ca.crt
openssl ecparam -name prime256v1 -genkey -noout -out leaf.key
openssl req -new -key leaf.key -subj "/CN=$2" -out leaf.csr
printf 'subjectAltName=DNS:%s\nextendedKeyUsage=serverAuth\n' "$2" > ext
openssl x509 -req -in leaf.csr -CA ca.crt -CAkey ca.key -set_serial 4242 -days 30 -extfile ext -out leaf.crt
printf 'V\t350101000000Z\t\t1092\tunknown\t/CN=%s\n' "$2" > index
openssl ocsp -index index -rsigner ca.crt -rkey ca.key -CA ca.crt -issuer ca.crt -cert leaf.crt \
    -ndays 7 -respout ocsp.der
"#;
    let made = host.path("made");
    fs::create_dir_all(&made).unwrap();
    let output = host.run(&["bash", "-c", script, "staple", made.to_str().unwrap(), NAME]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::create_dir_all(&live).unwrap();
    for (from, to) in
        [("leaf.crt", "fullchain.pem"), ("leaf.key", "privkey.pem"), ("ocsp.der", "ocsp.der")]
    {
        fs::copy(made.join(from), live.join(to)).unwrap();
    }
    fs::copy(made.join("ca.crt"), host.path("ca.pem")).unwrap();
}

fn start(host: &Host) -> Gateway {
    let gateway = host.gateway();
    eventually("both pools are up", || {
        let status = gateway.status();
        let pools = status["pools"].as_array().unwrap();
        pools.iter().all(|pool| pool["backends"][0]["state"] == "up")
    });
    gateway
}

#[test]
fn a_site_and_its_service_over_both_versions_of_http() {
    let host = Host::new("django-react");
    staple(&host);
    let _behind = behind(&host);
    let _gateway = start(&host);
    let url = |path: &str| format!("https://{NAME}{path}");
    let version = ["-o", "/dev/null", "-w", "%{http_version} %{http_code}"];
    let with = |more: &[&'static str]| [&version[..], more].concat();
    assert_eq!(host.curl(&url("/"), &with(&["--http2"])).unwrap(), "2 200");
    assert_eq!(host.curl(&url("/"), &with(&["--http1.1"])).unwrap(), "1.1 200");
    let script = host.curl(&url("/assets/app.js"), &["--compressed"]).unwrap();
    assert!(script.len() > 100_000 && script.contains("createRoot"), "{}", script.len());
    // A path of the page's own is the page.
    assert!(host.curl(&url("/tasks/3"), &[]).unwrap().contains("<div id=\"root\">"));

    // REST, with the client's address through gate and nginx.
    host.namespace.ip("addr add 203.0.113.5/32 dev lo");
    let json = ["-H", "Content-Type: application/json", "-d", r#"{"title": "water the plants"}"#];
    let made =
        host.curl(&url("/api/tasks/"), &[&["--interface", "203.0.113.5"], &json[..]].concat());
    assert!(made.as_ref().unwrap().contains(r#""made_by":"203.0.113.5""#), "{made:?}");
    let listed = host.get(&url("/api/tasks/"));
    assert_eq!(listed[0]["title"], "water the plants");

    // What is HTTP is nginx's: headers, compression.
    let headers = host.curl(&url("/"), &["-I"]).unwrap().to_lowercase();
    for header in ["strict-transport-security", "x-content-type-options", "content-security-policy"]
    {
        assert!(headers.contains(header), "{headers}");
    }
    let packed = host.curl(
        &url("/assets/app.js"),
        &["-H", "Accept-Encoding: gzip", "-o", "/dev/null", "-D", "-"],
    );
    assert!(packed.unwrap().to_lowercase().contains("content-encoding: gzip"));
}

#[test]
fn six_suites_in_their_order_a_staple_and_sessions_that_resume() {
    let host = Host::new("django-react");
    staple(&host);
    let _behind = behind(&host);
    let _gateway = start(&host);
    let client = |arguments: &str| {
        let command = format!(
            "echo | timeout 20 openssl s_client -connect 127.0.0.1:443 -servername {NAME} -CAfile {} {arguments} 2>&1",
            host.path("ca.pem").display()
        );
        String::from_utf8_lossy(&host.run(&["bash", "-c", &command]).stdout).into_owned()
    };
    let chosen = |offer: &str| {
        let said = client(&format!("-tls1_2 -cipher {offer}"));
        let line = said.lines().find_map(|line| line.trim().strip_prefix("Cipher    : "));
        line.map(str::to_owned).unwrap_or(said)
    };
    // Whatever the client's order, the gate's holds.
    let ecdsa = ["AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305"]
        .map(|name| format!("ECDHE-ECDSA-{name}"));
    for first in 0..ecdsa.len() {
        let mut offer = ecdsa[first..].to_vec();
        offer.reverse();
        assert_eq!(chosen(&offer.join(":")), ecdsa[first]);
    }
    assert!(client("-tls1_2 -cipher ECDHE-ECDSA-AES256-SHA").contains("handshake failure"));

    assert!(
        client("-status").contains("OCSP Response Status: successful"),
        "{}",
        client("-status")
    );

    let session = host.path("session.pem");
    let session = session.to_str().unwrap();
    client(&format!("-tls1_2 -sess_out {session}"));
    assert!(client(&format!("-tls1_2 -sess_in {session}")).contains("Reused, "));
}

/// An authority that speaks ACME, and the names that it believes in: all of them are this host.
fn acme(host: &Host) -> [Service; 2] {
    let issued = host.authority.issue(&["acme.test"]);
    let files = Files::in_directory(&host.path(""), "acme");
    files.write(&issued);
    let config = serde_json::json!({"pebble": {
        "listenAddress": "127.0.0.1:14000",
        "managementListenAddress": "127.0.0.1:15000",
        "certificate": files.cert,
        "privateKey": files.key,
        "httpPort": 80,
        "tlsPort": 443,
    }});
    let file = host.path("pebble.json");
    fs::write(&file, config.to_string()).unwrap();
    let off = ["-http01", "", "-https01", "", "-tlsalpn01", ""];
    let names = ["pebble-challtestsrv", "-defaultIPv6", "", "-dns01", "127.0.0.1:8053"];
    let names = host.start(&[&names[..], &off[..]].concat(), &[]);
    let words =
        ["pebble", "-config", file.to_str().unwrap(), "-strict", "-dnsserver", "127.0.0.1:8053"];
    // It would take its time, as others do, and refuse one good nonce in twenty, to see whether clients
    // try again: an old Certbot doesn't.
    let settings = [("PEBBLE_VA_NOSLEEP", "1"), ("PEBBLE_WFE_NONCEREJECT", "0")];
    let authority = host.start(&words, &settings);
    [8053, 14000, 15000].into_iter().for_each(|port| host.await_port(port));
    [names, authority]
}

#[test]
fn certbot_gets_and_renews_a_certificate_through_the_gate() {
    let host = Host::new("django-react");
    host.namespace.knows("acme.test", "127.0.0.1");
    let _acme = acme(&host);
    let certbot = |command: &[&str]| {
        let there = |name: &str| host.path(name).to_str().unwrap().to_owned();
        let (config, work, logs) = (there(""), there("certbot-work"), there("certbot-logs"));
        let (ca, www) = (there("ca.pem"), there("www"));
        let bundle = format!("REQUESTS_CA_BUNDLE={ca}");
        let words = ["env", &bundle, "certbot", "--non-interactive", "--config-dir", &config];
        let more = ["--work-dir", &work, "--logs-dir", &logs, "--server"];
        let url = ["https://acme.test:14000/dir"];
        let output =
            host.run(&[&words[..], &more, &url, command, &["--webroot", "-w", &www]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {said}");
    };

    // First with the listener on port 80 alone: there is no certificate yet.
    let whole = host.config();
    // No staple: the authority has none either.
    let whole: Vec<&str> = whole.lines().filter(|line| !line.trim().starts_with("ocsp")).collect();
    let whole = whole.join("\n");
    let http = whole.find("[[listener]]\nname = \"http\"").unwrap();
    let pools = whole.find("[pool.site]").unwrap();
    let launch = Launch::new(&whole[http..pools]).under(&host.namespace.enter());
    let gateway = launch.start();
    let register = ["certonly", "--agree-tos", "--register-unsafely-without-email", "-d", NAME];
    certbot(&register);

    let _behind = behind(&host);
    gateway.reload(&whole);
    eventually("the pools are up", || {
        ["site", "site-h2"].iter().all(|pool| state(&gateway, pool, "nginx") == "up")
    });
    let roots = host.run(&["curl", "-sSk", "https://127.0.0.1:15000/roots/0"]).stdout;
    fs::write(host.path("ca.pem"), [roots, host.authority.pem().into_bytes()].concat()).unwrap();
    let page = || host.curl(&format!("https://{NAME}/"), &[]);
    assert!(page().unwrap().contains("<div id=\"root\">"));

    // The same order of files, with nobody telling the gate.
    let before = serial(&host);
    certbot(&["renew", "--force-renewal", "--no-random-sleep-on-renew"]);
    eventually("the renewed certificate is shown", || serial(&host) != before);
    assert!(page().unwrap().contains("<div id=\"root\">"));
    assert_eq!(
        gateway.metric("lockgate_tls_certificate_renewals_total", &[("result", "failed")]),
        0.0
    );
}

/// Of the certificate that the gate shows.
fn serial(host: &Host) -> String {
    let command = format!(
        "echo | openssl s_client -connect 127.0.0.1:443 -servername {NAME} 2>/dev/null | openssl x509 -noout -serial"
    );
    String::from_utf8_lossy(&host.run(&["bash", "-c", &command]).stdout).trim().to_owned()
}

#[test]
fn certbots_files_are_renewed_and_picked_up() {
    let host = Host::new("django-react");
    host.certify(NAME, &host.authority.issue(&[NAME]));
    // No staple with an authority of the test: the example says to leave it out then.
    let text = fs::read_to_string(host.folder.join("lockgate.toml")).unwrap();
    let without: Vec<&str> = text.lines().filter(|line| !line.trim().starts_with("ocsp")).collect();
    fs::write(host.folder.join("lockgate.toml"), without.join("\n")).unwrap();
    let _behind = behind(&host);
    let _gateway = start(&host);

    // The challenge, as Certbot's webroot plugin puts it there.
    fs::write(host.path("www/.well-known/acme-challenge/x_Y-1"), "x_Y-1.thumbprint").unwrap();
    let challenge = host.curl(&format!("http://{NAME}/.well-known/acme-challenge/x_Y-1"), &[]);
    assert_eq!(challenge.unwrap(), "x_Y-1.thumbprint");

    let before = serial(&host);
    let renewed = host.authority.issue(&[NAME]);
    host.certify(NAME, &renewed);
    eventually("the renewed certificate is shown", || {
        let now = serial(&host);
        now != before && now == format!("serial={:X}", renewed.serial)
    });
}
