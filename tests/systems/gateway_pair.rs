//! config/examples/gateway-pair, with its addresses.
//!
//! ```text
//!   client 10.0.1.2 ──┬── gw1 10.0.1.10 ──┬── nginx 10.0.2.11 to .15, .21 to .26
//!   and 128 to 227    └── gw2 10.0.1.11 ──┘
//!                    10.0.1.100 floats
//! ```

mod crowd;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::Service;
use crate::harness::lab::{Namespace, ip};
use crate::harness::tls::Authority;
use crate::harness::{Gateway, Launch, eventually, output_of};
use crowd::Crowd;

const ADMIN: &str = "admin.example.com";
const CUSTOMERS: &str = "www.example.com";

const SIXTH: &str = r#"
  [[pool.customers.backend]]
  name = "customers-6"
  address = "10.0.2.26:443"
"#;

struct Deployment {
    authority: Authority,
    client: Namespace,
    servers: Namespace,
    hosts: [Namespace; 2],
    _switches: [Namespace; 2],
    directory: TempDir,
}

impl Deployment {
    fn new() -> Self {
        let [front, back, client, servers, gw1, gw2] =
            ["front", "back", "client", "servers", "gw1", "gw2"].map(Namespace::new);
        let cable = |switch: &Namespace, end: &Namespace, port: &str, device: &str| {
            let (switch_name, end_name) = (switch.name(), end.name());
            ip(&format!(
                "link add {port} netns {switch_name} type veth peer name {device} netns {end_name}"
            ));
            switch.ip(&format!("link set {port} master br0 up"));
            end.ip(&format!("link set {device} up"));
        };
        for switch in [&front, &back] {
            switch.ip("link add br0 type bridge mcast_snooping 0");
            switch.ip("link set br0 up");
        }
        for (index, host) in [&gw1, &gw2].into_iter().enumerate() {
            let port = format!("gw{}", index + 1);
            cable(&front, host, &port, "eth0");
            cable(&back, host, &port, "eth1");
            host.ip(&format!("addr add 10.0.1.1{index}/24 dev eth0"));
            host.ip(&format!("addr add 10.0.2.14{index}/24 dev eth1"));
        }
        cable(&front, &client, "client", "eth0");
        cable(&back, &servers, "servers", "eth0");
        client.ip("addr add 10.0.1.2/24 dev eth0");
        (128..228).for_each(|host| client.ip(&format!("addr add 10.0.1.{host}/24 dev eth0")));
        for host in (11..=15).chain(21..=26) {
            servers.ip(&format!("addr add 10.0.2.{host}/24 dev eth0"));
        }
        let directory = TempDir::with_prefix("lockgate-pair-").unwrap();
        let (authority, hosts) = (Authority::new("test"), [gw1, gw2]);
        let deployment =
            Self { authority, client, servers, hosts, _switches: [front, back], directory };
        deployment.make_certificates();
        deployment
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn example(&self, file: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples/gateway-pair").join(file)
    }

    fn make_certificates(&self) {
        fs::create_dir_all(self.path("certs")).unwrap();
        fs::write(self.path("certs/ca.pem"), self.authority.pem()).unwrap();
        for (name, hosts) in [(ADMIN, 11..=15), (CUSTOMERS, 21..=26)] {
            let addresses: Vec<String> = hosts.map(|host| format!("10.0.2.{host}")).collect();
            let names: Vec<&str> =
                [name].into_iter().chain(addresses.iter().map(String::as_str)).collect();
            let issued = self.authority.issue(&names);
            fs::write(self.path(&format!("certs/{name}.ecdsa.pem")), &issued.certificate).unwrap();
            let key = self.path(&format!("certs/{name}.ecdsa.key"));
            fs::write(&key, &issued.key).unwrap();
            super::make_private(&key);
        }
        let mut secret = [0; 32];
        let mut random = fs::File::open("/dev/urandom").unwrap();
        std::io::Read::read_exact(&mut random, &mut secret).unwrap();
        fs::write(self.path("pair.secret"), secret).unwrap();
        super::make_private(&self.path("pair.secret"));
    }

    /// Eleven HTTPS servers with the settings of the example.
    fn nginx(&self) -> Service {
        let settings = fs::read_to_string(self.example("nginx.conf")).unwrap();
        let settings =
            settings.replace("/etc/lockgate/certs", self.path("certs").to_str().unwrap());
        let mut servers = String::new();
        for (pool, name, first, last) in
            [("admin", ADMIN, 11, 15), ("customers", CUSTOMERS, 21, 26)]
        {
            for host in first..=last {
                let server = format!("{pool}-{}", host - first + 1);
                let settings = settings
                    .replace("listen 443", &format!("listen 10.0.2.{host}:443"))
                    .replace(CUSTOMERS, name)
                    .replace("$hostname", &server);
                servers.push_str(&settings);
            }
        }
        let (directory, file) = (self.path("nginx"), self.path("nginx/nginx.conf"));
        fs::create_dir_all(&directory).unwrap();
        let at = directory.display();
        let whole = format!(
            "user root;\ndaemon off;\npid {at}/pid;\nerror_log {at}/error.log;\n\
             worker_processes 2;\nworker_rlimit_nofile 20000;\n\
             events {{ worker_connections 16384; }}\nhttp {{\naccess_log off;\n\
             client_body_temp_path {at}/b;\nproxy_temp_path {at}/p;\nfastcgi_temp_path {at}/f;\n\
             uwsgi_temp_path {at}/u;\nscgi_temp_path {at}/s;\n{servers}}}\n"
        );
        fs::write(&file, whole).unwrap();
        let [program, arguments @ ..] = self.servers.enter();
        let mut command = Command::new(program);
        command.args(arguments).arg("nginx").arg("-c").arg(&file).stdin(Stdio::null());
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        Service(command.spawn().unwrap())
    }

    fn config(&self) -> String {
        let text = fs::read_to_string(self.example("lockgate.toml")).unwrap();
        let there = |name: &str| self.path(name).to_str().unwrap().to_owned();
        // The harness has an [admin] of its own.
        let admin = text.find("[admin]").unwrap();
        let end = admin + text[admin..].find("\n\n").unwrap();
        format!("{}{}", &text[..admin], &text[end..])
            .replace("/etc/lockgate/certs", &there("certs"))
            .replace("/etc/lockgate/pair.secret", &there("pair.secret"))
    }

    fn gateway(&self, index: usize) -> Gateway {
        Launch::new(self.config()).under(&self.hosts[index].enter()).start()
    }

    /// One request of a client with this address, on a connection of its own.
    fn visit(&self, from: u8, pool: &str) -> Result<String, String> {
        self.visit_within("10", from, pool)
    }

    /// The same, within so many seconds.
    fn visit_within(&self, seconds: &str, from: u8, pool: &str) -> Result<String, String> {
        let (name, port) = if pool == "admin" { (ADMIN, 8443) } else { (CUSTOMERS, 443) };
        let ca = self.path("certs/ca.pem");
        let [program, arguments @ ..] = self.client.enter();
        let mut command = Command::new(program);
        command.args(arguments).args(["curl", "-sS", "--fail", "-m", seconds, "--interface"]);
        command.arg(format!("10.0.1.{from}")).arg("--cacert").arg(ca).arg("--resolve");
        command.arg(format!("{name}:{port}:10.0.1.100")).arg(format!("https://{name}:{port}/"));
        let output = output_of(&mut command);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Kills the master. Returns after what time a client that tries again and again has an answer.
    fn kill(&self, master: &mut Gateway) -> Duration {
        let killed = Instant::now();
        master.signal(Signal::SIGKILL);
        // Not waiting for the client's kernel, which sends a SYN again after a second; unless the
        // machine is so busy that a visit takes its time.
        let patience = || if killed.elapsed() < Duration::from_secs(2) { "0.3" } else { "10" };
        while self.visit_within(patience(), 2, "customers").is_err() {
            assert!(killed.elapsed() < Duration::from_secs(20), "nobody takes over");
        }
        let took = killed.elapsed();
        master.wait();
        took
    }

    /// Has wrk ask the customers' servers on so many connections, each time as soon as it has its
    /// answer.
    fn wrk(&self, connections: u32, seconds: u32) -> Value {
        let script = self.path("report.lua");
        fs::write(&script, REPORT).unwrap();
        let [program, arguments @ ..] = self.client.enter();
        let mut command = Command::new(program);
        command.args(arguments).args(["wrk", "-t", "2", "-c", &connections.to_string()]);
        command.args(["-d", &seconds.to_string(), "-s"]).arg(script);
        let output = output_of(command.arg(format!("https://{CUSTOMERS}/")));
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().find(|line| line.starts_with('{'));
        serde_json::from_str(line.unwrap_or_else(|| panic!("{text}"))).unwrap()
    }
}

/// What wrk prints at its end: requests a second, errors, and microseconds.
const REPORT: &str = r#"
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '{"rate": %f, "errors": %d, "p50": %d, "p95": %d, "p99": %d}\n',
    summary.requests / summary.duration * 1e6, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(95), latency:percentile(99)))
end
"#;

/// Connects as fast as it can, and prints how many connections were not ended at once.
const FLOOD: &str = "
import socket

def passes():
    try:
        client = socket.create_connection(('10.0.1.100', 443), 10, ('10.0.1.227', 0))
        client.settimeout(0.05)
        return client.recv(1) != b''
    except TimeoutError:
        return True
    except OSError:
        return False

print(sum(passes() for _ in range(130)))
";

fn is_master(gateway: &Gateway) -> bool {
    gateway.status()["vrrp"][0]["state"] == "master"
}

fn is_well(gateway: &Gateway) -> bool {
    let status = gateway.status();
    let pools = status["pools"].as_array().unwrap();
    let mut backends = pools.iter().flat_map(|pool| pool["backends"].as_array().unwrap());
    backends.all(|backend| backend["state"] == "up")
}

/// Waits until all is well, and the first is master with its whole priority: without servers it had
/// less, and may have given way to the second.
fn settle(gateways: &[Gateway; 2]) {
    eventually("all servers are up", || gateways.iter().all(is_well));
    eventually("the first is master, for good", || {
        let first = &gateways[0].status()["vrrp"][0];
        let is_whole = first["effective_priority"] == first["priority"];
        is_whole && first["state"] == "master" && !is_master(&gateways[1])
    });
}

#[test]
fn a_pair_keeps_what_it_promises() {
    let deployment = Deployment::new();
    let _nginx = deployment.nginx();
    let mut gateways = [deployment.gateway(0), deployment.gateway(1)];
    settle(&gateways);

    // Weights 100, 100, 100, 75, 75 are 20, 20, 20, 15, 15 of 90; over TLS again, for the name that
    // the client asked for.
    let mut shares = BTreeMap::<String, u32>::new();
    for from in 128..218 {
        let answer = deployment.visit(from, "admin").unwrap();
        let [server, version, name] = answer.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{answer}");
        };
        assert_eq!((version, name), ("TLSv1.3", ADMIN));
        *shares.entry(server.to_owned()).or_default() += 1;
    }
    let expected = [("1", 20), ("2", 20), ("3", 20), ("4", 15), ("5", 15)];
    assert_eq!(shares, expected.map(|(number, share)| (format!("admin-{number}"), share)).into());

    // A server disappears: no request fails.
    deployment.servers.ip("addr del 10.0.2.22/24 dev eth0");
    for from in 128..140 {
        let answer = deployment.visit(from, "customers").unwrap();
        assert!(!answer.starts_with("customers-2"), "{answer}");
    }
    deployment.servers.ip("addr add 10.0.2.22/24 dev eth0");

    // A sixth one is added, on both gateways; nobody notices.
    let text = format!("{}{SIXTH}", deployment.config());
    gateways.iter().for_each(|gateway| gateway.reload(&text));
    eventually("the sixth serves", || {
        deployment.visit(2, "customers").unwrap().starts_with("customers-6")
    });

    // One address may open 100 connections a minute; the others are not concerned.
    let [program, arguments @ ..] = deployment.client.enter();
    let output = output_of(Command::new(program).args(arguments).args(["python3", "-c", FLOOD]));
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    let passed: u32 = said.trim().parse().unwrap_or_else(|_| panic!("{said}{complaint}"));
    assert!((100..=125).contains(&passed), "{passed} of 130 passed");
    assert!(deployment.visit(226, "customers").is_ok());

    let took = deployment.kill(&mut gateways[0]);
    assert!(took < Duration::from_secs(3), "a failover took {took:?}");
    assert!(is_master(&gateways[1]));
}

/// A connection of the crowd takes a file.
fn room_for_files() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
}

/// `scripts/bench pair` runs this at full scale, with a release build, and shows the table.
#[test]
fn the_promises_at_scale() {
    let connections: u32 = match std::env::var("LOCKGATE_PAIR_CONNECTIONS") {
        Ok(wanted) => wanted.parse().unwrap(),
        Err(_) => 500,
    };
    let deployment = Deployment::new();
    room_for_files();
    deployment.client.knows(CUSTOMERS, "10.0.1.100");
    let _nginx = deployment.nginx();
    let mut gateways = [deployment.gateway(0), deployment.gateway(1)];
    settle(&gateways);

    // Each asks once a second; a sixth server is added when all are there.
    let site = |port, name| (SocketAddr::from(([10, 0, 1, 100], port)), name);
    let (admin, customers) = (site(8443, ADMIN), site(443, CUSTOMERS));
    let crowd = Crowd {
        connections,
        connections_per_second: 500,
        period: Duration::from_secs(1),
        lasts: Duration::from_secs(10),
        sites: [customers, admin, customers, admin, customers],
        tls: Arc::new(deployment.authority.client()),
    };
    let mut at_once = 0;
    let many = thread::scope(|scope| {
        let many = scope.spawn(|| deployment.client.run(|| crowd.run()));
        eventually("all are connected", || {
            at_once = gateways[0].status()["connections"].as_u64().unwrap();
            at_once >= u64::from(connections)
        });
        let text = format!("{}{SIXTH}", deployment.config());
        gateways.iter().for_each(|gateway| gateway.reload(&text));
        many.join().unwrap()
    });
    assert!(many.errors.is_empty(), "{}: {}", many.errors.len(), many.errors[0]);

    // As many requests as client, gateway and servers can do with two cores between them.
    let busy = deployment.wrk(64, 5);
    assert_eq!(busy["errors"], 0, "{busy}");

    let failover = deployment.kill(&mut gateways[0]);

    eprintln!("| | connections | requests/s | p50 | p95 | p99 | errors |");
    eprintln!("| --- | --: | --: | --: | --: | --: | --: |");
    let row = |what: &str, connections: u64, rate: f64, [p50, p95, p99]: [f64; 3]| {
        eprintln!(
            "| {what} | {connections} | {rate:.0} | {p50:.1} ms | {p95:.1} ms | {p99:.1} ms | 0 |"
        );
    };
    let percentiles = [50.0, 95.0, 99.0].map(|percent| many.percentile(percent));
    row("a request a second", at_once, many.requests_per_second, percentiles);
    let percentiles = ["p50", "p95", "p99"].map(|name| busy[name].as_f64().unwrap() / 1e3);
    row("as fast as it goes", 64, busy["rate"].as_f64().unwrap(), percentiles);
    eprintln!(
        "failover, from SIGKILL to the next answer: {:.0} ms",
        failover.as_secs_f64() * 1000.0
    );
}
