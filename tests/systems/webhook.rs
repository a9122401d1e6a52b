//! config/examples/fastapi-webhook.

use std::fs;

use nix::sys::signal::Signal;

use super::{Host, Service, python, state};
use crate::harness::eventually;

const NAME: &str = "hooks.example.com";
const SECRET: &str = "a secret of the test";

fn services(host: &Host) -> Vec<Service> {
    let uvicorn = python("uvicorn");
    let start = |(number, port): (usize, &str)| {
        let words = [
            uvicorn.as_str(),
            "app:app",
            "--host",
            "127.0.0.1",
            "--port",
            port,
            "--http",
            "proxy_protocol:Http",
            "--no-proxy-headers",
        ];
        let instance = format!("app-{number}");
        let environment = [("INSTANCE", instance.as_str()), ("WEBHOOK_SECRET", SECRET)];
        host.start(&words, &environment)
    };
    (1..).zip(["5000", "5001", "5002"]).map(start).collect()
}

#[test]
fn webhooks_come_with_the_clients_address() {
    let host = Host::new("fastapi-webhook");
    host.certify(NAME, &host.authority.issue(&[NAME]));
    let services = services(&host);
    [5000, 5001, 5002].into_iter().for_each(|port| host.await_port(port));
    let gateway = host.gateway();
    for backend in ["app-1", "app-2", "app-3"] {
        eventually("the instances are up", || state(&gateway, "webhook", backend) == "up");
    }
    let url = |path: &str| format!("https://{NAME}{path}");

    // The address comes by PROXY protocol, and that the client speaks TLS.
    host.namespace.ip("addr add 203.0.113.9/32 dev lo");
    let found = host.curl(&url("/whoami"), &["--interface", "203.0.113.9"]).unwrap();
    assert!(found.contains(r#""client":"203.0.113.9""#), "{found}");
    assert!(found.contains(r#""scheme":"https""#), "{found}");

    // What a webhook is about: it is signed, or refused.
    let sign = "import hashlib,hmac,sys; print(hmac.new(sys.argv[2].encode(), sys.argv[3].encode(), \
                hashlib.sha256).hexdigest())";
    let body = r#"{"event": "paid"}"#;
    let signature = host.client(sign, &[SECRET, body]);
    let header = format!("X-Signature-256: sha256={}", signature.trim());
    let posted = host.curl(&url("/webhook"), &["--fail", "-d", body, "-H", &header]).unwrap();
    assert!(posted.contains(r#""from":"127.0.0.1""#), "{posted}");
    let refused =
        host.curl(&url("/webhook"), &["-o", "/dev/null", "-w", "%{http_code}", "-d", body]);
    assert_eq!(refused.unwrap(), "401");

    // What nginx did is done by the application.
    let headers = host.curl(&url("/whoami"), &["-I", "-X", "GET"]).unwrap().to_lowercase();
    for header in ["strict-transport-security", "x-content-type-options", "x-frame-options"] {
        assert!(headers.contains(header), "{headers}");
    }

    // Port 80: to HTTPS, but for challenges.
    let location =
        host.curl(&format!("http://{NAME}/a?b=c"), &["-o", "/dev/null", "-w", "%{redirect_url}"]);
    assert_eq!(location.unwrap(), url("/a?b=c"));
    fs::write(host.path("www/.well-known/acme-challenge/token"), "token.key").unwrap();
    let challenge = host.curl(&format!("http://{NAME}/.well-known/acme-challenge/token"), &[]);
    assert_eq!(challenge.unwrap(), "token.key");

    // Nobody gets to an instance around the gate with an address of their choice.
    let around = host.run(&["curl", "-sS", "-m", "10", "http://127.0.0.1:5000/whoami"]);
    assert!(!around.status.success());

    // An instance is killed: no request fails for it.
    services[0].signal(Signal::SIGKILL);
    for _ in 0..12 {
        assert_ne!(host.get(&url("/whoami"))["instance"], "app-1");
    }
    eventually("the dead instance is noticed", || state(&gateway, "webhook", "app-1") != "up");
}

#[test]
fn a_sender_that_floods_is_limited_and_others_are_not() {
    let host = Host::new("fastapi-webhook");
    host.certify(NAME, &host.authority.issue(&[NAME]));
    let _services = services(&host);
    [5000, 5001, 5002].into_iter().for_each(|port| host.await_port(port));
    let gateway = host.gateway();
    host.namespace.ip("addr add 203.0.113.66/32 dev lo");
    host.namespace.ip("addr add 203.0.113.7/32 dev lo");
    let flood = "import socket, sys, time
refused = 0
for _ in range(400):
    client = socket.socket()
    client.settimeout(5)
    client.bind(('203.0.113.66', 0))
    try:
        client.connect(('127.0.0.1', 443))
        client.setblocking(False)
        time.sleep(0.0005)
        try:
            refused += client.recv(1) == b''
        except BlockingIOError:
            pass
    except OSError:
        refused += 1
    client.close()
print(refused)
";
    let refused: u32 = host.client(flood, &[]).trim().parse().unwrap();
    let limited =
        gateway.metric("lockgate_limited_total", &[("listener", "https"), ("limit", "rate")]);
    assert!(limited >= 100.0, "{limited} of 400 connections were limited; {refused} seen");
    let url = format!("https://{NAME}/whoami");
    let other = host.curl(&url, &["--interface", "203.0.113.7"]).unwrap();
    assert!(other.contains("203.0.113.7"), "{other}");
}
