//! Many gateways behind one address, as in config/examples/ecmp, with real BIRD.
//!
//! ```text
//!   client ── wan router eth0 ──┬── gw1      192.0.2.100 on the loopback devices of both,
//!             10.0.1.1, AS 65000├── gw2      announced by BGP, AS 65001
//!                               └── servers  10.0.1.21, 10.0.1.22
//! ```

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::harness::lab::{Namespace, ip};
use crate::harness::{Gateway, Launch, Server, eventually, output_of, visit};

const SERVICE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 100)), 80);

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples/ecmp").join(name)
}

/// A process of the example; it ends with the test.
struct Program(Child);

impl Program {
    fn start(
        namespace: &Namespace,
        words: &[&str],
        log: &Path,
        environment: &[(&str, &Path)],
    ) -> Self {
        let log = File::create(log).unwrap();
        let [program, arguments @ ..] = namespace.enter();
        let mut command = Command::new(program);
        command.args(arguments).args(words).envs(environment.iter().copied());
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Self(command.spawn().unwrap())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// BIRD in a namespace, with one of the example's files.
struct Bird {
    socket: PathBuf,
    log: PathBuf,
    _program: Program,
}

impl Bird {
    fn start(namespace: &Namespace, file: &str, directory: &Path, name: &str) -> Self {
        let of = |suffix: &str| directory.join(format!("{name}.{suffix}"));
        let (socket, log) = (of("ctl"), of("log"));
        let words = ["bird", "-f", "-c", example(file).to_str().unwrap(), "-s"].map(str::to_owned);
        let [socket_word, pid_word] =
            [&socket, &of("pid")].map(|path| path.to_str().unwrap().to_owned());
        let words: Vec<String> =
            words.into_iter().chain([socket_word, "-P".to_owned(), pid_word]).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let program = Program::start(namespace, &words, &log, &[]);
        let bird = Self { socket, log, _program: program };
        eventually("BIRD answers", || bird.ask("show status").contains("is up and running"));
        bird
    }

    fn ask(&self, question: &str) -> String {
        let mut command = Command::new("birdc");
        command.arg("-s").arg(&self.socket).args(question.split(' '));
        String::from_utf8_lossy(&output_of(&mut command).stdout).into_owned()
    }
}

struct Site {
    router: Namespace,
    client: Namespace,
    gateways: [Namespace; 2],
    switch: Namespace,
    servers: Namespace,
}

impl Site {
    fn new() -> Self {
        let [switch, router, client, servers, gw1, gw2] =
            ["switch", "router", "client", "servers", "gw1", "gw2"].map(Namespace::new);
        switch.ip("link add br0 type bridge mcast_snooping 0");
        switch.ip("link set br0 up");
        let ends: [(&str, &Namespace, &[&str]); 4] = [
            ("router", &router, &["10.0.1.1"]),
            ("servers", &servers, &["10.0.1.21", "10.0.1.22"]),
            ("gw1", &gw1, &["10.0.1.10"]),
            ("gw2", &gw2, &["10.0.1.11"]),
        ];
        for (port, end, addresses) in ends {
            ip(&format!(
                "link add {port} netns {} type veth peer name eth0 netns {}",
                switch.name(),
                end.name()
            ));
            switch.ip(&format!("link set {port} master br0 up"));
            end.ip("link set eth0 up");
            addresses.iter().for_each(|address| end.ip(&format!("addr add {address}/24 dev eth0")));
        }
        ip(&format!(
            "link add wan netns {} type veth peer name eth0 netns {}",
            router.name(),
            client.name()
        ));
        router.ip("addr add 198.51.100.1/24 dev wan");
        router.ip("link set wan up");
        client.ip("addr add 198.51.100.2/24 dev eth0");
        client.ip("link set eth0 up");
        client.ip("route add default via 198.51.100.1");
        router.run(|| {
            fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
            fs::write("/proc/sys/net/ipv4/fib_multipath_hash_policy", "1").unwrap();
        });
        for gateway in [&gw1, &gw2] {
            gateway.ip("addr add 192.0.2.100/32 dev lo");
            gateway.ip("route add default via 10.0.1.1");
        }
        Self { router, client, gateways: [gw1, gw2], switch, servers }
    }

    /// The ways that the router knows to the service.
    fn ways(&self) -> Vec<&'static str> {
        let shown = self.router.output("route show 192.0.2.100");
        let known = |gateway: &&str| shown.split_whitespace().any(|word| word == *gateway);
        ["10.0.1.10", "10.0.1.11"].into_iter().filter(known).collect()
    }

    /// Makes connections; all of them have to be served.
    fn serves(&self, connections: usize) {
        self.client.run(|| {
            for _ in 0..connections {
                let server = visit(SERVICE).unwrap();
                assert!(server.starts_with("web-"), "{server}");
            }
        });
    }
}

fn served(gateway: &Gateway) -> u64 {
    gateway.status()["listeners"][0]["connections_total"].as_u64().unwrap()
}

#[test]
fn gateways_share_an_address_and_one_that_is_not_ready_is_left_out() {
    let site = Site::new();
    let directory = TempDir::with_prefix("lockgate-ecmp-").unwrap();
    let _servers = [("web-1", 21), ("web-2", 22)].map(|(name, host)| {
        let address = SocketAddr::from(([10, 0, 1, host], 8080));
        site.servers.run(|| Server::named_at(name, address))
    });
    let config = fs::read_to_string(example("lockgate.toml")).unwrap();
    let launch = |index: usize| Launch::new(&config).under(&site.gateways[index].enter()).start();
    let mut gateways = [launch(0), launch(1)];

    let router = Bird::start(&site.router, "bird-router.conf", directory.path(), "router");
    let birds = ["gw1", "gw2"];
    let birds = [0, 1].map(|index| {
        Bird::start(&site.gateways[index], "bird-gateway.conf", directory.path(), birds[index])
    });
    let announce = |index: usize, gateway: &Gateway| {
        let socket = gateway.config_path().with_file_name("admin.sock");
        Program::start(
            &site.gateways[index],
            &[example("lockgate-announce").to_str().unwrap()],
            &directory.path().join(format!("announce-{index}.log")),
            &[("LOCKGATE_SOCKET", &socket), ("BIRD_SOCKET", &birds[index].socket)],
        )
    };
    let mut announcers = [announce(0, &gateways[0]), announce(1, &gateways[1])];

    eventually("the router knows both ways", || {
        assert!(announcers[0].0.try_wait().unwrap().is_none(), "an announcer has ended");
        site.ways().len() == 2
    });
    site.serves(60);
    let shares = [served(&gateways[0]), served(&gateways[1])];
    assert_eq!(shares[0] + shares[1], 60, "{shares:?}");
    assert!(shares.iter().all(|&share| share >= 5), "both serve: {shares:?}");

    // Killed without a word: it is no longer announced, and the other one has everything.
    gateways[0].signal(Signal::SIGKILL);
    gateways[0].wait();
    eventually("the router knows one way", || site.ways() == ["10.0.1.11"]);
    site.serves(30);
    assert_eq!(served(&gateways[1]), shares[1] + 30);

    // A new one on the same host is announced when it is ready.
    gateways[0] = launch(0);
    announcers[0] = announce(0, &gateways[0]);
    eventually("both ways are back", || site.ways().len() == 2);

    // The cable of the other host is pulled: BFD notices.
    site.switch.ip("link set gw2 down");
    eventually("the dead host is left out", || site.ways() == ["10.0.1.10"]);
    site.serves(30);
    let log = fs::read_to_string(&router.log).unwrap();
    assert!(router.ask("show protocols gw1").contains("Established"), "{log}");
}
