//! Who is measured: keepalived and lockgate, each with more than one setting.

use std::fmt;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::network::{FLOATING, GATEWAYS, PREFIX, Space};

/// A program with its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Adverts each second, which is what it does unless told otherwise.
    Keepalived,
    /// What lockgate does unless told otherwise.
    Keepalived100ms,
    /// As often as the protocol allows.
    Keepalived10ms,
    /// The same, with all it has to be fast and safe at that: the highest priorities (they make the
    /// wait shorter), real-time scheduling, memory that is not swapped.
    KeepalivedTuned,
    /// As it is: 100 ms.
    Lockgate,
    /// With 10 ms and the same priorities as the tuned keepalived.
    Lockgate10ms,
}

impl Subject {
    pub const ALL: [Self; 6] = [
        Self::Keepalived,
        Self::Keepalived100ms,
        Self::Keepalived10ms,
        Self::KeepalivedTuned,
        Self::Lockgate,
        Self::Lockgate10ms,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Keepalived => "keepalived",
            Self::Keepalived100ms => "keepalived-100ms",
            Self::Keepalived10ms => "keepalived-10ms",
            Self::KeepalivedTuned => "keepalived-tuned",
            Self::Lockgate => "lockgate",
            Self::Lockgate10ms => "lockgate-10ms",
        }
    }

    /// Time between two adverts.
    pub const fn interval(self) -> Duration {
        Duration::from_millis(match self {
            Self::Keepalived => 1000,
            Self::Keepalived100ms | Self::Lockgate => 100,
            Self::Keepalived10ms | Self::KeepalivedTuned | Self::Lockgate10ms => 10,
        })
    }

    /// Priority of the gateway that is master when all is well, and of the other.
    const fn priorities(self) -> [u8; 2] {
        match self {
            Self::KeepalivedTuned | Self::Lockgate10ms => [254, 253],
            _ => [150, 100],
        }
    }

    const fn is_lockgate(self) -> bool {
        matches!(self, Self::Lockgate | Self::Lockgate10ms)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Subject {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|subject| subject.name() == name);
        found.ok_or_else(|| format!("no subject is called {name}"))
    }
}

/// The binaries.
#[derive(Clone)]
pub struct Programs {
    pub keepalived: PathBuf,
    pub lockgate: PathBuf,
}

impl Programs {
    /// What a subject's program says of its version.
    pub fn version(&self, subject: Subject) -> io::Result<String> {
        let output = Command::new(self.of(subject)).arg("--version").output()?;
        // keepalived says it on standard error.
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }

    fn of(&self, subject: Subject) -> &Path {
        if subject.is_lockgate() { &self.lockgate } else { &self.keepalived }
    }
}

/// One gateway's program, running.
pub struct Node<'a> {
    child: Child,
    space: &'a Space,
    log: PathBuf,
}

impl<'a> Node<'a> {
    /// Starts it on a gateway, with its files in a directory.
    pub fn start(
        programs: &Programs,
        subject: Subject,
        gateway: usize,
        addresses: &[Ipv4Addr],
        space: &'a Space,
        directory: &Path,
    ) -> io::Result<Self> {
        let own = directory.join(format!("gw{}", gateway + 1));
        fs::create_dir_all(&own)?;
        let config = own.join("config");
        let log = own.join("log");
        let mut command = Command::new(programs.of(subject));
        if subject.is_lockgate() {
            fs::write(&config, lockgate(subject, &own, addresses))?;
            command.arg("run").arg("-c").arg(&config);
            command.args(["--node", &format!("gw{}", gateway + 1)]);
        } else {
            fs::write(&config, keepalived(subject, gateway, addresses))?;
            command.args(["--dont-fork", "--log-console", "--vrrp", "--use-file"]).arg(&config);
            command.arg("--pid").arg(own.join("pid"));
            command.arg("--vrrp_pid").arg(own.join("vrrp-pid"));
        }
        let file = File::create(&log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = space.run(|| command.spawn())?;
        Ok(Self { child, space, log })
    }

    /// The process that was started: it is the one to ask for an end in order.
    pub fn main(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// All its processes.
    pub fn all(&self) -> io::Result<Vec<Pid>> {
        self.space.processes()
    }

    /// The process that speaks VRRP: keepalived has a child for it.
    pub fn speaker(&self, subject: Subject) -> io::Result<Pid> {
        let main = self.main();
        if subject.is_lockgate() {
            return Ok(main);
        }
        let others = self.all()?.into_iter().find(|pid| *pid != main);
        others.ok_or_else(|| io::Error::other("keepalived has no child"))
    }

    /// Fails if it has ended, with what it has said.
    pub fn is_running(&mut self) -> io::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                let said = fs::read_to_string(&self.log).unwrap_or_default();
                Err(io::Error::other(format!("it has ended ({status}):\n{said}")))
            }
        }
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        // Twice: a process may have started another in between.
        for _ in 0..2 {
            let _ = signal(&self.all().unwrap_or_default(), Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

/// Sends a signal to all of them. One that has ended has got what it was to get.
pub fn signal(pids: &[Pid], which: Signal) -> io::Result<()> {
    for pid in pids {
        match kill(*pid, which) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn keepalived(subject: Subject, gateway: usize, addresses: &[Ipv4Addr]) -> String {
    let mut text = format!("global_defs {{\n    router_id gw{}\n", gateway + 1);
    if subject == Subject::KeepalivedTuned {
        text += "    vrrp_rt_priority 50\n    vrrp_no_swap\n";
    }
    let seconds = subject.interval().as_secs_f64();
    let priority = subject.priorities()[gateway];
    let _ = write!(
        text,
        "}}\nvrrp_instance public {{\n    state BACKUP\n    interface eth0\n    \
         virtual_router_id 51\n    version 3\n    priority {priority}\n    \
         advert_int {seconds}\n    virtual_ipaddress {{\n"
    );
    for address in addresses {
        let _ = writeln!(text, "        {address}/{PREFIX}");
    }
    text + "    }\n}\n"
}

fn lockgate(subject: Subject, directory: &Path, addresses: &[Ipv4Addr]) -> String {
    let addresses: Vec<_> =
        addresses.iter().map(|address| format!("\"{address}/{PREFIX}\"")).collect();
    let [high, low] = subject.priorities();
    let interval = match subject {
        Subject::Lockgate => String::new(),
        other => format!("advert_interval = \"{}ms\"\n", other.interval().as_millis()),
    };
    format!(
        "[admin]\nsocket = {:?}\nhttp = \"\"\n\n\
         [node.gw1]\naddress = \"{}\"\npriority = {high}\n\n\
         [node.gw2]\naddress = \"{}\"\npriority = {low}\n\n\
         [[listener]]\nname = \"web\"\nbind = \"{FLOATING}:80\"\npool = \"app\"\n\n\
         [[pool.app.backend]]\naddress = \"127.0.0.1:8080\"\n\n\
         [[vrrp]]\nname = \"public\"\ninterface = \"eth0\"\nvrid = 51\n{interval}\
         addresses = [{}]\n",
        directory.join("admin.sock"),
        GATEWAYS[0],
        GATEWAYS[1],
        addresses.join(", "),
    )
}
