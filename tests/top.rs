//! `lockgate top` in a real terminal (tmux), and printing for a pipe.

use std::fs;
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{
    Config, Gateway, Server, eventually, lockgate, output_of, until, unused_address, visit,
};

/// A terminal of its own, with a command in it; gone when dropped.
struct Terminal(String);

impl Terminal {
    /// Of this size. After the command its exit code is shown, and how the terminal is set.
    fn with(command: &str, width: u32, height: u32) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let terminal = Self(format!("lockgate-test-{}-{number}", process::id()));
        let script = format!("{command}; echo \"ended: $?\"; stty -a; sleep 600");
        let (width, height) = (width.to_string(), height.to_string());
        terminal.tmux(&["new-session", "-d", "-x", &width, "-y", &height, "sh", "-c", &script]);
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let output = output_of(
            Command::new("tmux")
                .env_remove("TMUX")
                .env("LC_ALL", "C.UTF-8")
                .args(["-L", &self.0, "-f", "/dev/null"])
                .args(arguments),
        );
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "tmux {arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What is on the screen.
    fn text(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// Waits until the screen has all of these, and none of those.
    #[track_caller]
    fn await_text(&self, parts: &[&str], without: &[&str]) -> String {
        eventually(&format!("{parts:?} without {without:?} on the screen"), || {
            let text = self.text();
            let all = parts.iter().all(|part| text.contains(part));
            all && !without.iter().any(|part| text.contains(part))
        });
        self.text()
    }

    /// The process of the command.
    fn command(&self) -> Pid {
        let shell = self.tmux(&["display-message", "-p", "#{pane_pid}"]);
        let shell = shell.trim();
        until("the command runs", || {
            let children =
                fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).ok()?;
            children.split_whitespace().next()?.parse().ok().map(Pid::from_raw)
        })
    }

    /// Waits for the end of the command, after which the terminal has to be as it was.
    #[track_caller]
    fn await_end(&self, code: i32) -> String {
        // The line of stty is a long one.
        let text = self.await_text(&[&format!("ended: {code}"), "icanon"], &["-icanon"]);
        let words: Vec<_> = text.split_whitespace().collect();
        for setting in ["icanon", "echo", "isig", "icrnl", "opost"] {
            assert!(words.contains(&setting), "{setting} is off:\n{text}");
        }
        assert_eq!(
            self.tmux(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]),
            "0 1\n"
        );
        text
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // There may be none, or no more.
        let _ = Command::new("tmux").args(["-L", &self.0, "kill-server"]).output();
    }
}

/// A gateway with the backends `a` and `b`, of which the second is down.
fn start() -> (Gateway, Server, std::net::SocketAddr) {
    let address = unused_address();
    let (a, mut b) = (Server::named("a"), Server::named("b"));
    b.kill();
    let health = r#"health = { type = "tcp", interval = "500ms", fast_interval = "50ms" }"#;
    let config = Config::new(address).pool(health).backend(&a, "").backend(&b, "");
    let gateway = Gateway::start(config);
    gateway.await_state("b", "down");
    (gateway, a, address)
}

fn top(gateway: &Gateway, options: &str) -> String {
    format!("{} top -c {} {options}", lockgate().display(), gateway.config_path().display())
}

#[test]
fn it_shows_the_gateway_says_when_it_is_gone_and_recovers() {
    let (gateway, _server, address) = start();
    let terminal = Terminal::with(&top(&gateway, "--interval 200ms"), 80, 24);
    let shown = ["lockgate ", "running", "web", "app/a", "app/b", "down", "every 200ms"];
    let text = terminal.await_text(&shown, &["no gateway"]);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    until("new connections have a rate", || {
        visit(address).unwrap();
        let text = terminal.text();
        let line = text.lines().find(|line| line.starts_with("app/a"))?.to_owned();
        let rate = line.split_whitespace().nth(4)?.to_owned();
        (rate.parse::<f64>().is_ok_and(|rate| rate > 0.0)).then_some(())
    });

    gateway.signal(Signal::SIGKILL);
    terminal.await_text(&["no gateway answers on", "trying again", "app/a"], &[]);
    let _gateway = gateway.start_again();
    terminal.await_text(&["app/a", "running"], &["no gateway"]);
    terminal.press(&["q"]);
    terminal.await_end(0);
}

#[test]
fn keys_sort_filter_explain_and_resizing_shows_more() {
    let (gateway, _server, _) = start();
    let terminal = Terminal::with(&top(&gateway, "--interval 200ms"), 80, 24);
    terminal.await_text(&["app/a", "app/b", "sorted by file"], &["connection refused"]);
    terminal.press(&["s", "s"]);
    let text = terminal.await_text(&["sorted by state"], &[]);
    assert!(text.find("app/b") < text.find("app/a"), "the worst comes first:\n{text}");
    terminal.press(&["/"]);
    terminal.press(&["-l", "down"]);
    terminal.await_text(&["show only: down_", "app/b"], &["app/a"]);
    terminal.press(&["Enter"]);
    terminal.await_text(&["1 of 2 with \"down\"", "app/b"], &["app/a"]);
    terminal.press(&["/", "Escape"]);
    terminal.await_text(&["app/a", "app/b"], &["with \"down\""]);
    terminal.press(&["?"]);
    terminal.await_text(&["the other way round"], &["app/a"]);
    terminal.press(&["?"]);
    terminal.await_text(&["app/a"], &["the other way round"]);

    terminal.tmux(&["resize-window", "-x", "160", "-y", "50"]);
    terminal.await_text(&["app/a", "address", "reason", "refused"], &[]);
    terminal.tmux(&["resize-window", "-x", "30", "-y", "8"]);
    terminal.await_text(&["lockgate"], &["reason"]);
    terminal.tmux(&["resize-window", "-x", "80", "-y", "24"]);
    terminal.await_text(&["app/a", "app/b"], &[]);
    terminal.press(&["C-c"]);
    terminal.await_end(0);
}

#[test]
fn whatever_ends_it_the_terminal_is_as_it_was() {
    let (gateway, _server, _) = start();
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] {
        let terminal = Terminal::with(&top(&gateway, ""), 100, 30);
        terminal.await_text(&["app/a"], &[]);
        assert!(terminal.tmux(&["display-message", "-p", "#{alternate_on}"]).starts_with('1'));
        kill(terminal.command(), signal).unwrap();
        terminal.await_end(0);
    }
}

#[test]
fn without_a_gateway_it_waits_for_one() {
    let directory = tempfile::TempDir::new().unwrap();
    let socket = directory.path().join("admin.sock");
    let command = format!("{} top --socket {}", lockgate().display(), socket.display());
    let terminal = Terminal::with(&command, 80, 24);
    terminal.await_text(&["no gateway answers on", "No such file", "trying again"], &[]);
    terminal.press(&["q"]);
    terminal.await_end(0);
}

#[test]
fn batches_are_for_pipes() {
    let (gateway, _server, address) = start();
    visit(address).unwrap();
    let run = |options: &[&str]| {
        let mut command = Command::new(lockgate());
        output_of(command.arg("top").arg("-c").arg(gateway.config_path()).args(options))
    };
    let output = run(&["--batch", "-n", "2", "--interval", "200ms"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    for part in ["connections 0/", "app/a", "app/b", "connection refused"] {
        assert_eq!(text.matches(part).count(), 2, "{part} in:\n{text}");
    }
    assert!(!text.contains('\x1b'), "{text}");
    let line = text.lines().find(|line| line.trim_start().starts_with("app/a")).unwrap();
    assert!(!line.contains(" - ") || line.matches(" - ").count() == 1, "rates are known: {line}");

    let filtered = run(&["--batch", "-n", "1", "--interval", "100ms", "--filter", "up"]);
    let text = String::from_utf8(filtered.stdout).unwrap();
    assert!(text.contains("app/a") && !text.contains("app/b"), "{text}");

    let output = run(&[]);
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8(output.stderr).unwrap().contains("--batch"));
    assert_eq!(run(&["-n", "1"]).status.code(), Some(64), "-n is for batches");
    assert_eq!(run(&["--interval", "1ms"]).status.code(), Some(64));
}

#[test]
fn a_batch_without_a_gateway_says_so_and_goes_on() {
    let directory = tempfile::TempDir::new().unwrap();
    let socket = directory.path().join("admin.sock");
    let mut command = Command::new(lockgate());
    command.args(["top", "--batch", "-n", "2", "--interval", "100ms", "--socket"]).arg(&socket);
    let output = output_of(&mut command);
    assert_eq!(output.status.code(), Some(69));
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.matches("no gateway answers").count(), 2, "each is told once: {text}");
}

#[test]
fn a_batch_ends_with_its_reader() {
    let (gateway, _server, _) = start();
    let script = format!("{} | head -n 1", top(&gateway, "--batch --interval 100ms"));
    let output = output_of(Command::new("sh").args(["-c", &script]));
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 1);
}
