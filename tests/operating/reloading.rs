//! Reloads by command, and what a reload would change.

use std::fs;

use super::{done, order, run};
use crate::harness::{Config, Events, Gateway, Server, held, unused_address, visit};

#[test]
fn reload_tells_what_changed_and_check_diff_tells_it_before() {
    let servers = ["a", "b"].map(Server::named);
    let (address, other) = (unused_address(), unused_address());
    let gateway =
        Gateway::start(Config::new(address).backend(&servers[0], "").backend(&servers[1], ""));
    let clients = [held(address).unwrap(), held(address).unwrap()];
    let events = Events::of(&gateway);
    let second = format!("[[listener]]\nname = 'second'\nbind = ['{other}']\npool = 'app'\n");
    let config = Config::new(address).pool("retries = 5").backend(&servers[0], "").to_string();
    fs::write(gateway.config_path(), gateway.complete(format!("{config}{second}"))).unwrap();

    let out = done(&gateway, &["check", "--diff"]);
    for line in [
        "+ listener second\n",
        "~ pool app\n",
        "- backend app/b: 1 connection would go on\n",
        "a reload would say: +1 listener, ~1 pool, -1 backend: 1 connection draining\n",
    ] {
        assert!(out.contains(line), "{line:?} is missing in {out}");
    }
    assert_eq!(gateway.status()["generation"], 1, "nothing has been done");

    let out = done(&gateway, &["reload"]);
    assert_eq!(out, "+1 listener, ~1 pool, -1 backend: 1 connection draining\n");
    assert!(visit(other).is_ok());
    let event = events.await_event(&[("kind", "reload"), ("result", "ok")]);
    assert!(event["who"].as_str().unwrap().starts_with("uid "), "{event}");
    assert!(done(&gateway, &["check", "--diff"]).contains("a reload would say: no change"));
    let last = gateway.status()["reloads"].clone();
    assert_eq!((&last["ok"], &last["last"]["result"]), (&1.into(), &"ok".into()));
    drop(clients);
}

#[test]
fn a_reload_of_a_wrong_file_tells_every_mistake_and_changes_nothing() {
    let server = Server::named("a");
    let address = unused_address();
    let gateway = Gateway::start(Config::new(address).backend(&server, ""));
    let wrong = Config::new(address).pool("retires = 5\nbalance = 'luck'").backend(&server, "");
    fs::write(gateway.config_path(), gateway.complete(wrong)).unwrap();
    let (code, out, err) = run(&gateway, &["reload"]);
    assert_eq!(code, 78, "{out}{err}");
    for expected in ["retires", "did you mean 'retries'", "'luck'", "2 errors in"] {
        assert!(err.contains(expected), "{expected:?} is missing in {err}");
    }
    let (status, answer) = order(&gateway, "POST", "/v1/reload", "");
    assert_eq!(status, 422);
    assert_eq!(answer["errors"].as_array().unwrap().len(), 2, "{answer}");
    assert_eq!(run(&gateway, &["check", "--diff"]).0, 78);
    assert!(visit(address).is_ok());
    let status = gateway.status();
    assert_eq!((&status["generation"], &status["reloads"]["failed"]), (&1.into(), &2.into()));

    fs::remove_file(gateway.config_path()).unwrap();
    let (status, answer) = order(&gateway, "POST", "/v1/reload", "{}");
    assert_eq!(status, 422);
    assert!(answer["error"].as_str().unwrap().contains("no such file"), "{answer}");
}

#[test]
fn without_a_gateway_commands_say_so() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("lockgate.toml");
    let socket = directory.path().join("admin.sock");
    let text = "[[listener]]\nname = 'web'\nbind = '127.0.0.1:1'\npool = 'app'\n\
                [[pool.app.backend]]\nname = 'a'\naddress = '127.0.0.1:2'\n";
    fs::write(&config, format!("admin.socket = {socket:?}\nadmin.http = ''\n{text}")).unwrap();
    for arguments in [
        &["reload"][..],
        &["drain", "app/a"],
        &["enable", "--node"],
        &["weight", "app/a", "1"],
        &["handover"],
        &["check", "--diff"],
    ] {
        let mut command = std::process::Command::new(crate::harness::lockgate());
        let output = crate::harness::output_of(command.args(arguments).arg("-c").arg(&config));
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(69), "{arguments:?}: {error}");
        assert!(error.contains("no gateway answers on"), "{error}");
    }
}
