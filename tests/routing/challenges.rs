//! Answers to the challenges of ACME: the files of a directory, or a pool; and nothing else that is
//! there.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::redirecting::{Site, get};
use super::{Keeper, listener, pool_of};
use crate::harness::{
    Ending, Http, Launch, connect, ending, hanging, output_of, until, unused_address,
};

const CHALLENGES: &str = "/.well-known/acme-challenge/";
const TOKEN: &str = "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0";
const KEY: &str =
    "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0.9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9f";

/// A gateway that answers from a directory, beside which there is a secret.
struct Webroot {
    site: Site,
    root: TempDir,
    directory: PathBuf,
}

impl Webroot {
    fn new() -> Self {
        let root = TempDir::with_prefix("lockgate-").unwrap();
        let directory = root.path().join("challenges");
        fs::create_dir(&directory).unwrap();
        fs::write(root.path().join("secret"), "secret").unwrap();
        let site = Site::with(&format!("acme_dir = {directory:?}"));
        Self { site, root, directory }
    }

    fn put(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.directory.join(name), content).unwrap();
    }

    /// The status of a request for this, below the place of challenges.
    #[track_caller]
    fn status(&self, below: &str) -> u16 {
        let answer = self.site.ask(get(&format!("{CHALLENGES}{below}"), "example.com"));
        assert!(!answer.body.contains("secret"), "{below:?}: {answer:?}");
        answer.status
    }
}

#[test]
fn a_file_is_the_answer() {
    let webroot = Webroot::new();
    assert_eq!(webroot.status(TOKEN), 404);
    // One that comes while the gateway runs, as they do.
    webroot.put(TOKEN, KEY);
    let path = format!("{CHALLENGES}{TOKEN}");
    for request in [
        get(&path, "example.com"),
        get(&path, "192.0.2.1:8080"),
        get(&format!("http://example.com{path}"), "example.com"),
        format!("GET {path} HTTP/1.0\r\n\r\n"),
    ] {
        let answer = webroot.site.ask(request);
        assert_eq!((answer.status, answer.body.as_str()), (200, KEY), "{answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
        assert_eq!(answer.header("content-length").unwrap(), KEY.len().to_string());
    }
    let answer = webroot.site.ask(format!("HEAD {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    assert_eq!(answer.header("content-length").unwrap(), KEY.len().to_string());

    fs::remove_file(webroot.directory.join(TOKEN)).unwrap();
    assert_eq!(webroot.status(TOKEN), 404);
}

#[test]
fn curl_gets_it() {
    let webroot = Webroot::new();
    webroot.put(TOKEN, KEY);
    let address = webroot.site.address;
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--noproxy", "*", "--max-time", "20", "--location"]);
    let output = output_of(curl.arg(format!("http://{address}{CHALLENGES}{TOKEN}")));
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), KEY, "{error}");
}

#[test]
fn all_else_is_redirected() {
    let webroot = Webroot::new();
    webroot.put(TOKEN, KEY);
    for target in [
        "/",
        "/.well-known/acme-challenge",
        "/.well-known/security.txt",
        "/.Well-Known/acme-challenge/x",
        "//.well-known/acme-challenge/x",
        "/?/.well-known/acme-challenge/x",
        "/.well-known/../.well-known/acme-challenge/x",
        "/%2ewell-known/acme-challenge/x",
    ] {
        let answer = webroot.site.ask(get(target, "example.com"));
        let expected = format!("https://example.com{target}");
        assert_eq!((answer.status, answer.location()), (301, expected.as_str()));
    }
}

#[test]
fn no_way_leads_out_of_the_directory() {
    let webroot = Webroot::new();
    let inner = webroot.directory.join("inner");
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("deep"), "secret").unwrap();
    webroot.put(".hidden", "secret");
    webroot.put("a.txt", "secret");
    let absolute = webroot.root.path().join("secret");
    let absolute = absolute.to_str().unwrap();
    let encoded = absolute.replace('/', "%2F");
    for below in [
        "",
        ".",
        "..",
        "../secret",
        "../../secret",
        "..%2fsecret",
        "..%2Fsecret",
        "%2e%2e/secret",
        "%2e%2e%2fsecret",
        "%252e%252e%252fsecret",
        "....//secret",
        "..;/secret",
        "%c0%ae%c0%ae/secret",
        "inner/../../secret",
        "./../secret",
        "inner",
        "inner/",
        "inner/deep",
        "inner%2fdeep",
        ".hidden",
        "a.txt",
        "secret%00",
        "x/../secret",
        absolute,
        &encoded,
        &format!("/{absolute}"),
        &format!("{TOKEN}/../../secret"),
        &"x".repeat(300),
    ] {
        assert_eq!(webroot.status(below), 404, "{below:?}");
    }
    // By no other method, nor with anything behind it.
    webroot.put(TOKEN, KEY);
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let request = format!("{method} {CHALLENGES}{TOKEN} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(webroot.site.ask(request).status, 404, "{method}");
    }
    assert_eq!(webroot.status(&format!("{TOKEN}?x")), 404);
    assert_eq!(webroot.status(TOKEN), 200);
    assert_eq!(fs::read_to_string(webroot.directory.join(TOKEN)).unwrap(), KEY);
}

#[test]
fn no_link_leads_out_of_the_directory() {
    let webroot = Webroot::new();
    let secret = webroot.root.path().join("secret");
    symlink(&secret, webroot.directory.join("absolute")).unwrap();
    symlink("../secret", webroot.directory.join("relative")).unwrap();
    symlink(webroot.root.path(), webroot.directory.join("parent")).unwrap();
    symlink("absolute", webroot.directory.join("twice")).unwrap();
    for below in ["absolute", "relative", "parent", "parent/secret", "twice"] {
        assert_eq!(webroot.status(below), 404, "{below}");
    }
    // Nor where Certbot puts them.
    let well_known = webroot.directory.join(".well-known");
    fs::create_dir(&well_known).unwrap();
    symlink(webroot.root.path(), well_known.join("acme-challenge")).unwrap();
    assert_eq!(webroot.status("secret"), 404);
    fs::remove_dir_all(&well_known).unwrap();
    let outside = webroot.root.path().join("outside");
    fs::create_dir_all(outside.join("acme-challenge")).unwrap();
    fs::write(outside.join("acme-challenge/file"), "secret").unwrap();
    symlink(&outside, &well_known).unwrap();
    assert_eq!(webroot.status("file"), 404);
}

#[test]
fn a_webroot_of_certbot() {
    let webroot = Webroot::new();
    let within = webroot.directory.join(".well-known/acme-challenge");
    fs::create_dir_all(&within).unwrap();
    fs::write(within.join(TOKEN), KEY).unwrap();
    let answer = webroot.site.ask(get(&format!("{CHALLENGES}{TOKEN}"), "example.com"));
    assert_eq!((answer.status, answer.body.as_str()), (200, KEY));
}

#[test]
fn what_is_no_small_file() {
    let webroot = Webroot::new();
    webroot.put("empty", "");
    webroot.put("long", vec![b'x'; 4096]);
    webroot.put("longer", vec![b'x'; 4097]);
    let pipe = webroot.directory.join("pipe");
    assert!(output_of(Command::new("mkfifo").arg(&pipe)).status.success());
    for (name, status) in [("empty", 200), ("long", 200), ("longer", 404), ("pipe", 404)] {
        assert_eq!(webroot.status(name), status, "{name}");
    }
}

#[test]
fn a_directory_that_hangs_holds_nobody_up() {
    let root = TempDir::with_prefix("lockgate-").unwrap();
    let (address, lines) = (unused_address(), format!("acme_dir = {:?}", root.path()));
    let config = format!("[runtime]\nworkers = 2\n{}", listener(address, "redirect", &lines));
    let gateway = Launch::new(config).under(&hanging(root.path())).start();
    let mut site = Site { gateway, address };
    let ask = |path: &str| {
        let mut client = connect(address).unwrap();
        client.write_all(get(path, "a").as_bytes()).unwrap();
        client
    };
    // Far more than there are threads for them, and than may wait.
    let path = format!("{CHALLENGES}{TOKEN}");
    let waiting: Vec<_> = (0..200).map(|_| ask(&path)).collect();
    for _ in 0..50 {
        assert_eq!(site.ask(get("/", "a")).status, 301);
    }
    assert_eq!(site.gateway.request("GET", "/healthz").unwrap().0, 200);
    for mut client in waiting {
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    }
    let told = site.gateway.stderr();
    assert_eq!(told.matches("files are not read in time").count(), 1, "{told}");
    // Threads that hang are not waited for: neither by a reload nor at the end.
    let protocol = listener(address, "redirect", &format!("{lines}\nmax_connections = 9"));
    site.gateway.reload(format!("[runtime]\nworkers = 2\n{protocol}"));
    let _hangs = ask(&path);
    site.gateway.signal(Signal::SIGTERM);
    site.gateway.signal(Signal::SIGTERM);
    assert!(site.gateway.wait().success());
}

/// What a pool is asked for a challenge.
fn asked(path: &str, host: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

/// A gateway that sends challenges to this pool.
fn before(pool: &str, lines: &str) -> Site {
    Site::with(&format!("acme_pool = \"{pool}\"\n{lines}"))
}

#[test]
fn a_pool_gives_the_answer() {
    let http = Http::new(200);
    let server = http.serve("acme");
    let site = before("acme", &pool_of(&server));
    let path = format!("{CHALLENGES}{TOKEN}");
    let answer = site.ask(get(&path, "example.com"));
    assert_eq!((answer.status, answer.body.as_str()), (200, "acme"));
    assert_eq!(http.heads(), [asked(&path, "example.com")]);
    let record = site.gateway.await_records(1, "closed").remove(0);
    assert_eq!((&record["pool"], &record["backend"]), (&"acme".into(), &"acme".into()));

    // All else is the gateway's to answer.
    for target in ["/", "/.well-known/acme-challenge", "/.well-known/security.txt"] {
        assert_eq!(site.ask(get(target, "example.com")).status, 301, "{target}");
    }
    assert_eq!(site.ask("GET / HTTP/1.1\r\n\r\n").status, 400);
    assert_eq!(server.accepted(), 1);
}

#[test]
fn what_a_pool_is_asked_is_what_the_client_asks() {
    let keeper = Keeper::new("acme");
    let site = before("acme", &pool_of(&keeper.server));
    let request = get(&format!("{CHALLENGES}{TOKEN}"), "Example.COM:80");
    for longest in [1, request.len()] {
        let mut client = connect(site.address).unwrap();
        client.set_nodelay(true).unwrap();
        for part in request.as_bytes().chunks(longest) {
            client.write_all(part).unwrap();
        }
        client.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "acme\n");
        let expected = asked(&format!("{CHALLENGES}{TOKEN}"), "example.com");
        assert_eq!(String::from_utf8(keeper.heard()).unwrap(), expected);
    }
}

#[test]
fn nothing_follows_a_challenge_to_its_pool() {
    let keeper = Keeper::new("acme");
    let site = before("acme", &pool_of(&keeper.server));
    let path = format!("{CHALLENGES}{TOKEN}");
    let order = "POST /admin/delete HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nid";
    let begin = format!("GET {path} HTTP/1.1\r\nHost: a\r\n");
    for (nth, (request, later)) in (1..).zip([
        // In the same segment, and later on the connection.
        (format!("{begin}\r\n{order}"), String::new()),
        (format!("{begin}Connection: keep-alive\r\n\r\n"), order.to_owned()),
        // As a body, or as what one server takes for it and another does not.
        (format!("{begin}Content-Length: {}\r\n\r\n{order}", order.len()), String::new()),
        (format!("{begin}Content-Length: 0\r\nContent-Length: 9\r\n\r\n{order}"), String::new()),
        (format!("{begin}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), order.to_owned()),
        (format!("{begin}Connection: upgrade\r\nUpgrade: h2c\r\n\r\n"), order.repeat(500)),
    ]) {
        let mut client = connect(site.address).unwrap();
        client.write_all(request.as_bytes()).unwrap();
        until("the pool has it", || (keeper.server.accepted() == nth).then_some(()));
        client.write_all(later.as_bytes()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "acme\n");
        assert_eq!(String::from_utf8(keeper.heard()).unwrap(), asked(&path, "a"), "{request:?}");
    }
}

#[test]
fn a_pool_is_asked_for_challenges_alone() {
    let http = Http::new(200);
    let server = http.serve("acme");
    let site = before("acme", &pool_of(&server));
    // What the pool's server makes of these is not known: they may lead to anything that it has.
    for below in
        ["../../admin", "..%2f..%2fadmin", "%2e%2e/%2e%2e/admin", "/admin", "a/b", "", "x?y"]
    {
        let answer = site.ask(get(&format!("{CHALLENGES}{below}"), "example.com"));
        assert_eq!(answer.status, 404, "{below:?}: {answer:?}");
    }
    let request = format!("POST {CHALLENGES}{TOKEN} HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(site.ask(request).status, 404);
    assert_eq!((server.accepted(), http.heads().len()), (0, 0));
}

#[test]
fn a_pool_that_is_gone() {
    let http = Http::new(200);
    let mut server = http.serve("acme");
    let site = before("acme", &pool_of(&server));
    server.kill();
    let mut client = connect(site.address).unwrap();
    client.write_all(get(&format!("{CHALLENGES}{TOKEN}"), "a").as_bytes()).unwrap();
    assert_eq!(ending(&mut client), Ending::Reset);
    let record = site.gateway.record_of(client.local_addr().unwrap());
    assert_eq!((&record["reason"], &record["pool"]), (&"connect_failed".into(), &"acme".into()));
    assert_eq!(site.ask(get("/", "example.com")).status, 301);
}
