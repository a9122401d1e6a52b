//! The package's service, under systemd itself.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::harness::machine::Machine;
use crate::harness::tls::{Authority, Files, visit_tls};
use crate::harness::{Config, Frozen, Server, connect, eventually, greeting, visit};

const SERVICE: &str = "lockgate.service";
const NAME: &str = "www.example.com";
const FLOATING: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 100));
const FIXED: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1));
const PLAIN: SocketAddr = SocketAddr::new(FLOATING, 80);
const SECURE: SocketAddr = SocketAddr::new(FLOATING, 443);

/// A machine with the package, and a configuration of all that a hardened unit may stand in the way
/// of: low ports, a key that root alone can read, a floating address with a MAC of its own.
struct Installed {
    machine: Machine,
    authority: Authority,
    config: String,
    _servers: [Server; 2],
}

impl Installed {
    fn new() -> Self {
        let machine = Machine::boot();
        let output = tempfile::tempdir().unwrap();
        fs::copy(super::package(output.path()), machine.path("/run/lockgate.deb")).unwrap();
        let told = machine.done(&["dpkg", "--install", "/run/lockgate.deb"]);
        assert!(told.contains("Setting up lockgate"), "{told}");

        let authority = Authority::new("test");
        let live = Path::new("/etc/letsencrypt/live");
        let outside = machine.path(live.to_str().unwrap());
        fs::create_dir_all(&outside).unwrap();
        fs::set_permissions(&outside, fs::Permissions::from_mode(0o700)).unwrap();
        Files::in_directory(&outside, NAME).write(&authority.issue(&[NAME]));

        let at = |port| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        let server = |port, echo| {
            machine.network.run(|| match echo {
                false => Server::named_at("a", at(port)),
                true => Server::new("echo", at(port), |mut stream| {
                    let mut byte = [0];
                    while stream.read(&mut byte)? > 0 {
                        stream.write_all(&byte)?;
                    }
                    Ok(())
                }),
            })
        };
        let servers = [server(3000, false), server(3001, true)];
        let config = Config::new(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 443))
            .tls(&[&Files::in_directory(live, NAME)], "")
            .backend(&servers[0], "")
            .to_string()
            + &format!(
                "[[listener]]\nname = \"plain\"\nbind = \"0.0.0.0:80\"\npool = \"app\"\n\
                 [[listener]]\nname = \"echo\"\nbind = \"0.0.0.0:7\"\npool = \"echo\"\n\
                 [[pool.echo.backend]]\naddress = \"{}\"\n\
                 [node.gateway]\naddress = \"10.9.0.1\"\npriority = 150\n\
                 [[vrrp]]\nname = \"public\"\ninterface = \"eth0\"\nvrid = 51\n\
                 addresses = [\"{FLOATING}/24\"]\nadvert_interval = \"100ms\"\n\
                 virtual_mac = true\nnotify = \"/usr/local/bin/notified\"\n",
                servers[1].address()
            );
        let program = machine.path("/usr/local/bin/notified");
        fs::write(&program, "#!/bin/sh\necho \"$*\" >> /var/lib/lockgate/notified\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let installed = Self { machine, authority, config, _servers: servers };
        installed.configure(&installed.config);
        installed
    }

    fn configure(&self, text: &str) {
        fs::write(self.machine.path("/etc/lockgate/lockgate.toml"), text).unwrap();
    }

    /// Waits until all of it is as it should be.
    #[track_caller]
    fn await_service(&self) {
        eventually("the address is there", || self.machine.network.has(FLOATING));
        eventually("it serves", || self.on_it(|| visit(PLAIN).is_ok_and(|name| name == "a")));
        let client = self.authority.client();
        let visit = self.on_it(|| visit_tls(&client, NAME, SECURE).unwrap());
        assert_eq!(visit.greeting, "a");
        assert_eq!(self.machine.property(SERVICE, "ActiveState"), "active");
    }

    /// Does something as a program of the machine would.
    fn on_it<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.machine.network.run(work)
    }

    /// A connection that lasts.
    fn hold(&self) -> TcpStream {
        let mut held = self.on_it(|| connect(SocketAddr::new(FIXED, 7)).unwrap());
        echo(&mut held);
        held
    }

    fn restarts(&self) -> u32 {
        self.machine.property(SERVICE, "NRestarts").parse().unwrap()
    }

    #[track_caller]
    fn await_restart(&self, count: u32) {
        eventually("it is started again", || self.restarts() == count);
        self.await_service();
    }
}

#[track_caller]
fn echo(held: &mut TcpStream) {
    held.write_all(b"x").unwrap();
    held.read_exact(&mut [0]).unwrap();
}

#[test]
fn the_service_is_started_reloaded_upgraded_stopped_and_removed() {
    let installed = Installed::new();
    let machine = &installed.machine;
    machine.done(&["systemctl", "enable", "--now", SERVICE]);
    installed.await_service();
    eventually("the program is told", || {
        let notified = fs::read_to_string(machine.path("/var/lib/lockgate/notified"));
        notified.unwrap_or_default().contains("INSTANCE public MASTER")
    });
    let status = machine.done(&["lockgate", "status"]);
    assert!(status.contains("master") && status.contains("echo"), "{status}");

    // An upgrade: another main process, and nobody has noticed.
    let mut held = installed.hold();
    let before = machine.main_process(SERVICE);
    // Another file in the place of the program, as a new version of the package has it.
    machine.done(&["dpkg", "--install", "/run/lockgate.deb"]);
    assert_eq!(machine.main_process(SERVICE), before);
    let told = machine.done(&["lockgate", "upgrade"]);
    assert!(told.contains("has taken over"), "{told}");
    echo(&mut held);
    assert_ne!(machine.main_process(SERVICE), before);
    installed.await_service();
    echo(&mut held);
    drop(held);
    eventually("the process before has ended", || !Path::new(&format!("/proc/{before}")).exists());
    assert_eq!(installed.restarts(), 0);

    // What the next process has to say is in the journal as well: with its priority, and without
    // a time of its own.
    machine.done(&["systemctl", "reload", SERVICE]);
    assert_eq!(machine.await_journal(SERVICE, "reloaded: no change"), 6);
    installed.configure(&installed.config.replace("priority = 150", "priority = 1500"));
    // With Type=notify nobody waits for what comes of it.
    machine.done(&["systemctl", "reload", SERVICE]);
    assert_eq!(machine.await_journal(SERVICE, "priority = 1500"), 3);
    for (priority, message) in machine.journal(SERVICE) {
        let events = ["INFO", "WARN", "ERROR"].iter().any(|level| message.contains(level));
        assert!(!events || !message.starts_with("20"), "<{priority}>{message}");
    }
    let metrics = machine.done(&["curl", "-sS", "http://127.0.0.1:8404/metrics"]);
    let lost: Vec<_> =
        metrics.lines().filter(|line| line.starts_with("lockgate_log_dropped_total")).collect();
    assert!(lost.len() == 4 && lost.iter().all(|line| line.ends_with(" 0")), "{lost:?}");
    installed.await_service();
    installed.configure(&installed.config);

    // A stop waits for what clients have with the last process, and with the one before.
    let mut older = installed.hold();
    machine.done(&["lockgate", "upgrade"]);
    let newer = installed.hold();
    thread::scope(|scope| {
        let stopping = scope.spawn(|| machine.done(&["systemctl", "stop", SERVICE]));
        machine.await_journal(SERVICE, "stopping: no new connections");
        eventually("the address goes first", || !machine.network.has(FLOATING));
        echo(&mut older);
        drop(newer);
        thread::sleep(Duration::from_millis(200));
        assert!(!stopping.is_finished());
        echo(&mut older);
        drop(older);
        stopping.join().unwrap();
    });
    assert_eq!(machine.property(SERVICE, "Result"), "success");
    machine.done(&["systemctl", "start", SERVICE]);
    installed.await_service();

    // Removing stops it.
    machine.done(&["dpkg", "--purge", "lockgate"]);
    assert!(!machine.network.has(FLOATING));
    assert_eq!(machine.property(SERVICE, "LoadState"), "not-found");
    let failed = machine.done(&["systemctl", "--failed", "--plain", "--no-legend"]);
    assert_eq!(failed, "");
}

#[test]
fn whatever_ends_it_systemd_starts_it_again() {
    let installed = Installed::new();
    let machine = &installed.machine;
    let directory = machine.path("/etc/systemd/system/lockgate.service.d");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("test.conf"), "[Service]\nWatchdogSec=5s\n").unwrap();
    machine.done(&["systemctl", "daemon-reload"]);
    machine.done(&["systemctl", "start", SERVICE]);
    installed.await_service();

    // Its guard goes with it, and the address.
    machine.done(&["systemctl", "kill", "--kill-whom=main", "--signal=KILL", SERVICE]);
    installed.await_restart(1);

    // The next process feeds the watchdog, and is believed.
    machine.done(&["lockgate", "upgrade"]);
    thread::sleep(Duration::from_secs(7));
    assert_eq!(installed.restarts(), 1);
    installed.await_service();

    // One worker is stuck: systemd hears nothing any more.
    let frozen = Frozen::thread(machine.main_process(SERVICE), "worker-1");
    machine.await_journal(SERVICE, "Watchdog timeout");
    // A thread that is traced cannot end without its tracer.
    drop(frozen);
    installed.await_restart(2);

    // A file that cannot be used keeps it from starting, and says why.
    installed.configure(&installed.config.replace("vrid = 51", "vrid = 0"));
    assert!(!machine.run(&["systemctl", "restart", SERVICE]).status.success());
    machine.await_journal(SERVICE, "vrid");
    assert!(!machine.network.has(FLOATING));
    installed.configure(&installed.config);
    eventually("it tries again by itself", || machine.network.has(FLOATING));
    installed.await_service();
}

#[test]
fn with_sockets_of_systemd_nobody_is_refused_while_it_is_restarted() {
    let installed = Installed::new();
    let machine = &installed.machine;
    let examples = "/usr/share/doc/lockgate/examples";
    let socket = fs::read_to_string(machine.path(&format!("{examples}/lockgate.socket"))).unwrap();
    fs::write(machine.path("/etc/systemd/system/lockgate.socket"), socket).unwrap();
    machine.done(&["systemctl", "daemon-reload"]);
    machine.done(&["systemctl", "enable", "--now", "lockgate.socket"]);
    machine.done(&["systemctl", "start", SERVICE]);
    installed.await_service();
    machine.done(&["lockgate", "upgrade"]);

    // On the address that does not move.
    let fixed = SocketAddr::new(FIXED, 80);
    let before = machine.main_process(SERVICE);
    let served = thread::scope(|scope| {
        let restarting = scope.spawn(|| machine.done(&["systemctl", "restart", SERVICE]));
        installed.on_it(|| {
            let mut served = 0;
            while !restarting.is_finished() {
                let mut stream = connect(fixed).expect("nobody is refused");
                // One that was accepted by the process that ends may be cut off.
                served += u32::from(greeting(&mut stream).is_ok());
                thread::sleep(Duration::from_millis(5));
            }
            served
        })
    });
    assert!(served > 0);
    assert_ne!(machine.main_process(SERVICE), before);
    installed.await_service();
}
