//! The dashboard, in a real browser (see [`crate::harness::browser`]).

mod looks;
mod reading;
mod scale;
mod scenes;

use std::io::{Read, Write};
use std::net::SocketAddr;

use nix::sys::signal::Signal;

use crate::harness::browser::{Browser, DESK, View};
use crate::harness::{
    Config, Gateway, Launch, PATIENCE, Server, connect, eventually, held, unused_address, visit,
};

/// Checks that turn within a second.
const CHECKED: &str = "health = { type = 'tcp', interval = '200ms', fast_interval = '100ms' }";

/// A gateway with an admin server on TCP, and its page in a browser.
fn open(config: impl ToString, view: View) -> (Gateway, SocketAddr, Browser) {
    let http = unused_address();
    let gateway = Launch::new(config).http(http).start_unready();
    let browser = Browser::start(view);
    browser.open(&format!("http://{http}/"));
    eventually("the page shows something", || browser.text("#fact-version") != "–");
    (gateway, http, browser)
}

/// Head and body of what an address answers.
fn answer(http: SocketAddr, path: &str) -> (String, String) {
    let mut stream = connect(http).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.to_lowercase(), body.to_owned())
}

/// What the console complains of. That the process is not well is no complaint: on a machine with
/// too much to do a worker may be late, and the page is there to tell that.
fn complaints(browser: &Browser) -> Vec<String> {
    let mut lines = browser.console();
    lines.retain(|line| !(line.contains("/healthz") && line.contains("503")));
    lines
}

/// The text of a backend's row.
fn row(browser: &Browser, name: &str) -> String {
    browser.text(&format!("[id='backend/app/{name}']"))
}

#[test]
fn the_page_shows_what_the_gateway_knows_and_asks_nobody_else() {
    let address = unused_address();
    let servers = [Server::named("a"), Server::named("b")];
    let config = Config::new(address)
        .pool(CHECKED)
        .backend(&servers[0], "weight = 70")
        .backend(&servers[1], "max_connections = 40");
    let (gateway, http, browser) = open(config, DESK);
    let open: Vec<_> = (0..4).map(|_| held(address).unwrap()).collect();

    browser.await_text("#verdict", "All well");
    browser.await_text("#fact-connections", "4");
    assert_eq!(browser.text("#fact-version"), gateway.status()["version"]);
    let listener = browser.text("[id='listener/web']");
    for text in ["web", &address.to_string(), "tcp", "app"] {
        assert!(listener.contains(text), "{text} is not in {listener:?}");
    }
    for (server, text) in servers.iter().zip(["70", "of 40"]) {
        let row = row(&browser, server.name());
        for text in [server.name(), &server.address().to_string(), "up", text] {
            assert!(row.contains(text), "{text} is not in {row:?}");
        }
    }
    browser.await_text("#pools .pool header", "4 connections");
    drop(open);
    browser.await_text("#fact-connections", "0");

    let hosts = browser.run(
        "return [...new Set(performance.getEntriesByType('resource').map(e => new URL(e.name).host))]",
    );
    assert_eq!(hosts, serde_json::json!([http.to_string()]));
    assert_eq!(complaints(&browser), Vec::<String>::new());
}

#[test]
fn the_page_is_served_on_both_sockets_with_a_strict_policy_and_not_twice() {
    let server = Server::named("a");
    let http = unused_address();
    let config = Config::new(unused_address()).backend(&server, "");
    let gateway = Launch::new(config).http(http).start();

    let (head, page) = answer(http, "/");
    for line in [
        "content-type: text/html; charset=utf-8",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
        "cache-control: no-cache",
    ] {
        assert!(head.contains(line), "{line} is not in {head}");
    }
    let policy = head.lines().find_map(|line| line.strip_prefix("content-security-policy: "));
    let policy = policy.unwrap();
    for part in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"] {
        assert!(policy.contains(part), "{part} is not in {policy}");
    }
    for part in ["unsafe", "*", "http:", "https:", "data:"] {
        assert!(!policy.contains(part), "{part} is in {policy}");
    }
    assert_eq!(gateway.get("/"), page);

    let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
    let mut stream = connect(http).unwrap();
    let head = format!("GET / HTTP/1.1\r\nHost: test\r\nIf-None-Match: {tag}\r\n");
    write!(stream, "{head}Connection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 304 "), "{text}");
    assert!(text.ends_with("\r\n\r\n"), "{text}");
    // Nothing that the page might have is there by another name.
    assert_eq!(gateway.request("GET", "/assets/../mod.rs").unwrap().0, 404);
    assert_eq!(gateway.request("POST", "/").unwrap().0, 405);
}

#[test]
fn a_backend_that_dies_is_told_with_the_reason_and_without_a_reload() {
    let address = unused_address();
    let (mut dying, other) = (Server::named("dying"), Server::named("other"));
    let config = Config::new(address).pool(CHECKED).backend(&dying, "").backend(&other, "");
    let (gateway, _, browser) = open(config, DESK);
    gateway.await_state("dying", "up");
    browser.await_text("#verdict", "All well");
    browser.run("window.here = true");

    dying.kill();
    browser.await_text("[id='backend/app/dying'] .state", "down");
    assert!(row(&browser, "dying").contains("connection refused"), "{}", row(&browser, "dying"));
    assert!(row(&browser, "other").contains("up"));
    let problem = browser.await_text("#problems", "app/dying is down");
    assert!(problem.contains("since") && problem.contains("connection refused"), "{problem}");
    assert_eq!(browser.text("#verdict"), "app/dying is down");
    assert_eq!(browser.text("#chip"), "1 broken");
    let title = browser.run("return document.title");
    assert!(title.as_str().unwrap().contains("1 broken"), "{title}");
    let event = browser.await_text("#event-list li", "app/dying");
    assert!(event.contains("up → down") && event.contains("connection refused"), "{event}");
    browser.await_text("#announcements", "app/dying is down");

    dying.restart();
    browser.await_text("[id='backend/app/dying'] .state", "up");
    browser.await_text("#verdict", "All well");
    browser.await_text("#event-list li", "down → up");
    assert_eq!(browser.run("return window.here"), true);
    assert_eq!(complaints(&browser), Vec::<String>::new());
}

#[test]
fn a_pool_without_a_usable_backend_is_told_once_and_first() {
    let address = unused_address();
    let mut servers = ["a", "b", "c", "d", "e"].map(Server::named);
    servers.iter_mut().for_each(Server::kill);
    let config = Config::new(address).pool(CHECKED);
    let config = servers.iter().fold(config, |config, server| config.backend(server, ""));
    let (_gateway, _, browser) = open(config, DESK);
    let problem = browser.await_text("#problems", "Pool app has no usable backend");
    assert_eq!(problem.matches("connection refused").count(), 1, "{problem}");
    assert_eq!(browser.text("#verdict"), "Pool app has no usable backend");
    let pool = browser.text("#pools .pool header");
    assert!(pool.contains("no usable backend") && pool.contains("5 down"), "{pool}");
}

#[test]
fn a_gateway_that_does_not_answer_is_told_with_the_age_of_the_data_and_comes_back() {
    let address = unused_address();
    let server = Server::named("a");
    let config = Config::new(address).pool(CHECKED).backend(&server, "");
    let (gateway, _, browser) = open(config, DESK);
    browser.await_text("#verdict", "All well");
    browser.run("window.here = true");

    gateway.signal(Signal::SIGKILL);
    browser.await_text("#verdict", "The gateway does not answer");
    let age = browser.await_text("#age", "ago");
    assert!(age.contains("What you see is from"), "{age}");
    browser.await_text("#chip", "No answer for");
    // What was known is still to be seen.
    assert!(row(&browser, "a").contains(&server.address().to_string()));

    let gateway = gateway.start_again();
    gateway.await_state("a", "up");
    browser.await_text("#verdict", "All well");
    assert_eq!(browser.text("#age"), "live");
    assert_eq!(visit(address).unwrap(), "a");
    let total = "return document.querySelector('[id=\"listener/web\"] .new').innerText";
    eventually("rates are those of the new process", || {
        browser.run(total).as_str().is_some_and(|text| text.contains("/s") && !text.contains('-'))
    });
    assert_eq!(browser.run("return window.here"), true);
}

/// Neither what a configuration has, nor what a server says to a check.
#[test]
fn names_and_causes_are_text_and_never_markup() {
    let script = "<script>window.taken = 1</script><img src=x onerror='window.taken = 2'>";
    let server = Server::with("greeter", move |mut stream| {
        stream.write_all(script.as_bytes())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.read(&mut [0]).map(drop)
    });
    // As much is read, and shown, as is expected.
    let expected = "x".repeat(script.len());
    let check = format!("health = {{ type = 'send_expect', expect = '{expected}' }}");
    // White space and slashes are refused in names, so this is the worst that there is.
    let name = "<script>window.taken=3<script>";
    let backend = server.address().to_string();
    let config = Config::new(unused_address()).pool(&check).backend_at(name, &backend, "");
    let (_gateway, _, browser) = open(config, DESK);
    browser.await_text("#pools tbody tr", "down");
    let row = browser.text("#pools tbody tr");
    assert!(row.contains(name), "{row}");
    browser.await_text("#problems", "<script>window.taken = 1</script>");
    assert!(browser.run("return window.taken").is_null());
    assert_eq!(browser.run("return document.querySelectorAll('main img, main script').length"), 0);
    // A violation of the policy would be told here.
    assert_eq!(complaints(&browser), Vec::<String>::new());
}
