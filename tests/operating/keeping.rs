//! What operators set outlives the process.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

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

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// What somebody else could put where the file is, or is written first.
#[test]
fn what_others_have_put_into_the_state_directory_is_neither_followed_nor_waited_for() {
    type Spoil = fn(&Path, &Path);
    let spoilt: [Spoil; 3] = [
        |place, other| symlink(other, place).unwrap(),
        |place, _| mkfifo(place, Mode::S_IRWXU).unwrap(),
        |place, _| fs::create_dir(place).unwrap(),
    ];
    let servers = ["a", "b"].map(Server::named);
    for spoil in spoilt {
        let directory = tempfile::tempdir().unwrap();
        let (state, other) = (directory.path().join("state"), directory.path().join("other"));
        fs::create_dir(&state).unwrap();
        fs::write(&other, "precious").unwrap();
        spoil(&state.join("state.json"), &other);
        spoil(&state.join("state.json.new"), &other);
        let gateway = Gateway::start(config(&servers).runtime(&format!("state_dir = {state:?}")));
        gateway.await_log("the state file is of no use");
        done(&gateway, &["drain", "app/a"]);
        let found = fs::symlink_metadata(state.join("state.json")).unwrap();
        assert!(found.is_file());
        assert_eq!(found.permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_to_string(&other).unwrap(), "precious");
        assert_eq!(gateway.start_again().backend("a")["state"], "draining");
    }
}

/// A volume of a container is often like that.
#[test]
fn a_state_directory_that_everybody_may_write_to_is_warned_of_and_what_others_put_there_is_not_read()
 {
    let servers = ["a", "b"].map(Server::named);
    let directory = tempfile::tempdir().unwrap();
    let (path, file) = (directory.path(), directory.path().join("state.json"));
    let planted = r#"{"version": 1, "backends": {"app": {"a": {"state": "disabled", "by": "x",
        "since": "y"}}}}"#;
    let is_root = nix::unistd::geteuid().is_root();
    for mode in [0o777, 0o1777] {
        fs::write(&file, planted).unwrap();
        // As somebody else could have written it, or be about to.
        match is_root {
            true => chown(&file, Some(12345), None).unwrap(),
            false => set_mode(&file, 0o666),
        }
        set_mode(path, mode);
        let gateway = Gateway::start(config(&servers).runtime(&format!("state_dir = {path:?}")));
        gateway.await_log("is writable by all users (chmod o-w ");
        gateway.await_log("the state file is of no use");
        assert_eq!(gateway.backend("a")["state"], "unchecked", "what is planted is not read");
        done(&gateway, &["drain", "app/b"]);
        let gateway = gateway.start_again();
        assert_eq!(gateway.backend("b")["state"], "draining", "its own is");
    }
}

/// Whatever the mask: what the gateway makes is for itself.
#[test]
fn what_is_made_has_a_mode_of_its_own_whatever_the_umask() {
    let servers = ["a", "b"].map(Server::named);
    for mask in ["0", "077"] {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("var/state");
        let log = directory.path().join("log");
        let config = config(&servers).runtime(&format!("state_dir = {state:?}"));
        let umask = format!("umask {mask}; exec \"$@\"");
        let launch = Launch::new(config).under(&["sh", "-c", &umask, "sh"]);
        let gateway = launch.log(&format!("log.access_file = {log:?}")).start();
        done(&gateway, &["drain", "app/a"]);
        let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&state), 0o700, "{mask}");
        assert_eq!(mode(&state.join("state.json")), 0o600, "{mask}");
        assert_eq!(mode(state.parent().unwrap()), 0o755, "{mask}");
        assert_eq!(mode(&gateway.config_path().with_file_name("admin.sock")), 0o600, "{mask}");
        assert_eq!(mode(&log) & 0o027, 0, "{mask}");
    }
}
