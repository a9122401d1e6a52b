//! config/examples/gateway-pair, with its addresses.
//!
//! ```text
//!   client 10.0.1.2 ──┬── gw1 10.0.1.10 ──┬── nginx 10.0.2.11 to .15, .21 to .26
//!   and 128 to 227    └── gw2 10.0.1.11 ──┘
//!                    10.0.1.100 floats
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::Service;
use crate::harness::lab::{Namespace, ip};
use crate::harness::tls::Authority;
use crate::harness::{Gateway, Launch, eventually, output_of};

const ADMIN: &str = "admin.example.com";
const CUSTOMERS: &str = "www.example.com";

struct Deployment {
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
        let deployment =
            Self { client, servers, hosts: [gw1, gw2], _switches: [front, back], directory };
        deployment.make_certificates();
        deployment
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn make_certificates(&self) {
        let authority = Authority::new("test");
        fs::create_dir_all(self.path("certs")).unwrap();
        fs::write(self.path("certs/ca.pem"), authority.pem()).unwrap();
        for (name, hosts) in [(ADMIN, 11..=15), (CUSTOMERS, 21..=26)] {
            let addresses: Vec<String> = hosts.map(|host| format!("10.0.2.{host}")).collect();
            let names: Vec<&str> =
                [name].into_iter().chain(addresses.iter().map(String::as_str)).collect();
            let issued = authority.issue(&names);
            fs::write(self.path(&format!("certs/{name}.pem")), &issued.certificate).unwrap();
            let key = self.path(&format!("certs/{name}.key"));
            fs::write(&key, &issued.key).unwrap();
            super::make_private(&key);
        }
        let mut secret = [0; 32];
        let mut random = fs::File::open("/dev/urandom").unwrap();
        std::io::Read::read_exact(&mut random, &mut secret).unwrap();
        fs::write(self.path("pair.secret"), secret).unwrap();
        super::make_private(&self.path("pair.secret"));
    }

    /// Eleven HTTPS servers: each says its name, and what it was asked for by TLS.
    fn nginx(&self) -> Service {
        let mut servers = String::new();
        for (pool, name, first) in [("admin", ADMIN, 11), ("customers", CUSTOMERS, 21)] {
            for number in 1..=if first == 11 { 5 } else { 6 } {
                let (host, certs) = (first + number - 1, self.path("certs"));
                let certs = certs.display();
                servers.push_str(&format!(
                    "server {{ listen 10.0.2.{host}:443 ssl; server_name _;\n\
                     ssl_certificate {certs}/{name}.pem; ssl_certificate_key {certs}/{name}.key;\n\
                     location / {{ return 200 \"{pool}-{number} $ssl_protocol $ssl_server_name\\n\"; }} }}\n"
                ));
            }
        }
        let (directory, file) = (self.path("nginx"), self.path("nginx/nginx.conf"));
        fs::create_dir_all(&directory).unwrap();
        let at = directory.display();
        let whole = format!(
            "user root;\ndaemon off;\npid {at}/pid;\nerror_log {at}/error.log;\n\
             events {{ worker_connections 4096; }}\nhttp {{\naccess_log off;\n\
             ssl_protocols TLSv1.2 TLSv1.3;\n\
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
        let example = "config/examples/gateway-pair/lockgate.toml";
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(example)).unwrap();
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
        let (name, port) = if pool == "admin" { (ADMIN, 8443) } else { (CUSTOMERS, 443) };
        let ca = self.path("certs/ca.pem");
        let [program, arguments @ ..] = self.client.enter();
        let mut command = Command::new(program);
        command.args(arguments).args(["curl", "-sS", "--fail", "-m", "10", "--interface"]);
        command.arg(format!("10.0.1.{from}")).arg("--cacert").arg(ca).arg("--resolve");
        command.arg(format!("{name}:{port}:10.0.1.100")).arg(format!("https://{name}:{port}/"));
        let output = output_of(&mut command);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }
}

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

#[test]
fn a_pair_keeps_what_it_promises() {
    let deployment = Deployment::new();
    let _nginx = deployment.nginx();
    let mut gateways = [deployment.gateway(0), deployment.gateway(1)];
    eventually("the first is master", || is_master(&gateways[0]) && !is_master(&gateways[1]));
    eventually("all servers are up", || gateways.iter().all(is_well));

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
    let sixth =
        "\n  [[pool.customers.backend]]\n  name = \"customers-6\"\n  address = \"10.0.2.26:443\"\n";
    gateways.iter().for_each(|gateway| gateway.reload(format!("{}{sixth}", deployment.config())));
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

    // The master is killed.
    let killed = Instant::now();
    gateways[0].signal(Signal::SIGKILL);
    while deployment.visit(200, "customers").is_err() {
        assert!(killed.elapsed() < Duration::from_secs(20), "nobody takes over");
    }
    let took = killed.elapsed();
    assert!(took < Duration::from_secs(3), "a failover took {took:?}");
    assert!(is_master(&gateways[1]));
    gateways[0].wait();
}

/// What wrk prints at its end: requests, errors, and how long answers took, in microseconds.
const REPORT: &str = r#"
local wait = tonumber(os.getenv("WAIT"))
if wait > 0 then
  -- Every connection asks once in so many milliseconds, on average.
  function delay() return math.random(0, 2 * wait) end
end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '{"requests": %d, "seconds": %f, "errors": %d, "timeouts": %d, "p50": %d, "p95": %d, "p99": %d}\n',
    summary.requests, summary.duration / 1e6, e.connect + e.read + e.write + e.status, e.timeout,
    latency:percentile(50), latency:percentile(95), latency:percentile(99)))
end
"#;

/// A load of wrk, from all addresses of the client in turn.
struct Load(std::process::Child);

impl Load {
    fn start(deployment: &Deployment, connections: u32, seconds: u32, wait: u32) -> Self {
        let script = deployment.path("report.lua");
        fs::write(&script, REPORT).unwrap();
        let [program, arguments @ ..] = deployment.client.enter();
        let mut command = Command::new(program);
        command.args(arguments).env("WAIT", wait.to_string()).args(["wrk", "-t", "2", "-c"]);
        command.arg(connections.to_string()).args(["-d", &seconds.to_string(), "--timeout", "10"]);
        command.arg("-s").arg(script).arg(format!("https://{CUSTOMERS}/"));
        Self(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap())
    }

    fn finish(mut self) -> serde_json::Value {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut self.0.stdout.take().unwrap(), &mut text).unwrap();
        let line = text.lines().find(|line| line.starts_with('{'));
        serde_json::from_str(line.unwrap_or_else(|| panic!("{text}"))).unwrap()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `scripts/bench pair` runs this at full scale, with a release build, and shows the table.
#[test]
fn the_promises_at_scale() {
    let connections: u32 = match std::env::var("LOCKGATE_PAIR_CONNECTIONS") {
        Ok(wanted) => wanted.parse().unwrap(),
        Err(_) => 500,
    };
    let deployment = Deployment::new();
    // Each connection is another client's: they take the 100 addresses in turn.
    let map: Vec<String> = (0..100).map(|n| format!("{n} : 10.0.1.{}", 128 + n)).collect();
    let rules = format!(
        "table ip turns {{\n chain out {{\n type nat hook postrouting priority 100\n \
         ip daddr 10.0.1.100 tcp dport 443 ip saddr 10.0.1.2 \
         snat to numgen inc mod 100 map {{ {} }}\n }}\n}}\n",
        map.join(", ")
    );
    let file = deployment.path("turns.nft");
    fs::write(&file, rules).unwrap();
    let [program, arguments @ ..] = deployment.client.enter();
    let made = output_of(Command::new(program).args(arguments).arg("nft").arg("-f").arg(&file));
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    deployment.client.knows(CUSTOMERS, "10.0.1.100");
    let _nginx = deployment.nginx();
    let mut gateways = [deployment.gateway(0), deployment.gateway(1)];
    eventually("the first is master", || is_master(&gateways[0]) && !is_master(&gateways[1]));
    eventually("all servers are up", || gateways.iter().all(is_well));

    // All at once, each asking once a second; a sixth server is added meanwhile.
    let many = Load::start(&deployment, connections, 15, 1000);
    eventually("all are connected", || {
        gateways[0].status()["connections"].as_u64().unwrap() >= u64::from(connections)
    });
    let at_once = gateways[0].status()["connections"].as_u64().unwrap();
    let sixth =
        "\n  [[pool.customers.backend]]\n  name = \"customers-6\"\n  address = \"10.0.2.26:443\"\n";
    gateways.iter().for_each(|gateway| gateway.reload(format!("{}{sixth}", deployment.config())));
    let many = many.finish();
    assert_eq!((&many["errors"], &many["timeouts"]), (&0.into(), &0.into()), "{many}");

    // As many requests as client, gateway and servers can do with two cores between them.
    let busy = Load::start(&deployment, 64, 5, 0).finish();
    assert_eq!((&busy["errors"], &busy["timeouts"]), (&0.into(), &0.into()), "{busy}");

    let killed = Instant::now();
    gateways[0].signal(Signal::SIGKILL);
    while deployment.visit(2, "customers").is_err() {
        assert!(killed.elapsed() < Duration::from_secs(20), "nobody takes over");
    }
    let failover = killed.elapsed();
    gateways[0].wait();

    let (ms, rate) = (
        |load: &serde_json::Value, name: &str| load[name].as_f64().unwrap() / 1000.0,
        |load: &serde_json::Value| {
            load["requests"].as_f64().unwrap() / load["seconds"].as_f64().unwrap()
        },
    );
    eprintln!("| | connections | requests/s | p50 | p95 | p99 | errors |");
    eprintln!("| --- | --: | --: | --: | --: | --: | --: |");
    for (what, connections, load) in [
        ("all at once, one request a second each", at_once, &many),
        ("as fast as it goes", 64, &busy),
    ] {
        eprintln!(
            "| {what} | {connections} | {:.0} | {:.1} ms | {:.1} ms | {:.1} ms | {} |",
            rate(load),
            ms(load, "p50"),
            ms(load, "p95"),
            ms(load, "p99"),
            load["errors"]
        );
    }
    eprintln!(
        "failover, from SIGKILL to the next answer: {:.0} ms",
        failover.as_secs_f64() * 1000.0
    );
}
