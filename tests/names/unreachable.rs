//! Names whose first address is a black hole: what is sent there is never answered, not even by a
//! refusal.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::harness::dns::Dns;
use crate::harness::lab::{GATEWAY, LEFT, Lab, RIGHT};
use crate::harness::{Config, Gateway, Launch, Server, eventually, visit};

const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 2, 0, 3));
const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(GATEWAY), 80);
const PORT: u16 = 7000;

/// A server at the left, with a name that has the black hole before it.
struct Site {
    lab: Lab,
    server: Server,
    _dns: Dns,
}

impl Site {
    fn new() -> Self {
        let lab = Lab::new();
        lab.left.ip(&format!("addr add {SERVER}/24 dev eth0"));
        // Nobody has this hardware address: all that is sent there gets lost.
        lab.gateway.ip(&format!("neigh replace {LEFT} lladdr 02:00:00:00:00:99 dev left"));
        let hole = SocketAddr::new(LEFT.into(), PORT);
        let lost =
            lab.gateway.run(|| TcpStream::connect_timeout(&hole, Duration::from_millis(300)));
        assert_eq!(lost.unwrap_err().kind(), ErrorKind::TimedOut);
        let at = SocketAddr::new(SERVER, PORT);
        let server = lab.left.run(|| Server::named_at("server", at));
        let dns = lab.right.run(|| Dns::start(SocketAddr::new(RIGHT.into(), 53), LEFT));
        dns.list(&[LEFT.into(), SERVER]);
        lab.gateway.resolve_with(IpAddr::from(RIGHT));
        Self { lab, server, _dns: dns }
    }

    fn start(&self, lines: &str) -> Gateway {
        let config = Config::new(ADDRESS).pool(lines).backend_at("app", "app.test:7000", "");
        Launch::new(config).under(&self.lab.gateway.enter()).start_unready()
    }

    fn visit(&self) -> String {
        self.lab.client.run(|| visit(ADDRESS).unwrap())
    }
}

/// The connection that meets it first has time left for the other address, and all others begin with
/// that.
#[test]
fn a_connection_gets_to_the_second_address_within_its_time() {
    let site = Site::new();
    for more in ["", "send_proxy = 'v2'"] {
        let gateway = site.start(&format!("connect_timeout = '3s'\nretries = 0\n{more}"));
        let hole = format!("{LEFT}:{PORT}");
        eventually("the name is resolved", || gateway.backend("app")["resolved"] == hole.as_str());
        for _ in 0..5 {
            assert_eq!(site.visit(), "server", "{more}");
        }
        let backend = gateway.backend("app");
        assert_eq!(backend["resolved"], format!("{SERVER}:{PORT}"), "{more}");
        // The attempt at the other address belongs to one connection, which did succeed.
        assert_eq!(backend["connections_total"], 5, "{more}: {backend}");
        assert_eq!(backend["connect_failures_total"], 0, "{more}: {backend}");
    }
}

/// A check does not wait for the black hole: it finds the second address, and connections begin with
/// that.
#[test]
fn a_check_finds_the_second_address_within_its_time() {
    let mut site = Site::new();
    let gateway = site.start(
        "connect_timeout = '60s'\n\
         health = { interval = '100ms', fast_interval = '100ms', timeout = '2s', fall = 1 }",
    );
    gateway.await_state("app", "up");
    assert_eq!(gateway.backend("app")["resolved"], format!("{SERVER}:{PORT}"));
    for _ in 0..5 {
        assert_eq!(site.visit(), "server");
    }
    site.server.kill();
    gateway.await_state("app", "down");
    site.lab.left.run(|| site.server.restart());
    gateway.await_state("app", "up");
    assert_eq!(site.visit(), "server");
}
