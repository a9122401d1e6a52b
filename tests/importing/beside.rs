//! HAProxy and nginx on a configuration, lockgate on what was imported of it: both do the same.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::{import, imported, text};
use crate::harness::{
    Gateway, Http, Launch, Server, connect, eventually, free_port, held, unused_address, visit,
};

/// Where the module of nginx is that relays TCP.
const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// A program in the foreground; killed when dropped.
struct Running {
    child: Child,
    _directory: TempDir,
}

impl Running {
    /// The program that a configuration is for.
    fn start(program: &str, config: &str) -> Self {
        let directory = TempDir::with_prefix("lockgate-").unwrap();
        let file = directory.path().join(format!("{program}-x.cfg"));
        let mut command = Command::new(program);
        match program {
            "haproxy" => {
                fs::write(&file, config).unwrap();
                command.arg("-db").arg("-f").arg(&file);
            }
            _ => {
                let pid = directory.path().join("nginx.pid");
                let head = format!(
                    "load_module {STREAM_MODULE};\npid {};\nerror_log stderr;\ndaemon off;\n\
                     master_process off;\nevents {{}}\n",
                    pid.display()
                );
                fs::write(&file, format!("{head}{config}")).unwrap();
                command.arg("-p").arg(directory.path()).arg("-c").arg(&file);
            }
        }
        let child = command
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {program}: {error}"));
        Self { child, _directory: directory }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What becomes of a configuration, and the report on standard error.
fn converted(program: &str, config: &str) -> (String, String) {
    let directory = TempDir::with_prefix("lockgate-").unwrap();
    let file = directory.path().join(format!("{program}-x.cfg"));
    fs::write(&file, config).unwrap();
    let output = import(&[&format!("--{program}"), file.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    (imported(&[&file]), text(&output.stderr))
}

/// A server that answers each line by `answers`, after a greeting.
fn talkative(address: SocketAddr, greeting: &'static str, answers: Answers) -> Server {
    Server::new("checked", address, move |mut stream| {
        stream.write_all(greeting.as_bytes())?;
        let mut line = Vec::new();
        let mut byte = [0];
        while stream.read(&mut byte)? > 0 {
            line.push(byte[0]);
            if byte[0] != b'\n' {
                continue;
            }
            let said = String::from_utf8_lossy(&line).trim().to_owned();
            line.clear();
            for (asked, answer) in answers {
                if *asked == said {
                    stream.write_all(answer.as_bytes())?;
                }
            }
        }
        Ok(())
    })
}

/// Lines and what is said to them.
type Answers = &'static [(&'static str, &'static str)];

/// Whether clients get to `name`, once the gateway has made up its mind.
fn serves(front: SocketAddr, name: &str) -> bool {
    visit(front).is_ok_and(|greeting| greeting == name)
}

/// Waits until every backend has passed its checks.
fn all_up(gateway: &Gateway) {
    eventually("all are up", || {
        let status = gateway.status();
        let backends = status["pools"][0]["backends"].as_array().unwrap();
        backends.iter().all(|backend| backend["state"] == "up")
    });
}

const REDIS: Answers = &[
    ("AUTH pw", "+OK\r\n"),
    ("PING", "+PONG\r\n"),
    ("info replication", "$90\r\n# Replication\r\nrole:master\r\nconnected_slaves:1\r\n"),
    ("QUIT", "+OK\r\n"),
];
const REPLICA: Answers = &[
    ("AUTH pw", "+OK\r\n"),
    ("PING", "+PONG\r\n"),
    ("info replication", "$90\r\n# Replication\r\nrole:slave\r\nmaster_link_status:up\r\n"),
    ("QUIT", "+OK\r\n"),
];
const LOCKED: Answers =
    &[("AUTH pw", "-WRONGPASS\r\n"), ("PING", "-NOAUTH Authentication required.\r\n")];

#[test]
fn exchanges_of_checks_tell_the_same_backends_apart() {
    let auth = "tcp-check connect\n tcp-check send AUTH\\ pw\\r\\n\n \
                tcp-check send PING\\r\\n\n tcp-check expect string PONG\n";
    let master = "tcp-check send AUTH\\ pw\\r\\n\n tcp-check expect string +OK\n \
                  tcp-check send PING\\r\\n\n tcp-check expect string +PONG\n \
                  tcp-check send info\\ replication\\r\\n\n tcp-check expect string role:master\n \
                  tcp-check send QUIT\\r\\n\n tcp-check expect string +OK\n";
    let regex = "tcp-check send info\\ replication\\r\\n\n \
                 tcp-check expect rstring role:(master|leader)\n";
    let binary = "tcp-check send-binary 50494e470d0a\n tcp-check expect binary 2b504f4e47\n";
    let greeted = "tcp-check expect rstring ^220\n tcp-check send NOOP\\r\\n\n \
                   tcp-check expect string 250\n";
    for (rules, greeting, answers, is_up) in [
        (auth, "", REDIS, true),
        (auth, "", LOCKED, false),
        (master, "", REDIS, true),
        (master, "", REPLICA, false),
        (regex, "", REDIS, true),
        (regex, "", REPLICA, false),
        (binary, "", REDIS, true),
        (binary, "", LOCKED, false),
        (greeted, "220 mail\r\n", &[("NOOP", "250 fine\r\n")], true),
        (greeted, "554 no\r\n", &[("NOOP", "250 fine\r\n")], false),
        (greeted, "220 mail\r\n", &[("NOOP", "421 later\r\n")], false),
    ] {
        let server = Server::named("one");
        let checked = talkative(free_port(server.ip()), greeting, answers);
        let (of_haproxy, of_lockgate) = (unused_address(), unused_address());
        let config = |front: SocketAddr| {
            format!(
                "defaults\n mode tcp\n timeout connect 2s\n timeout client 10s\n \
                 timeout server 10s\nlisten l\n bind {front}\n option tcp-check\n {rules}\n \
                 server one {} check inter 100ms port {}\n",
                server.address(),
                checked.address().port()
            )
        };
        let _haproxy = Running::start("haproxy", &config(of_haproxy));
        let (toml, report) = converted("haproxy", &config(of_lockgate));
        let _gateway = Launch::new(toml).start_unready();
        for (name, front) in [("haproxy", of_haproxy), ("lockgate", of_lockgate)] {
            let agrees = || checked.accepted() > 8 && serves(front, "one") == is_up;
            eventually(&format!("{name} after {rules} is {is_up}: {report}"), agrees);
        }
    }
}

#[test]
fn checks_go_to_the_ports_that_they_were_sent_to() {
    for (options, of_servers) in [
        ("option httpchk GET /ping\n http-check connect port PORT", ["", ""]),
        ("option tcp-check\n tcp-check connect port PORT", ["", ""]),
        ("", ["port PORT", "port PORT"]),
        ("", ["port PORT", "port OTHER"]),
    ] {
        let servers = [Server::named("one"), Server::named("two")];
        let http = Http::new(200);
        let ip = servers[0].ip();
        let (port, other) = (free_port(ip), free_port(ip));
        // Both are at one address, since a check goes to the port of its server's.
        let two = Server::named_at("two", free_port(ip));
        let answering = {
            let http = std::sync::Arc::clone(&http);
            Server::new("checked", port, move |stream| http.answer(stream, "ok"))
        };
        let silent = Server::named_at("other", other);
        let front = unused_address();
        let fill = |text: &str| {
            text.replace("PORT", &port.port().to_string())
                .replace("OTHER", &other.port().to_string())
        };
        let config = format!(
            "defaults\n mode tcp\n timeout connect 2s\n timeout client 10s\n timeout server 10s\n\
             listen l\n bind {front}\n {}\n server one {} check inter 100ms {}\n \
             server two {} check inter 100ms {}\n",
            fill(options),
            servers[0].address(),
            fill(of_servers[0]),
            two.address(),
            fill(of_servers[1]),
        );
        let (toml, report) = converted("haproxy", &config);
        let gateway = Gateway::start(&toml);
        all_up(&gateway);
        eventually("checks go where they were sent", || answering.accepted() > 2);
        assert_eq!(silent.accepted() > 0, of_servers[1].contains("OTHER"), "{toml}{report}");
        // Nobody connects to the servers but their clients.
        assert_eq!((servers[0].accepted(), two.accepted()), (0, 0), "{toml}{report}");
        drop(servers);
    }
}

#[test]
fn checks_ask_for_the_host_that_they_asked_for() {
    let http = Http::new(200);
    let server = http.serve("one");
    for option in [
        "option httpchk GET /health HTTP/1.1 www.example.com",
        "option httpchk GET /health HTTP/1.1\\r\\nHost:\\ www.example.com",
        "option httpchk\n http-check send meth GET uri /health ver HTTP/1.1 hdr Host www.example.com",
    ] {
        let before = http.heads().len();
        let config = format!(
            "defaults\n mode tcp\n timeout connect 2s\n timeout client 10s\n timeout server 10s\n\
             listen l\n bind {}\n {option}\n server one {} check inter 100ms\n",
            unused_address(),
            server.address()
        );
        let (toml, _) = converted("haproxy", &config);
        let gateway = Gateway::start(toml);
        all_up(&gateway);
        eventually("a check has asked", || http.heads().len() > before);
        let head = http.heads().pop().unwrap();
        assert!(head.starts_with("GET /health "), "{option}: {head}");
        assert!(head.to_lowercase().contains("host: www.example.com\r\n"), "{option}: {head}");
    }
}

#[test]
fn an_address_of_both_families_stays_one_of_both() {
    let server = Server::named("one");
    let port = free_port(Ipv6Addr::UNSPECIFIED.into()).port();
    let config = |options: &str| {
        format!(
            "defaults\n mode tcp\n timeout connect 1s\n timeout client 5s\n timeout server 5s\n\
             frontend f\n bind :::{port} {options}\n default_backend b\nbackend b\n \
             server one {}\n",
            server.address()
        )
    };
    let fronts: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    for (options, expected) in [("", [true, true]), ("v6only", [false, true])] {
        let reached = || fronts.map(|ip| serves((ip, port).into(), "one"));
        let haproxy = Running::start("haproxy", &config(options));
        eventually("HAProxy serves", || reached() == expected);
        drop(haproxy);
        let gateway = Gateway::start(converted("haproxy", &config(options)).0);
        eventually("lockgate serves", || reached() == expected);
        drop(gateway);
    }
}

#[test]
fn variables_of_addresses_are_those_of_the_environment() {
    let server = Server::named("one");
    let front = unused_address();
    let directory = TempDir::with_prefix("lockgate-").unwrap();
    let file = directory.path().join("haproxy-x.cfg");
    let config = "defaults\n mode tcp\n timeout connect 1s\n timeout client 5s\n \
                  timeout server 5s\nlisten l\n bind ${FRONT_IP}:${FRONT_PORT-80}\n \
                  server one \"${BACK}\" check\n";
    fs::write(&file, config).unwrap();
    let mut command = Command::new(crate::harness::lockgate());
    command.arg("import").arg("--haproxy").arg(&file);
    let unset = crate::harness::output_of(&mut command);
    assert!(text(&unset.stderr).contains("the environment variable FRONT_IP is not set"));
    command
        .env("FRONT_IP", front.ip().to_string())
        .env("FRONT_PORT", front.port().to_string())
        .env("BACK", server.address().to_string());
    let output = crate::harness::output_of(&mut command);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let _gateway = Gateway::start(text(&output.stdout));
    assert_eq!(visit(front).unwrap(), "one");
}

/// Who serves the clients that come one by one and stay, up to the first that nobody does.
fn served_one_by_one(front: SocketAddr) -> Vec<String> {
    let clients: Vec<(TcpStream, String)> = (0..4).map_while(|_| held(front).ok()).collect();
    clients.into_iter().map(|(_, name)| name).collect()
}

/// nginx's backups take what the others have no room for; HAProxy's do not, with or without
/// `option allbackups`.
#[test]
fn full_servers_overflow_to_backups_as_they_did() {
    let servers = ["one", "spare"].map(Server::named);
    let [one, spare] = servers.each_ref().map(Server::address);
    let upstream = |method: &str| {
        format!(
            "stream {{\n upstream u {{ zone u 64k; {method} server {one} max_conns=1; \
             server {spare} max_conns=1 backup; }}\n \
             server {{ listen FRONT; proxy_pass u; }}\n}}\n"
        )
    };
    let listen = |option: &str| {
        format!(
            "defaults\n mode tcp\n timeout connect 300ms\n timeout client 10s\n \
             timeout server 10s\nlisten l\n bind FRONT\n {option}\n server one {one} maxconn 1\n \
             server spare {spare} maxconn 1 backup\n"
        )
    };
    for (program, config, expected) in [
        ("nginx", upstream(""), &["one", "spare"][..]),
        ("nginx", upstream("least_conn;"), &["one", "spare"]),
        ("haproxy", listen(""), &["one"]),
        ("haproxy", listen("option allbackups"), &["one"]),
    ] {
        let (of_peer, of_lockgate) = (unused_address(), unused_address());
        let at = |front: SocketAddr| config.replace("FRONT", &front.to_string());
        let _peer = Running::start(program, &at(of_peer));
        eventually("it serves", || served_one_by_one(of_peer) == expected);
        let (toml, report) = converted(program, &at(of_lockgate));
        let _gateway = Gateway::start(toml);
        eventually("lockgate serves alike", || served_one_by_one(of_lockgate) == expected);
        assert!(!report.contains("backup"), "{report}");
    }
}

/// How many of five clients are served at once.
fn served_of_five(front: SocketAddr) -> usize {
    let clients: Vec<io::Result<(TcpStream, String)>> = (0..5).map(|_| held(front)).collect();
    clients.iter().filter(|client| client.is_ok()).count()
}

#[test]
fn limits_of_nginx_that_only_count_refuse_nobody() {
    for (dry_run, expected) in [("on", 5), ("off", 3)] {
        let server = Server::named("one");
        let (of_nginx, of_lockgate) = (unused_address(), unused_address());
        let config = |front: SocketAddr| {
            format!(
                "stream {{\n limit_conn_zone $binary_remote_addr zone=a:1m;\n server {{\n \
                 listen {front};\n limit_conn a 3;\n limit_conn_dry_run {dry_run};\n \
                 proxy_pass {};\n }}\n}}\n",
                server.address()
            )
        };
        let _nginx = Running::start("nginx", &config(of_nginx));
        eventually("nginx listens", || connect(of_nginx).is_ok());
        let _gateway = Gateway::start(converted("nginx", &config(of_lockgate)).0);
        for (name, front) in [("nginx", of_nginx), ("lockgate", of_lockgate)] {
            eventually(name, || served_of_five(front) == expected);
        }
    }
}

#[test]
fn the_report_says_what_is_not_the_same() {
    for (program, config, said) in [
        (
            "nginx",
            "stream {\n limit_conn_zone $binary_remote_addr zone=a:1m;\n \
             server { listen 127.0.0.1:1001; limit_conn a 3; proxy_pass 127.0.0.1:1; }\n \
             server { listen 127.0.0.1:1002; limit_conn a 3; proxy_pass 127.0.0.1:1; }\n}\n",
            "not over all that share the zone",
        ),
        (
            "nginx",
            "stream {\n resolver 10.0.0.53;\n \
             server { listen 127.0.0.1:1001; proxy_pass db.example.com:1; }\n}\n",
            "/etc/resolv.conf",
        ),
        (
            "haproxy",
            "listen l\n bind :1001\n server s 10.0.0.1:1 ssl verify required ca-file /ca.pem\n",
            "set sni in [pool.NAME.tls]",
        ),
        (
            "haproxy",
            "listen l\n bind :1001\n option abortonclose\n server s 10.0.0.1:1\n",
            "keeps its place",
        ),
        (
            "haproxy",
            "listen l\n bind :1001 ssl crt /site.pem allow-0rtt\n server s 10.0.0.1:1\n",
            "early data is not accepted",
        ),
        (
            "haproxy",
            "listen l\n bind :1001\n option httpchk GET /x\n server s 10.0.0.1:1 check\n",
            "set health.host",
        ),
        (
            "haproxy",
            "listen l\n bind :1001\n option tcp-check\n tcp-check send x\n \
             tcp-check expect ! string y\n server s 10.0.0.1:1 check\n",
            "all count as up",
        ),
    ] {
        let (_, report) = converted(program, config);
        assert!(report.contains(said), "{config}: {report}");
    }
}

#[test]
fn servers_with_one_address_and_names_are_routes() {
    // nginx has this since 1.25.5.
    let config = "stream {\n server { listen 127.0.0.1:1001; ssl_preread on; \
                  proxy_pass 127.0.0.1:1; }\n \
                  server { listen 127.0.0.1:1001; ssl_preread on; server_name *.b.example \
                  c.example; proxy_pass 127.0.0.1:2; }\n \
                  server { listen 127.0.0.1:1001; ssl_preread on; server_name a.b.example; \
                  proxy_pass 127.0.0.1:3; }\n}\n";
    let (toml, report) = converted("nginx", config);
    let routes: Vec<&str> = toml.lines().filter(|line| line.contains("sni = ")).collect();
    assert_eq!(routes.len(), 3, "{toml}");
    assert!(routes[0].contains("c.example") && routes[1].contains("a.b.example"), "{toml}");
    assert!(routes[2].contains("*.b.example"), "{toml}");
    assert_eq!(toml.matches("[[listener]]").count(), 1, "{toml}");
    assert!(!report.contains("overlaps"), "{report}");
}

#[test]
fn the_name_of_an_upstream_is_the_one_that_is_verified() {
    let config = "stream {\n upstream api.example.com { server 10.0.0.1:443; server 10.0.0.2:443; }\n \
                  server {\n listen 127.0.0.1:1001;\n proxy_pass api.example.com;\n proxy_ssl on;\n \
                  proxy_ssl_server_name on;\n proxy_ssl_verify on;\n \
                  proxy_ssl_trusted_certificate /etc/ssl/certs/ca-certificates.crt;\n }\n}\n";
    let (toml, _) = converted("nginx", config);
    assert!(toml.contains("sni = \"api.example.com\""), "{toml}");
    assert!(!toml.contains("verify = false"), "{toml}");
}

/// HAProxy's templates and nginx's servers are as many as the name has addresses.
#[test]
fn a_name_with_several_addresses_is_a_backend_for_each_where_it_was() {
    let haproxy =
        |servers: &str| converted("haproxy", &format!("listen l\n bind :1001\n{servers}"));
    let nginx = |server: &str| {
        let text = format!(
            "stream {{\n upstream u {{ zone u 64k; server {server}; }}\n \
             server {{ listen 127.0.0.1:1001; proxy_pass u; }}\n}}\n"
        );
        converted("nginx", &text)
    };
    let each = "address = \"db.example.com:5432\"\naddresses = \"all\"";
    let squeezed = |toml: &str| toml.replace("  ", "");

    let template = " server-template db 1-5 db.example.com:5432 check resolvers dns\n";
    let (toml, report) = haproxy(template);
    assert!(squeezed(&toml).contains(each), "{toml}");
    assert!(report.contains("however many there are (not 1-5)"), "{report}");
    let (toml, _) = haproxy(" server db db.example.com:5432 check resolvers dns\n");
    assert!(toml.contains("db.example.com:5432") && !toml.contains("addresses"), "{toml}");
    let (toml, report) = haproxy(" server-template db 3 10.0.0.1:5432\n");
    assert!(!toml.contains("addresses"), "{toml}");
    assert!(report.contains("which have the same address"), "{report}");
    let (toml, report) =
        haproxy(" server s 10.0.0.1:1\n server-template db 3 _db._tcp.example.com\n");
    assert!(!toml.contains("address = \"_db"), "{toml}");
    assert!(report.contains("SRV records are not looked up"), "{report}");

    for resolve in ["", " resolve"] {
        let (toml, report) = nginx(&format!("db.example.com:5432{resolve}"));
        assert_eq!(report.contains("not only at the start"), resolve.is_empty(), "{report}");
        assert!(squeezed(&toml).contains(each), "{toml}");
        // Where there may be several, nginx takes one out that fails.
        assert!(toml.contains("max_fails = 1"), "{toml}");
    }
    let (toml, _) = nginx("10.0.0.1:5432");
    assert!(!toml.contains("addresses") && !toml.contains("max_fails"), "{toml}");
    let (toml, report) = nginx("db.example.com service=db resolve; server 10.0.0.1:1");
    assert!(!toml.contains("address = \"db.example.com"), "{toml}");
    assert!(report.contains("SRV records are not looked up"), "{report}");
    let direct =
        "stream {\n server { listen 127.0.0.1:1001; proxy_pass db.example.com:5432; }\n}\n";
    let (toml, _) = converted("nginx", direct);
    assert!(squeezed(&toml).contains(each), "{toml}");
}
