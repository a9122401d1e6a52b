//! A configuration file that is gone, half written, or no file at all when it is to be read again.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;

use crate::harness::{
    Config, Gateway, Launch, Server, begin_to_hang, held, until, unused_address, visit,
};

/// Has it read its file again as it is, and says whether it was taken over.
fn reload(gateway: &Gateway) -> bool {
    let count =
        |result| gateway.metric("lockgate_config_reloads_total", &[("result", result)]) as u64;
    let before = (count("ok"), count("failed"));
    gateway.signal(Signal::SIGHUP);
    until("the file is read again", || {
        let now = (count("ok"), count("failed"));
        (now != before).then_some(now.0 > before.0)
    })
}

fn take_away(path: &Path) {
    if path.is_dir() {
        fs::remove_dir(path).unwrap();
    } else if path.symlink_metadata().is_ok() {
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn whatever_is_in_its_place_the_gateway_goes_on_and_says_so() {
    type Spoil = fn(&Path, &str);
    let spoilt: [(Spoil, &str); 9] = [
        (|_, _| {}, "no such file"),
        (|path, good| fs::write(path, &good[..good.len() / 2]).unwrap(), "error"),
        (|path, _| fs::write(path, "").unwrap(), "error"),
        (|path, _| fs::create_dir(path).unwrap(), "it is a directory"),
        (|path, _| mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap(), "not an ordinary file"),
        (|path, _| symlink("/dev/zero", path).unwrap(), "not an ordinary file"),
        (|path, _| symlink(path, path).unwrap(), "symbolic link"),
        (|path, _| fs::write(path, vec![b'#'; 5 << 20]).unwrap(), "larger than 4 MiB"),
        (|path, _| fs::write(path, b"\x7fELF\x02\x01\xff\xfe").unwrap(), "not UTF-8"),
    ];
    let (server, address) = (Server::named("a"), unused_address());
    let gateway = Gateway::start(Config::new(address).backend(&server, ""));
    let path = gateway.config_path();
    let good = fs::read_to_string(&path).unwrap();
    let (_open, _) = held(address).unwrap();
    for (spoil, said) in spoilt {
        take_away(&path);
        spoil(&path, &good);
        let before = gateway.stderr().len();
        assert!(!reload(&gateway), "it was taken over: {said}");
        let told = until(&format!("{said} is told"), || {
            let told = gateway.stderr()[before..].to_owned();
            told.contains(said).then_some(told)
        });
        assert!(told.contains("the running configuration stays"), "{told}");
        assert_eq!(visit(address).unwrap(), "a", "{said}");
        assert_eq!(gateway.status()["generation"], 1, "{said}");
    }
    take_away(&path);
    fs::write(&path, good).unwrap();
    assert!(reload(&gateway), "a good file is taken over again");
    assert_eq!(gateway.status()["generation"], 2);
}

#[test]
fn a_file_that_changes_while_it_is_read_is_taken_whole_or_not_at_all() {
    let (server, address) = (Server::named("a"), unused_address());
    let gateway = Gateway::start(Config::new(address).backend(&server, ""));
    let path = gateway.config_path();
    let good = fs::read_to_string(&path).unwrap();
    let half = good.len() / 2;
    for _ in 0..50 {
        // As an editor would that writes in place, in two pieces.
        fs::write(&path, &good[..half]).unwrap();
        gateway.signal(Signal::SIGHUP);
        fs::write(&path, &good).unwrap();
        assert_eq!(visit(address).unwrap(), "a");
    }
    assert!(reload(&gateway) || reload(&gateway), "the whole file is taken over");
    assert_eq!(visit(address).unwrap(), "a");
}

#[test]
fn a_file_system_that_hangs_holds_up_nothing_that_does_not_need_it() {
    let root = TempDir::with_prefix("lockgate-").unwrap();
    let (list, other) = (root.path().join("inner/list"), root.path().join("other"));
    let inner = list.parent().unwrap();
    fs::create_dir(inner).unwrap();
    fs::write(&list, "192.0.2.1\n").unwrap();
    fs::write(&other, "192.0.2.2\n").unwrap();
    let (server, address) = (Server::named("a"), unused_address());
    let config = |lists: &str| Config::new(address).backend(&server, "").listener(lists);
    let both = config(&format!("deny = [{list:?}]\nallow = [\"127.0.0.0/8\", {other:?}]"));
    let mut gateway = Launch::new(both).under(&["unshare", "--mount"]).start();
    let mut hanging = begin_to_hang(gateway.pid(), inner).args(["sleep", "600"]).spawn().unwrap();
    gateway.await_log("the file system of one of these files hangs");

    // It is told of once, and all goes on.
    assert_eq!(visit(address).unwrap(), "a");
    assert_eq!(gateway.request("GET", "/healthz").unwrap().0, 200);
    let log = gateway.stderr().len();
    assert!(!reload(&gateway), "lists that cannot be read were taken over");
    gateway.await_log(&format!("{}: no answer for 5 s", list.display()));
    assert_eq!(visit(address).unwrap(), "a");
    assert!(!gateway.stderr()[log..].contains("one of these files hangs"));
    gateway.reload(config(&format!("allow = [\"127.0.0.0/8\", {other:?}]")));
    fs::write(&other, "192.0.2.2\n192.0.2.3\n").unwrap();
    gateway.await_log("allow and deny go by changed files");

    // Threads that hang are not waited for.
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.wait().success());
    hanging.kill().unwrap();
    hanging.wait().unwrap();
}
