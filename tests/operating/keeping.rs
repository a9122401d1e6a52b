//! What operators set outlives the process.

use std::fs;

use super::{done, order, run};
use crate::harness::{Config, Gateway, Launch, Server, eventually, unused_address, visit};

fn config(servers: &[Server; 2]) -> Config {
    Config::new(unused_address()).backend(&servers[0], "").backend(&servers[1], "")
}

#[test]
fn what_is_set_is_there_again_after_a_restart_with_who_set_it() {
    let servers = ["a", "b"].map(Server::named);
    let address = unused_address();
    let config = Config::new(address).backend(&servers[0], "").backend(&servers[1], "");
    let gateway = Gateway::start(config);
    done(&gateway, &["drain", "app/a"]);
    done(&gateway, &["weight", "app/b", "7"]);
    let before = (gateway.backend("a")["set"].clone(), gateway.backend("b")["set"].clone());
    let gateway = gateway.start_again();
    let (a, b) = (gateway.backend("a"), gateway.backend("b"));
    assert_eq!((a["set"].clone(), b["set"].clone()), before);
    assert_eq!((&a["state"], &b["weight"]), (&"draining".into(), &7.into()));
    assert!(a["set"]["by"].as_str().unwrap().contains("pid"), "{a}");
    assert_eq!(visit(address).unwrap(), "b");
    gateway.await_log("set, as it was before");
    done(&gateway, &["enable", "app/a"]);
    done(&gateway, &["weight", "app/b", "file"]);
    let gateway = gateway.start_again();
    assert!(gateway.backend("a")["set"].is_null() && gateway.backend("b")["set"].is_null());
    assert_eq!(gateway.backend("a")["state"], "unchecked");
}

#[test]
fn what_is_set_survives_a_reload_and_is_forgotten_with_its_backend() {
    let servers = ["a", "b"].map(Server::named);
    let config = config(&servers);
    let gateway = Gateway::start(&config);
    done(&gateway, &["disable", "app/a"]);
    done(&gateway, &["weight", "app/b", "9"]);
    gateway.reload(config.clone().pool("retries = 1"));
    assert_eq!(gateway.backend("a")["state"], "disabled");
    assert_eq!(gateway.backend("b")["weight"], 9);
    // Another address is another backend, of which the same is wanted.
    let moved = Server::named("elsewhere");
    let elsewhere = Config::new(unused_address())
        .backend_at("a", &moved.address().to_string(), "")
        .backend(&servers[1], "");
    gateway.reload(&elsewhere);
    assert_eq!(gateway.backend("a")["state"], "disabled");
    gateway.reload(Config::new(unused_address()).backend(&servers[1], ""));
    gateway.await_log("what was set for it is forgotten");
    gateway.reload(&config);
    assert_eq!(gateway.backend("a")["state"], "unchecked");
    assert_eq!(gateway.backend("b")["weight"], 9);
}

#[test]
fn a_state_file_that_is_broken_is_set_aside_and_told_of() {
    let servers = ["a", "b"].map(Server::named);
    let gateway = Gateway::start(config(&servers));
    done(&gateway, &["drain", "app/a"]);
    let file = gateway.state_dir().join("state.json");
    fs::write(&file, "{ \"version\": 1, \"backends\": [").unwrap();
    let gateway = gateway.start_again();
    assert_eq!(gateway.backend("a")["state"], "unchecked");
    gateway.await_log("the state file is of no use");
    let entries = fs::read_dir(gateway.state_dir()).unwrap();
    let names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().any(|name| name.starts_with("state.json.broken-")), "{names:?}");
    // And it goes on as if there had been none.
    done(&gateway, &["drain", "app/b"]);
    assert!(file.exists());
}

#[test]
fn without_a_state_directory_a_change_ends_with_the_process() {
    let servers = ["a", "b"].map(Server::named);
    let gateway = Gateway::start(config(&servers).runtime("state_dir = ''"));
    assert!(done(&gateway, &["drain", "app/a"]).contains("this ends with the process"));
    let gateway = gateway.start_again();
    assert_eq!(gateway.backend("a")["state"], "unchecked");
}

/// In a mount namespace of its own, on a file system that is full.
#[test]
fn on_a_full_disk_a_change_is_refused_and_nothing_has_changed() {
    let servers = ["a", "b"].map(Server::named);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    let mount = format!("mount -t tmpfs -o size=16k none {path} && exec \"$@\"");
    let config = config(&servers).runtime(&format!("state_dir = {path:?}"));
    let gateway = Launch::new(config).under(&["unshare", "-m", "sh", "-c", &mount, "sh"]).start();
    done(&gateway, &["drain", "app/a"]);
    let inside = format!("/proc/{}/root{path}", gateway.pid());
    let full = fs::write(format!("{inside}/filler"), vec![0_u8; 64 << 10]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    let before = fs::read(format!("{inside}/state.json")).unwrap();

    let (code, out, err) = run(&gateway, &["drain", "app/b"]);
    assert_eq!(code, 71, "{out}{err}");
    assert!(err.contains("this cannot be kept in runtime.state_dir, so it is not done"), "{err}");
    assert!(err.contains("No space left on device"), "{err}");
    let path = "/v1/pools/app/backends/b";
    assert_eq!(order(&gateway, "POST", path, r#"{"weight": 3}"#).0, 507);
    assert_eq!(gateway.backend("b")["state"], "unchecked");
    assert_eq!(gateway.backend("b")["weight"], 100);
    assert_eq!(fs::read(format!("{inside}/state.json")).unwrap(), before);

    fs::remove_file(format!("{inside}/filler")).unwrap();
    done(&gateway, &["drain", "app/b"]);
    eventually("it is drained", || gateway.backend("b")["state"] == "draining");
}

#[test]
fn a_state_directory_that_cannot_be_made_is_a_warning_until_a_change_is_asked_for() {
    let servers = ["a", "b"].map(Server::named);
    let config = config(&servers).runtime("state_dir = '/dev/null/state'");
    let gateway = Gateway::start(config);
    gateway.await_log("runtime.state_dir: ");
    let (code, _, err) = run(&gateway, &["disable", "app/a"]);
    assert_eq!(code, 71, "{err}");
    assert_eq!(gateway.backend("a")["state"], "unchecked");
}
