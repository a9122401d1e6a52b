//! Others that speak the PROXY protocol: HAProxy and curl to the gateway, the gateway to nginx.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::{ANNOUNCED, saying, v1};
use crate::harness::tls::{Authority, Store};
use crate::harness::{
    Config, Gateway, Http, connect, eventually, fetch, output_of, unused_address,
};

/// A program in the foreground; killed when dropped.
struct Running(Child);

impl Running {
    fn start(program: &str, arguments: &[&str]) -> Self {
        let child = Command::new(program)
            .args(arguments)
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap_or_else(|error| panic!("cannot start {program}: {error}")))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// HAProxy on `bind`, before `server`.
fn haproxy(directory: &Path, bind: &str, server: SocketAddr, options: &str) -> Running {
    let file = directory.join("haproxy.cfg");
    let text = format!(
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n\
         listen all\n  bind {bind}\n  server gateway {server} {options}\n"
    );
    fs::write(&file, text).unwrap();
    Running::start("haproxy", &["-db", "-f", file.to_str().unwrap()])
}

#[track_caller]
fn await_listening(address: SocketAddr) {
    eventually("it listens", || connect(address).is_ok());
}

#[test]
fn haproxy_is_understood() {
    let http = Http::new(200);
    let server = http.serve("a");
    let store = Store::new();
    let authority = Authority::new("authority");
    let site = authority.issue(&["site.test"]);
    let both = store.file("both.pem", format!("{}{}", site.certificate, site.key));
    for (options, tls) in [
        ("send-proxy", false),
        ("send-proxy-v2", false),
        ("send-proxy-v2 proxy-v2-options crc32c,unique-id", false),
        ("send-proxy-v2-ssl-cn proxy-v2-options ssl,cert-cn,ssl-cipher,authority,crc32c", true),
        // Its checks announce themselves as its own.
        ("send-proxy-v2 check inter 50ms", false),
    ] {
        let (address, front) = (unused_address(), unused_address());
        let config = Config::new(address)
            .listener("accept_proxy_from = [\"127.0.0.0/8\"]")
            .backend(&server, "");
        let gateway = Gateway::start(config);
        let bind = match tls {
            true => format!("{front} ssl crt {} alpn http/1.1", both.display()),
            false => front.to_string(),
        };
        let _haproxy = haproxy(store.path(), &bind, address, options);
        await_listening(front);
        let url = format!("http{}://site.test/", if tls { "s" } else { "" });
        let resolve = format!("::{}:{}", front.ip(), front.port());
        let mut curl = Command::new("curl");
        curl.args([
            "-sk",
            "-m",
            "20",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code} %{local_ip}:%{local_port}",
        ]);
        curl.args(["--connect-to", &resolve, &url]);
        let output = output_of(&mut curl);
        let said = String::from_utf8(output.stdout).unwrap();
        let (status, from) = said.split_once(' ').unwrap();
        assert_eq!(status, "200", "{options}");
        assert_eq!(gateway.record_of(from.parse().unwrap())["reason"], "closed", "{options}");
        let refused = [("listener", "web"), ("reason", "bad_proxy_header")];
        assert_eq!(gateway.metric("lockgate_connections_closed_total", &refused), 0.0);
    }
}

#[test]
fn curl_is_understood() {
    let http = Http::new(200);
    let server = http.serve("a");
    let address = unused_address();
    let config =
        Config::new(address).listener("accept_proxy_from = [\"127.0.0.0/8\"]").backend(&server, "");
    let gateway = Gateway::start(config);
    let mut curl = Command::new("curl");
    curl.args(["-s", "-m", "20", "--haproxy-protocol", "-w", " %{local_ip} %{local_port}"]);
    let output = output_of(curl.arg(format!("http://{address}/")));
    let said = String::from_utf8(output.stdout).unwrap();
    let mut words = said.split(' ');
    assert_eq!(words.next(), Some("a"));
    let client = format!("{}:{}", words.next().unwrap(), words.next().unwrap());
    assert_eq!(gateway.record_of(client.parse().unwrap())["reason"], "closed");
}

/// nginx answers with the address that it has been told.
#[test]
fn nginx_understands() {
    let store = Store::new();
    let (address, behind) = (unused_address(), unused_address());
    let directory = store.path().display();
    let text = format!(
        "daemon off;\nmaster_process off;\npid {directory}/pid;\nerror_log {directory}/error.log;\n\
         events {{}}\nhttp {{\n  access_log off;\n  client_body_temp_path {directory}/a;\n  \
         proxy_temp_path {directory}/b;\n  fastcgi_temp_path {directory}/c;\n  \
         uwsgi_temp_path {directory}/d;\n  scgi_temp_path {directory}/e;\n  server {{\n    \
         listen {behind} proxy_protocol;\n    \
         return 200 \"$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr\";\n  \
         }}\n}}\n"
    );
    let file = store.file("nginx.conf", text);
    let error_log = store.path().join("error.log");
    let log = error_log.to_str().unwrap();
    let _nginx = Running::start("nginx", &["-e", log, "-c", file.to_str().unwrap()]);
    await_listening(behind);
    for version in ["v1", "v2"] {
        let config = Config::new(address)
            .runtime("workers = 1")
            .pool(&format!("send_proxy = \"{version}\""))
            .listener("accept_proxy_from = [\"127.0.0.2\"]")
            .backend_at("nginx", &behind.to_string(), "");
        let health = "[pool.app.health]\ntype = \"http\"\npath = \"/\"\ninterval = \"100ms\"\n";
        let gateway = Gateway::start(format!("{config}{health}"));
        gateway.await_state("nginx", "up");
        let stream = connect(address).unwrap();
        let own = stream.local_addr().unwrap();
        let (status, body) = fetch(stream, "GET", "/").unwrap();
        assert_eq!((status, body), (200, format!("{} {} {}", own.ip(), own.port(), address.ip())));
        // And on behalf of a proxy before the gateway.
        let believing = config.listener("").to_string().replace("127.0.0.2", "127.0.0.0/8");
        gateway.reload(format!("{believing}{health}"));
        eventually("the header is believed", || {
            fetch(saying(address, &v1()), "GET", "/").unwrap()
                == (200, format!("{ANNOUNCED} 258 198.51.100.2"))
        });
    }
    let told = fs::read_to_string(&error_log).unwrap();
    // The wait for it to listen is the one connection without a header.
    assert!(!told.contains("broken header: \"PROXY"), "{told}");
}
