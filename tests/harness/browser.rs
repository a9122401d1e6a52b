//! A real browser: Chromium without a window, told what to do through chromedriver.
//!
//! WebDriver is HTTP and JSON (<https://www.w3.org/TR/webdriver2/>); what it lacks goes through the
//! developer tools' own protocol. The browser resolves no names and so reaches nothing but this
//! machine. It is gone when dropped, with all its processes, also when the test panics.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::PATIENCE;

/// Codes of keys that are no characters (WebDriver, "Keyboard actions").
pub const TAB: char = '\u{e004}';
/// Enter.
pub const ENTER: char = '\u{e007}';
/// Escape.
pub const ESCAPE: char = '\u{e00c}';

/// What a page is looked at with.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// What the system prefers.
    pub dark: bool,
}

/// A desk.
pub const DESK: View = View { width: 1440, height: 900, dark: false };
/// A phone.
pub const PHONE: View = View { width: 390, height: 844, dark: false };

/// A browser with one page.
pub struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
    /// What Chromium keeps, and what its processes are known by.
    profile: TempDir,
}

impl Browser {
    /// Starts one.
    ///
    /// # Panics
    ///
    /// If chromedriver or Chromium is missing: scripts/setup installs both.
    pub fn start(view: View) -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .env("TZ", "UTC")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver starts; scripts/setup installs it");
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let profile = TempDir::with_prefix("lockgate-chromium-").unwrap();
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        // From here on, whatever happens ends it.
        let mut browser = Self { driver, address: nowhere, session: String::new(), profile };
        let port = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            port.trim_end_matches('.').parse().ok()
        });
        browser.address.set_port(port.expect("chromedriver says which port it has"));
        let arguments = [
            // As root there is no other way.
            "--no-sandbox".to_owned(),
            "--headless=new".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--no-first-run".to_owned(),
            "--force-color-profile=srgb".to_owned(),
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.*".to_owned(),
            format!("--user-data-dir={}", browser.profile.path().display()),
        ];
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:loggingPrefs": { "browser": "ALL" },
            "goog:chromeOptions": { "args": arguments },
        }}});
        let session = browser.call("POST", "/session", Some(&wanted));
        browser.session = session["sessionId"].as_str().expect("a session").to_owned();
        browser.look_with(view);
        browser
    }

    /// Changes the size of the page and what the system prefers.
    pub fn look_with(&self, view: View) {
        let (width, height) = (view.width, view.height);
        let metrics = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600,
        });
        self.develop("Emulation.setDeviceMetricsOverride", &metrics);
        let scheme = if view.dark { "dark" } else { "light" };
        let features = json!({ "features": [
            { "name": "prefers-color-scheme", "value": scheme },
        ]});
        self.develop("Emulation.setEmulatedMedia", &features);
    }

    /// Loads a page.
    pub fn open(&self, url: &str) {
        self.command("POST", "/url", Some(&json!({ "url": url })));
    }

    /// Runs the body of a function in the page. Returns what it returns.
    pub fn run(&self, script: &str) -> Value {
        let body = json!({ "script": script, "args": [] });
        self.command("POST", "/execute/sync", Some(&body))
    }

    /// The text that is seen of the first element of a selector; empty if there is none.
    pub fn text(&self, selector: &str) -> String {
        let selector = json!(selector);
        let text = self.run(&format!("return document.querySelector({selector})?.innerText ?? ''"));
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the text of an element has something in it. Returns the whole of it.
    #[track_caller]
    pub fn await_text(&self, selector: &str, expected: &str) -> String {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let text = self.text(selector);
            if text.contains(expected) {
                return text;
            }
            assert!(Instant::now() < give_up, "{selector} says {text:?}, not {expected:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Presses keys one after the other.
    pub fn press(&self, keys: &[char]) {
        let press = |key: &char| {
            ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key.to_string() }))
        };
        let actions: Vec<Value> = keys.iter().flat_map(press).collect();
        let body = json!({ "actions": [{ "type": "key", "id": "keys", "actions": actions }] });
        self.command("POST", "/actions", Some(&body));
    }

    /// What the console has been told since it was last asked.
    pub fn console(&self) -> Vec<String> {
        let log = self.command("POST", "/se/log", Some(&json!({ "type": "browser" })));
        log.as_array().unwrap().iter().map(|entry| entry["message"].to_string()).collect()
    }

    /// Asks the developer tools.
    pub fn develop(&self, command: &str, parameters: &Value) -> Value {
        let body = json!({ "cmd": command, "params": parameters });
        self.command("POST", "/goog/cdp/execute", Some(&body))
    }

    /// Writes what is seen, as PNG.
    pub fn photograph(&self, path: &Path) {
        let picture = self.command("GET", "/screenshot", None);
        fs::write(path, decode_base64(picture.as_str().unwrap())).unwrap();
    }

    fn command(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        self.call(method, &format!("/session/{}{path}", self.session), body)
    }

    fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let answer = self.ask(method, path, body).unwrap_or_else(|error| {
            panic!("chromedriver does not answer {method} {path}: {error}");
        });
        let value: Value = serde_json::from_str(&answer).expect(&answer);
        let value = value["value"].clone();
        assert!(value["error"].is_null(), "{method} {path}: {value:#}");
        value
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.address)?;
        // Starting Chromium is what takes longest.
        stream.set_read_timeout(Some(2 * PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let body = body.map(Value::to_string).unwrap_or_default();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.address,
            body.len()
        )?;
        let mut reader = BufReader::new(stream);
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 || line == "\r\n" {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().map_err(std::io::Error::other)?;
            }
        }
        let mut answer = vec![0; length];
        reader.read_exact(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            // In order if it can be.
            drop(self.ask("DELETE", &format!("/session/{}", self.session), None));
        }
        drop(self.driver.kill());
        drop(self.driver.wait());
        // Chromium is not chromedriver's to kill if that has just been killed itself.
        let profile = self.profile.path().display().to_string();
        for _ in 0..100 {
            let left = processes_with(&profile);
            if left.is_empty() {
                return;
            }
            for pid in left {
                // It may have ended by itself.
                let _ = kill(pid, Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Processes that have a text in their command line.
fn processes_with(text: &str) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| {
            // One that has just ended has none.
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(text)
        })
        .map(Pid::from_raw)
        .collect()
}

/// RFC 4648, section 4.
fn decode_base64(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = text.bytes().filter_map(|byte| ALPHABET.iter().position(|&other| other == byte));
    let (mut bytes, mut bits, mut length) = (Vec::new(), 0_usize, 0);
    for digit in digits {
        bits = (bits << 6 | digit) & 0xffff;
        length += 6;
        if length >= 8 {
            length -= 8;
            bytes.push(u8::try_from(bits >> length & 0xff).unwrap());
        }
    }
    bytes
}
