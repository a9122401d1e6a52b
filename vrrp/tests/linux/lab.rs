//! Hosts on a switch, made of network namespaces.
//!
//! ```text
//!    one            two           client
//!  10.0.0.1       10.0.0.2       10.0.0.3
//!  eth0 │         eth0 │         eth0 │
//!       └──────────────┼──────────────┘
//!                    switch
//! ```
//!
//! The client sees what is sent to all. Dropping the lab takes everything away, also when the
//! test panics.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use socket2::{Domain, Protocol, Socket, Type};

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Has something become the case, in time?
pub fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !check() {
        assert!(begin.elapsed() < PATIENCE, "not in time: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

pub struct Lab {
    switch: Host,
    pub one: Host,
    pub two: Host,
    pub client: Host,
}

impl Lab {
    pub fn new() -> Self {
        assert!(Uid::effective().is_root(), "tests with network namespaces need root");
        let [switch, one, two, client] = ["switch", "one", "two", "client"].map(Host::new);
        switch.ip("link add dev br0 type bridge mcast_snooping 0");
        switch.ip("link set br0 up");
        for (host, number) in [(&one, 1), (&two, 2), (&client, 3)] {
            let port = format!("port{number}");
            let name = &host.name;
            switch.ip(&format!("link add dev {port} type veth peer name eth0 netns {name}"));
            switch.ip(&format!("link set dev {port} master br0 up"));
            host.ip(&format!("link set dev eth0 address 02:00:00:00:00:0{number}"));
            host.ip("link set dev eth0 up");
            host.ip(&format!("addr add 10.0.0.{number}/24 dev eth0"));
            host.ip(&format!("addr add 2001:db8::{number}/64 dev eth0 nodad"));
        }
        Self { switch, one, two, client }
    }

    /// Takes the cable out of a host, or puts it in again.
    pub fn plug(&self, number: u32, is_in: bool) {
        let state = if is_in { "up" } else { "down" };
        self.switch.ip(&format!("link set dev port{number} {state}"));
    }
}

pub struct Host {
    pub name: String,
}

impl Host {
    fn new(role: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("lgvrrp-{}-{number}-{role}", process::id());
        ip(&format!("netns add {name}"));
        let host = Self { name };
        host.ip("link set lo up");
        host.run(|| {
            for conf in ["all", "default"] {
                let file = format!("/proc/sys/net/ipv6/conf/{conf}/accept_dad");
                fs::write(file, "0").unwrap();
            }
        });
        host
    }

    pub fn ip(&self, arguments: &str) -> String {
        ip(&format!("-n {} {arguments}", self.name))
    }

    pub fn has(&self, address: &str) -> bool {
        self.ip("-o addr show").contains(&format!(" {address}/"))
    }

    /// Does something here, on a thread of its own.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(format!("/run/netns/{}", self.name)).unwrap();
        let outcome = thread::scope(|scope| {
            let moved = scope.spawn(|| {
                setns(file, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            moved.join()
        });
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Everything that is received here from now on.
    pub fn capture(&self) -> Capture {
        let socket = self.run(|| {
            let all = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
            Socket::new(Domain::PACKET, Type::RAW, Some(all)).unwrap()
        });
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        socket.set_recv_buffer_size(8 << 20).unwrap();
        Capture { socket, frames: VecDeque::new() }
    }

    /// Starts the router of the example here.
    pub fn router(&self, arguments: &str) -> Router {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(std::env::current_exe().unwrap());
        command.args(["--exact", "process::router", "--nocapture"]);
        command.env(crate::process::ARGUMENTS, arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let (out, all) = (child.stdout.take().unwrap(), Arc::clone(&lines));
        thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                all.lock().unwrap().push(line);
            }
        });
        let router = Router { child, lines };
        router.wait_for("started");
        router
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Nothing here may panic.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A router that runs.
pub struct Router {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Router {
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    pub fn count(&self, beginning: &str) -> usize {
        self.lines().iter().filter(|line| line.starts_with(beginning)).count()
    }

    pub fn wait_for(&self, beginning: &str) {
        self.wait_for_count(beginning, 1);
    }

    pub fn wait_for_count(&self, beginning: &str, count: usize) {
        let begin = Instant::now();
        while self.count(beginning) < count {
            let lines = self.lines();
            assert!(begin.elapsed() < PATIENCE, "no {count} '{beginning}' in {lines:#?}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn say(&mut self, command: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{command}").unwrap();
    }

    /// Two lines: what is the case, and with strays.
    pub fn status(&mut self) -> String {
        let before = self.count("strays");
        self.say("status");
        self.wait_for_count("strays", before + 1);
        let lines = self.lines();
        let last = lines.iter().rposition(|line| line.starts_with("strays")).unwrap();
        lines[last - 1..=last].join("\n")
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// The process that guards it.
    pub fn guard(&self) -> Option<i32> {
        let numbers = fs::read_dir("/proc").unwrap().flatten();
        let mut numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        numbers.find(|number: &i32| {
            let stat = fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
            let rest = stat.rsplit(')').next().unwrap_or_default();
            rest.split_whitespace().nth(1) == Some(&self.pid().to_string())
        })
    }

    pub fn stop(mut self) {
        self.say("stop");
        let begin = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(begin.elapsed() < PATIENCE, "the router does not stop: {:#?}", self.lines());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Frames as they came.
pub struct Capture {
    socket: Socket,
    frames: VecDeque<(Instant, Vec<u8>)>,
}

impl Capture {
    /// The next frame that fits, from a time on; frames that do not fit are left out.
    pub fn next(&mut self, fits: impl Fn(&[u8]) -> bool) -> (Instant, Vec<u8>) {
        let begin = Instant::now();
        loop {
            while let Some((at, frame)) = self.frames.pop_front() {
                if fits(&frame) {
                    return (at, frame);
                }
            }
            assert!(begin.elapsed() < PATIENCE, "no such frame");
            self.read();
        }
    }

    /// All that fit, of some time.
    pub fn during(
        &mut self,
        time: Duration,
        fits: impl Fn(&[u8]) -> bool,
    ) -> Vec<(Instant, Vec<u8>)> {
        let begin = Instant::now();
        while begin.elapsed() < time {
            self.read();
        }
        self.frames.drain(..).filter(|(_, frame)| fits(frame)).collect()
    }

    fn read(&mut self) {
        let mut buffer = [0; 2_048];
        if let Ok(length) = (&self.socket).read(&mut buffer) {
            self.frames.push_back((Instant::now(), buffer[..length].to_vec()));
        }
    }
}

/// Whether a frame is an advert of this priority.
pub fn is_advert(frame: &[u8], priority: u8) -> bool {
    advert(frame).is_some_and(|advert| advert[2] == priority)
}

/// The advert in a frame.
pub fn advert(frame: &[u8]) -> Option<&[u8]> {
    match frame.get(12..14)? {
        [0x08, 0x00] if frame.get(23) == Some(&112) => frame.get(34..),
        [0x86, 0xdd] if frame.get(20) == Some(&112) => frame.get(54..),
        _ => None,
    }
}

/// The IPv4 address that a frame announces by a gratuitous ARP request.
pub fn announced(frame: &[u8]) -> Option<IpAddr> {
    let is_request = frame.get(12..14)? == [0x08, 0x06] && frame.get(20..22)? == [0, 1];
    let (from, to) = (frame.get(28..32)?, frame.get(38..42)?);
    let octets: [u8; 4] = from.try_into().ok()?;
    (is_request && from == to).then(|| IpAddr::from(octets))
}
