//! What a pair tells: status, metrics, events, programs that are run.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::harness::lan::{FLOATING, GATEWAYS, Lan, await_vrrp, config, pair, public};
use crate::harness::{Events, eventually, lockgate, output_of};

#[test]
fn status_and_metrics_tell_who_has_the_address_since_when_and_why() {
    let lan = Lan::new();
    let server = lan.server("a", 7000);
    let [gw1, gw2] = lan.pair(config().backend(&server, "").to_string() + &pair(""));
    assert_eq!(gw1.status()["node"], "gw1");
    assert_eq!(gw2.status()["node"], "gw2");

    let master = public(&gw1);
    for (field, value) in [
        ("interface", "eth0".into()),
        ("vrid", 51.into()),
        ("version", 3.into()),
        ("state", "master".into()),
        ("priority", 150.into()),
        ("effective_priority", 150.into()),
        ("addresses", vec![format!("{FLOATING}/24")].into()),
        ("master", GATEWAYS[0].to_string().into()),
        ("cause", "master_timeout".into()),
        ("reason", serde_json::Value::Null),
    ] {
        assert_eq!(master[field], value, "{field} of {master:#}");
    }
    assert!(master["since"].as_str().unwrap().contains('T'), "{master}");
    eventually("the backup knows the master", || public(&gw2)["master"] == GATEWAYS[0].to_string());

    let of = [("instance", "public")];
    for (gateway, state, priority, to) in
        [(&gw1, 2.0, 150.0, "master"), (&gw2, 1.0, 100.0, "backup")]
    {
        assert_eq!(gateway.metric("lockgate_vrrp_state", &of), state);
        assert_eq!(gateway.metric("lockgate_vrrp_priority", &of), priority);
        let labels = [of[0], ("to", to)];
        assert_eq!(gateway.metric("lockgate_vrrp_transitions_total", &labels), 1.0);
        for reason in ["ttl", "checksum", "vrid", "not_a_peer"] {
            let labels = [of[0], ("reason", reason)];
            assert_eq!(gateway.metric("lockgate_vrrp_advert_errors_total", &labels), 0.0);
        }
    }
    let adverts = |gateway: &crate::harness::Gateway, direction| {
        gateway.metric("lockgate_vrrp_adverts_total", &[of[0], ("direction", direction)])
    };
    eventually("the master sends and the backup receives", || {
        adverts(&gw1, "out") > 5.0 && adverts(&gw2, "in") > 5.0
    });
    assert_eq!((adverts(&gw1, "in"), adverts(&gw2, "out")), (0.0, 0.0));

    let screen = output_of(Command::new(lockgate()).args(["status", "-c"]).arg(gw1.config_path()));
    let screen = String::from_utf8_lossy(&screen.stdout).into_owned();
    assert!(screen.contains("node gw1"), "{screen}");
    let line = screen.lines().find(|line| line.contains("vrid 51")).unwrap();
    for part in ["public", "master", "150", "10.7.0.11", "10.7.0.100/24", "master_timeout"] {
        assert!(line.contains(part), "{part} in {screen}");
    }
}

#[test]
fn every_change_is_an_event_with_its_cause_and_time() {
    let lan = Lan::new();
    let mut server = lan.server("a", 7000);
    let health = r#"health = { type = "tcp", interval = "100ms", fast_interval = "50ms" }"#;
    let text = config().pool(health).backend(&server, "").to_string() + &pair("");
    let [gw1, gw2] = lan.pair(&text);
    let events = Events::of(&gw2);

    server.kill();
    let down = events.await_event(&[("kind", "backend"), ("backend", "a"), ("to", "down")]);
    assert!(!down["cause"].as_str().unwrap().is_empty(), "{down}");

    gw2.reload(text.replace("50ms", "60ms"));
    let reload = events.await_event(&[("kind", "reload"), ("result", "ok")]);
    assert_eq!((&reload["generation"], &reload["cause"]), (&2.into(), &"~1 pool".into()));
    assert!(!gw2.try_reload("[log]\nlevel = 1\n"));
    events.await_event(&[("kind", "reload"), ("result", "failed")]);

    gw1.signal(Signal::SIGKILL);
    let fields = [("kind", "vrrp"), ("event", "transition"), ("instance", "public")];
    let taken = events.await_event(&[fields[0], fields[1], fields[2], ("to", "master")]);
    assert_eq!(taken["from"], "backup");
    // The guard of the killed one says good-bye in its place, unless time is quicker.
    let cause = taken["cause"].as_str().unwrap();
    assert!(["master_timeout", "master_released"].contains(&cause), "{taken}");
    assert!(taken["time"].as_str().unwrap().ends_with('Z'), "{taken}");
    assert_eq!(public(&gw2)["cause"], cause);

    gw2.signal(Signal::SIGTERM);
    events.await_event(&[("kind", "gateway"), ("to", "draining")]);
    events.await_event(&[fields[0], fields[1], ("to", "init"), ("cause", "shutdown")]);
}

#[test]
fn listeners_that_leave_make_room_for_others() {
    let lan = Lan::new();
    let server = lan.server("a", 7000);
    let gateway = lan.start(0, config().backend(&server, "").to_string() + &pair(""));
    let listen = || {
        let mut stream = gateway.connect_admin().unwrap();
        stream.write_all(b"GET /v1/events HTTP/1.0\r\n\r\n").unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap();
        (stream, String::from_utf8_lossy(&status[9..]).into_owned())
    };
    let crowd: Vec<_> = (0..64).map(|_| listen()).collect();
    assert!(crowd.iter().all(|(_, status)| status == "200"));
    assert_eq!(listen().1, "503");
    drop(crowd);
    eventually("there is room again", || listen().1 == "200");
}

#[test]
fn a_program_is_told_in_order() {
    let lan = Lan::new();
    let server = lan.server("a", 7000);
    let directory = tempfile::tempdir().unwrap();
    let (program, told) = (directory.path().join("notify"), directory.path().join("told"));
    fs::write(&program, format!("#!/bin/sh\necho \"$@\" >> {}\n", told.display())).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let lines = format!("notify = {program:?}");
    let text = config().backend(&server, "").to_string() + &pair(&lines);
    let mut gateway = lan.start(0, &text);
    await_vrrp(&gateway, "master");
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.wait().success());
    let told = fs::read_to_string(&told).unwrap();
    let lines: Vec<_> = told.lines().collect();
    assert_eq!(lines[..2], ["INSTANCE public BACKUP 150", "INSTANCE public MASTER 150"], "{told}");
}
