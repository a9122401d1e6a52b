//! The clock of the wall is set an hour on and an hour back under a running gateway: what waits,
//! waits as long as it should, since it goes by the clock that nobody sets.
//!
//! The machine's clock is everybody's, and no namespace has a clock of the wall of its own. So the
//! gateway is started with libfaketime, which answers `clock_gettime(CLOCK_REALTIME)` in its place, by
//! a file that the test writes, and leaves `CLOCK_MONOTONIC` alone. That it took effect is seen in the
//! times of the records.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

use crate::harness::tls::{Authority, Store, visit_tls};
use crate::harness::{
    Config, Launch, PATIENCE, Server, connect, eventually, held, unused_address, visit,
};

const HOUR: i64 = 3_600;

/// Where Debian has it, whatever the machine.
fn library() -> PathBuf {
    let entries = fs::read_dir("/usr/lib").unwrap().flatten();
    let found = entries.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"));
    found.into_iter().find(|path| path.exists()).expect("libfaketime (scripts/setup installs it)")
}

/// How far a time is from now, in seconds.
fn off(time: &str) -> f64 {
    let time = humantime::parse_rfc3339(time).unwrap();
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    seconds(time) - seconds(SystemTime::now())
}

struct Wall(TempDir);

impl Wall {
    fn file(&self) -> PathBuf {
        self.0.path().join("offset")
    }

    /// From now on the clock is off by so many seconds.
    fn step(&self, seconds: i64) {
        let new = self.0.path().join("new");
        fs::write(&new, format!("{seconds:+}\n")).unwrap();
        fs::rename(&new, self.file()).unwrap();
    }
}

fn under(library: &Path, file: &Path) -> [String; 6] {
    [
        "env".to_owned(),
        format!("LD_PRELOAD={}", library.display()),
        format!("FAKETIME_TIMESTAMP_FILE={}", file.display()),
        "FAKETIME_NO_CACHE=1".to_owned(),
        "DONT_FAKE_MONOTONIC=1".to_owned(),
        "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
    ]
}

#[test]
fn an_hour_on_and_an_hour_back_changes_nothing_that_waits() {
    let wall = Wall(TempDir::with_prefix("lockgate-").unwrap());
    wall.step(0);
    let (server, silent) = (Server::named("a"), Server::named("silent"));
    let (address, tls, short) = (unused_address(), unused_address(), unused_address());
    let (authority, store) = (Authority::new("authority"), Store::new());
    let files = store.put("site", &authority.issue(&["www.example.com"]));
    let config = Config::new(tls)
        .tls(&[&files], "")
        .pool("health = { type = \"tcp\", interval = \"200ms\", timeout = \"1s\" }")
        .pool("passive = { max_fails = 1000 }")
        .backend(&server, "");
    let others = format!(
        "[[listener]]\nname = \"plain\"\nbind = \"{address}\"\npool = \"app\"\n\
         idle_timeout = \"10m\"\n\
         [[listener]]\nname = \"short\"\nbind = \"{short}\"\npool = \"silent\"\n\
         idle_timeout = \"1s\"\n\
         [[pool.silent.backend]]\naddress = \"{}\"\n",
        silent.address()
    );
    let under = under(&library(), &wall.file());
    let under: Vec<&str> = under.iter().map(String::as_str).collect();
    let gateway = Launch::new(format!("{config}{others}")).under(&under).start();
    let client = authority.client();
    let (mut kept, _) = held(address).unwrap();
    let checks = || gateway.metric("lockgate_backend_health_checks_total", &[("backend", "a")]);

    for seconds in [HOUR, -HOUR, 0] {
        wall.step(seconds);
        let stepped = Instant::now();
        // It has taken effect.
        let from = {
            let mut stream = connect(address).unwrap();
            let name = stream.local_addr().unwrap();
            stream.read_exact(&mut [0; 2]).unwrap();
            name
        };
        let record = gateway.record_of(from);
        let shown = off(record["time"].as_str().unwrap());
        assert!((shown - seconds as f64).abs() < 60.0, "{record} is off by {shown}");
        assert!(record["duration_ms"].as_f64().unwrap() < 30_000.0, "{record}");
        // Checks go on at their pace: none is put off by an hour, and they do not all come at once.
        let before = checks();
        eventually("checks go on", || checks() >= before + 5.0);
        let passed = stepped.elapsed().as_secs_f64();
        assert!(checks() - before < 20.0 + passed * 10.0, "{} in {passed} s", checks() - before);
        // What is due is done, and not before.
        let (mut idle, _) = held(short).unwrap();
        let began = Instant::now();
        assert!(idle.read(&mut [0]).map_or(true, |count| count == 0));
        assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
        assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
        // Handshakes, resumed ones too: a ticket of another hour is made with another key.
        for _ in 0..3 {
            assert_eq!(visit_tls(&client, "www.example.com", tls).unwrap().greeting, "a");
        }
        assert_eq!(visit(address).unwrap(), "a");
        assert_eq!(gateway.backend("a")["state"], "up");
        let uptime = gateway.status()["uptime_seconds"].as_f64().unwrap();
        assert!(uptime < 600.0, "up for {uptime} s");
    }
    assert!(crate::harness::stays_silent(&kept), "what was open is open");
    kept.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(kept.read(&mut [0]).unwrap(), 0);
}
