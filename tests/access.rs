//! Who may come in: lists, and files of them.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::harness::tls::Store;
use crate::harness::{
    Config, Ending, Gateway, Server, connect_from, ending, eventually, greeting, lockgate,
    output_of, unused_address, visit_from,
};

fn source(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 78, 7, last).into()
}

fn guarded(server: &Server, listener: &str) -> (Config, SocketAddr) {
    let address = unused_address();
    (Config::new(address).runtime("workers = 1").listener(listener).backend(server, ""), address)
}

#[track_caller]
fn assert_denied(gateway: &Gateway, from: IpAddr, to: SocketAddr) {
    let mut stream = match connect_from(from, to) {
        Ok(stream) => stream,
        // The reset was quick.
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return,
        Err(error) => panic!("cannot connect: {error}"),
    };
    let own = stream.local_addr().unwrap();
    assert_eq!(ending(&mut stream), Ending::Reset);
    let record = gateway.record_of(own);
    assert_eq!((&record["reason"], &record["backend"]), (&"denied".into(), &().into()));
}

#[test]
fn who_is_denied_is_reset_and_who_is_not_allowed_too() {
    let server = Server::named("a");
    let lists =
        "allow = [\"127.78.7.0/24\", \"fd00::/8\"]\ndeny = [\"127.78.7.16/29\", \"127.78.7.1\"]";
    let (config, address) = guarded(&server, lists);
    let gateway = Gateway::start(&config);
    for last in [0, 2, 15, 24, 255] {
        assert_eq!(visit_from(source(last), address).unwrap(), "a", "{last}");
    }
    let others = ["127.78.6.255", "127.78.8.0", "127.0.0.1"].map(|text| text.parse().unwrap());
    let denied = [1, 16, 23].map(source).into_iter().chain(others);
    denied.for_each(|from| assert_denied(&gateway, from, address));
    let labels = [("listener", "web"), ("reason", "denied")];
    assert_eq!(gateway.metric("lockgate_connections_closed_total", &labels), 6.0);

    gateway.reload(config.to_string().replace("allow = [\"127.78.7.0/24\", \"fd00::/8\"]", ""));
    eventually("the new list is in use", || {
        visit_from("127.0.0.1".parse().unwrap(), address).is_ok()
    });
    assert!(visit_from(source(2), address).is_ok());
    assert_denied(&gateway, source(1), address);
}

/// Behind a proxy it is the client that is let in, not the proxy.
#[test]
fn lists_are_about_the_announced_client() {
    let server = Server::named("a");
    let lists = "accept_proxy_from = [\"127.78.7.9\"]\nallow = [\"192.0.2.0/24\", \"127.78.7.1\"]\n\
                 deny = [\"192.0.2.66\"]";
    let (config, address) = guarded(&server, lists);
    let gateway = Gateway::start(config);
    let announced = |client: &str| {
        let mut stream = connect_from(source(9), address).unwrap();
        stream.write_all(format!("PROXY TCP4 {client} 10.0.0.1 1 2\r\n").as_bytes()).unwrap();
        greeting(&mut stream).is_ok()
    };
    assert!(announced("192.0.2.1"));
    assert!(!announced("192.0.2.66"));
    assert!(!announced("198.51.100.1"));
    let records = gateway.await_records(2, "denied");
    assert_eq!(records[0]["client"], "192.0.2.66");
    // Who comes by itself is judged at once.
    assert!(visit_from(source(1), address).is_ok());
    assert_denied(&gateway, source(2), address);
    // What the proxy opens for itself is from the proxy.
    let mut own = connect_from(source(9), address).unwrap();
    own.write_all(b"PROXY UNKNOWN\r\n").unwrap();
    assert_eq!(ending(&mut own), Ending::Reset);
}

/// Puts a file in the place of another one, as a whole.
fn replace(path: &Path, text: &str) {
    let next = path.with_extension("next");
    fs::write(&next, text).unwrap();
    fs::rename(next, path).unwrap();
}

#[test]
fn files_are_watched_and_a_broken_one_is_refused() {
    let (server, store) = (Server::named("a"), Store::new());
    let file =
        store.file("enemies.txt", "# nobody likes them\n127.78.7.1\n\n127.78.7.4/30 # these\n");
    let lists = format!("deny = [{file:?}, \"127.78.7.100\"]");
    let (config, address) = guarded(&server, &lists);
    let gateway = Gateway::start(config);
    let passes = |last| visit_from(source(last), address).is_ok();
    let now = || [1, 2, 4, 7, 8, 100].map(passes);
    assert_eq!(now(), [false, true, false, false, true, false]);

    replace(&file, "127.78.7.2\r\n");
    eventually("the new list is in use", || now() == [true, false, true, true, true, false]);
    gateway.await_log("allow and deny go by changed files");

    // In place, and half of it is wrong.
    fs::write(&file, "127.78.7.8\nnot an address\n127.78.7.0/33\n").unwrap();
    gateway.await_log("changed files are refused, the lists in use stay");
    gateway.await_log("enemies.txt:2: 'not an address' is not an IP address or network");
    gateway.await_log("enemies.txt:3: '127.78.7.0/33' has no prefix of 0 to 32 bits");
    assert_eq!(now(), [true, false, true, true, true, false]);
    fs::remove_file(&file).unwrap();
    gateway.await_log("No such file");
    assert_eq!(now(), [true, false, true, true, true, false]);

    fs::write(&file, "127.78.7.8/32\n").unwrap();
    eventually("the next list is in use", || now() == [true, true, true, true, false, false]);
    // An empty one denies nobody.
    replace(&file, "");
    eventually("nobody is listed any more", || now() == [true, true, true, true, true, false]);
}

#[test]
fn a_list_of_friends_that_is_empty_is_no_list() {
    let (server, store) = (Server::named("a"), Store::new());
    let file = store.file("friends.txt", "127.78.7.1\n");
    let (config, address) = guarded(&server, &format!("allow = [{file:?}]"));
    let gateway = Gateway::start(config);
    replace(&file, "# the download has failed\n");
    gateway.await_log("nobody could come in");
    assert!(visit_from(source(1), address).is_ok());
    assert_denied(&gateway, source(2), address);
    let mut events = gateway.request("GET", "/v1/status").unwrap();
    assert_eq!(events.0, 200, "{}", std::mem::take(&mut events.1));
}

#[test]
fn a_hundred_thousand_networks_are_no_burden() {
    let (server, store) = (Server::named("a"), Store::new());
    let list = |skip: u32| {
        let mut text = String::new();
        for n in (0..100_000u32).filter(|n| *n != skip) {
            // Every other address of 10.0.0.0/8, and on: nothing can be merged.
            writeln!(text, "{}", Ipv4Addr::from(0x0a00_0000 + 2 * n)).unwrap();
        }
        text
    };
    let file = store.file("enemies.txt", format!("{}127.78.7.1\n", list(u32::MAX)));
    let lists = format!("accept_proxy_from = [\"127.78.7.9\"]\ndeny = [{file:?}]");
    let (config, address) = guarded(&server, &lists);
    let gateway = Gateway::start(config);
    assert_denied(&gateway, source(1), address);
    let announced = |n: u32| {
        let mut stream = connect_from(source(9), address).unwrap();
        let client = Ipv4Addr::from(0x0a00_0000 + n);
        stream.write_all(format!("PROXY TCP4 {client} 10.0.0.1 1 2\r\n").as_bytes()).unwrap();
        greeting(&mut stream).is_ok()
    };
    assert!(!announced(0) && announced(1) && !announced(199_998) && announced(199_999));
    assert!(announced(200_000) && !announced(54_322));
    let before = gateway.control_thread_time();
    replace(&file, &list(27_161));
    eventually("the new list is in use", || announced(54_322));
    let used = gateway.control_thread_time() - before;
    assert!(used < Duration::from_secs(2), "{used:?}");
    assert!(!announced(0) && visit_from(source(1), address).is_ok());
}

#[test]
fn what_cannot_be_read_is_told_before_it_is_needed() {
    let (server, store) = (Server::named("a"), Store::new());
    let good = store.file("good.txt", "10.0.0.1/8\n");
    let bad = store.file("bad.txt", "10.0.0.0/8\n10.0.0.0/8/8\nlocalhost\n");
    let lists = format!("allow = [{good:?}]\ndeny = [{bad:?}, \"/nowhere/at/all.txt\"]");
    let (config, _) = guarded(&server, &lists);
    let path = store.file("lockgate.toml", config.to_string());
    let check = output_of(Command::new(lockgate()).arg("check").arg("-c").arg(&path));
    let told = String::from_utf8(check.stderr).unwrap();
    assert_eq!(check.status.code(), Some(78), "{told}");
    for part in
        ["bad.txt:2: '10.0.0.0/8/8'", "bad.txt:3: 'localhost'", "/nowhere/at/all.txt: No such"]
    {
        assert!(told.contains(part), "{part}: {told}");
    }
    let (config, _) = guarded(&server, &format!("allow = [{good:?}]"));
    let path = store.file("lockgate.toml", config.to_string());
    let check = output_of(Command::new(lockgate()).arg("check").arg("-c").arg(&path));
    let told = String::from_utf8(check.stdout).unwrap();
    assert!(
        check.status.success() && told.contains("good.txt:1: the address has bits beyond"),
        "{told}"
    );
}
