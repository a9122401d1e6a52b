//! What is imported, from files in memory; and laws that hold for any file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use proptest::prelude::*;

use super::{Error, Fate, Files, Imported, Kind, Sources, import, told};
use crate::config;

/// Files that are nowhere but here.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory(BTreeMap<String, String>);

impl Memory {
    pub(super) fn of(files: &[(&str, &str)]) -> Self {
        Self(files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect())
    }
}

impl Files for Memory {
    fn read(&self, path: &Path) -> io::Result<String> {
        let text = self.0.get(path.to_string_lossy().as_ref());
        text.cloned().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let prefix = format!("{}/", directory.to_string_lossy());
        let names = self.0.keys().filter_map(|name| name.strip_prefix(&prefix));
        let names: Vec<String> = names.filter(|n| !n.contains('/')).map(str::to_owned).collect();
        if names.is_empty() { Err(io::Error::from(io::ErrorKind::NotFound)) } else { Ok(names) }
    }

    fn absolute(&self, path: &Path) -> PathBuf {
        Path::new("/here").join(path)
    }

    fn variable(&self, _: &str) -> Option<String> {
        None
    }
}

/// The configurations that tests share.
fn corpus() -> (Memory, Vec<String>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/import");
    let mut memory = Memory::default();
    for directory in ["", "stream.d/"] {
        for entry in fs::read_dir(root.join(directory)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                let text = fs::read_to_string(&path).unwrap();
                memory.0.insert(format!("{directory}{name}"), text);
            }
        }
    }
    let names = memory.0.keys().filter(|name| !name.contains('/') && !name.ends_with(".notes"));
    let names: Vec<String> = names.cloned().collect();
    let map = "# names\na.example.com brokers\n.b.example.com legacy\n";
    memory.0.insert("/etc/haproxy/names.map".to_owned(), map.to_owned());
    assert!(names.len() >= 16, "{names:?}");
    (memory, names)
}

fn sources(name: &str) -> Sources {
    let mut sources = Sources::default();
    let file = PathBuf::from(name);
    match name.split('-').next() {
        Some("haproxy") => sources.haproxy.push(file),
        Some("nginx") => sources.nginx.push(file),
        Some("keepalived") => sources.keepalived.push(file),
        _ => panic!("{name} is of no kind"),
    }
    sources
}

fn haproxy(text: &str) -> Imported {
    let files = Memory::of(&[("haproxy.cfg", text)]);
    import(&sources_of("haproxy.cfg"), &files).unwrap()
}

fn sources_of(name: &str) -> Sources {
    sources(&name.replace("haproxy.cfg", "haproxy-.cfg")).renamed(name)
}

impl Sources {
    fn renamed(mut self, name: &str) -> Self {
        for list in [&mut self.haproxy, &mut self.nginx, &mut self.keepalived] {
            for file in list {
                *file = PathBuf::from(name);
            }
        }
        self
    }
}

/// A line that says something: not empty, no comment, more than a brace.
fn says_something(line: &str) -> bool {
    let line = line.split(" #").next().unwrap_or(line).trim();
    !line.is_empty()
        && !line.starts_with(['#', '!'])
        && !line.chars().all(|c| matches!(c, '{' | '}' | ';' | ' '))
}

#[test]
fn every_line_of_every_configuration_is_accounted_for() {
    let (files, names) = corpus();
    for name in names {
        let done =
            import(&sources(&name), &files).unwrap_or_else(|error| panic!("{name}: {error}"));
        let text = files.read(Path::new(&name)).unwrap();
        for (index, line) in text.lines().enumerate().filter(|(_, line)| says_something(line)) {
            let number = index + 1;
            let here =
                |one: &&super::Line| one.file == name && (one.first..=one.last).contains(&number);
            assert!(done.lines.iter().any(|one| here(&one)), "{name}:{number}: {line}");
        }
        for note in &done.notes {
            assert!(!note.reason.contains("does not know"), "{note}");
            assert!((1..=text.lines().count().max(20)).contains(&note.line), "{note}");
        }
    }
}

#[test]
fn what_was_not_carried_over_is_told_as_before() {
    let (files, names) = corpus();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/import");
    let mut wrong = Vec::new();
    for name in names {
        let done = import(&sources(&name), &files).unwrap();
        let path = root.join(format!("{name}.notes"));
        let found = told(&done.notes);
        if std::env::var_os("LOCKGATE_BLESS").is_some() {
            fs::write(&path, &found).unwrap();
        }
        let expected = fs::read_to_string(&path).unwrap_or_default();
        if found != expected {
            wrong.push(format!("--- {name}, before\n{expected}--- now\n{found}"));
        }
    }
    assert!(wrong.is_empty(), "LOCKGATE_BLESS=1 takes it as it is now\n{}", wrong.join("\n"));
}

/// A statement that is said to be in the result, and of which nothing else is said, makes a
/// difference there; unless it says what would be so without it.
#[test]
fn what_is_carried_over_makes_a_difference() {
    // The defaults of their programs, or of lockgate; what another line says as well.
    const SAID_ANYWAY: &str = include_str!("tests/said_anyway.txt");
    let mut without_difference = String::new();
    let (files, names) = corpus();
    let without_origins = |done: Result<Imported, Error>| {
        done.ok().map(|done| {
            let lines = done.toml.lines().filter(|line| !line.trim_start().starts_with('#'));
            lines.collect::<Vec<_>>().join("\n")
        })
    };
    for name in names {
        let done = import(&sources(&name), &files).unwrap();
        let text = files.read(Path::new(&name)).unwrap();
        let before = without_origins(Ok(done.clone()));
        for (index, line) in text.lines().enumerate().filter(|(_, line)| says_something(line)) {
            let number = index + 1;
            let on_line: Vec<_> = done
                .lines
                .iter()
                .filter(|one| one.file == name && (one.first..=one.last).contains(&number))
                .collect();
            let is_carried = on_line.iter().any(|one| one.fate == Fate::Carried);
            let has_notes = done.notes.iter().any(|note| note.line == number);
            if !is_carried || has_notes || line.contains(['{', '}']) {
                continue;
            }
            let mut less = files.clone();
            let lines = text.lines().enumerate();
            let lines = lines.map(|(at, line)| if at == index { "" } else { line });
            let shorter = lines.collect::<Vec<_>>().join("\n");
            less.0.insert(name.clone(), shorter);
            let after = without_origins(import(&sources(&name), &less));
            if before == after {
                without_difference.push_str(&format!("{name}:{number}: {}\n", line.trim()));
            }
        }
    }
    if std::env::var_os("LOCKGATE_BLESS").is_some() {
        let path = "src/import/tests/said_anyway.txt";
        fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join(path), &without_difference).unwrap();
        return;
    }
    assert_eq!(without_difference, SAID_ANYWAY);
}

/// Whatever a file is, the result is valid or an error with its line; a mistake of lockgate's own
/// is neither.
fn is_sound(name: &str, text: &str, files: &mut Memory) {
    files.0.insert(name.to_owned(), text.to_owned());
    match import(&sources(name), files) {
        Ok(done) => {
            let valid = config::parse("lockgate.toml", &done.toml);
            assert!(valid.is_ok(), "{}\n{}", valid.unwrap_err(), done.toml);
        }
        Err(Error::Syntax { line, .. }) => {
            assert!(
                (1..=text.lines().count().max(1) + 20).contains(&line),
                "{name}:{line}\n{text}"
            );
        }
        Err(Error::Nothing { .. }) => {}
        Err(error) => panic!("{error}\n--- {name}\n{text}"),
    }
}

/// Every beginning of every configuration of a kind.
fn ends_anywhere(kind: &str) {
    let (mut files, names) = corpus();
    for name in names.iter().filter(|name| name.starts_with(kind)) {
        let text = files.read(Path::new(name)).unwrap();
        for end in (0..text.len()).filter(|&end| text.is_char_boundary(end)) {
            is_sound(name, &text[..end], &mut files);
        }
    }
}

#[test]
fn a_file_of_haproxy_may_end_anywhere() {
    ends_anywhere("haproxy");
}

#[test]
fn a_file_of_nginx_may_end_anywhere() {
    ends_anywhere("nginx");
}

#[test]
fn a_file_of_keepalived_may_end_anywhere() {
    ends_anywhere("keepalived");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 600,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_file_may_be_anything(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec(
            (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0_u8..6),
            1..12,
        ),
    ) {
        const NOISE: [&str; 16] = [
            "{", "}", ";", "\"", "'", "\\", "$", "#", "!", "\n", " 0 ", " 99999999999 ", "é", "\0",
            " -1 ", " ::1 ",
        ];
        let (mut files, names) = corpus();
        let name = which.get(&names);
        let text = files.read(Path::new(name)).unwrap();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        for (at, from, how) in changes {
            if lines.is_empty() {
                break;
            }
            let (at, other) = (at.index(lines.len()), from.index(lines.len()));
            let noise = NOISE[from.index(NOISE.len())];
            match how {
                0 => drop(lines.remove(at)),
                1 => lines.swap(at, other),
                2 => lines.insert(at, lines[other].clone()),
                3 => lines[at].push_str(noise),
                4 => lines[at].insert_str(0, noise),
                _ => {
                    // A word of another line in place of the last.
                    let word = lines[other].split_whitespace().last().unwrap_or("").to_owned();
                    let rest = lines[at].rsplit_once(' ').map_or("", |(rest, _)| rest).to_owned();
                    lines[at] = format!("{rest} {word}");
                }
            }
        }
        is_sound(name, &lines.join("\n"), &mut files);
    }
}

#[test]
fn a_rule_that_keeps_clients_out_never_vanishes() {
    let front = "defaults\n mode tcp\nfrontend f\n bind :80\n default_backend b\n";
    let back = "\nbackend b\n server s 10.0.0.1:80\n";
    for (rule, expected) in [
        ("tcp-request connection reject if { src 10.0.0.0/8 }", "deny = [\"10.0.0.0/8\"]"),
        ("tcp-request connection reject unless { src 10.0.0.0/8 }", "allow = [\"10.0.0.0/8\"]"),
        ("tcp-request connection reject if !{ src 10.0.0.0/8 }", "allow = [\"10.0.0.0/8\"]"),
        ("tcp-request content reject if { src -f /none }", "deny = [\"0.0.0.0/0\", \"::/0\"]"),
        ("tcp-request connection reject if missing", "deny = [\"0.0.0.0/0\", \"::/0\"]"),
        ("tcp-request content reject if { req.ssl_sni x }", "deny = [\"0.0.0.0/0\", \"::/0\"]"),
        ("tcp-request connection reject", "deny = [\"0.0.0.0/0\", \"::/0\"]"),
        ("http-request auth realm x if { path / }", "deny = [\"0.0.0.0/0\", \"::/0\"]"),
        ("http-request deny if { path_beg /x }", "deny = [\"0.0.0.0/0\", \"::/0\"]"),
        ("use_backend none if { src 10.0.0.0/8 }", "deny = [\"10.0.0.0/8\"]"),
        (
            "tcp-request session reject if { src 10.0.0.0/8 } or { src 1.1.1.1 }",
            "deny = [\"1.1.1.1\", \"10.0.0.0/8\"]",
        ),
        ("tcp-request connection reject if { src_conn_cur ge 11 }", "connections = 10"),
    ] {
        let files = Memory::of(&[("h", &format!("{front} {rule}{back}backend none\n"))]);
        let sources = Sources { haproxy: vec![PathBuf::from("h")], ..Sources::default() };
        match import(&sources, &files) {
            Ok(done) => assert!(done.toml.contains(expected), "{rule}\n{}", done.toml),
            // A configuration without these keys has no listener at all.
            Err(Error::Nothing { .. }) => {}
            Err(error) => panic!("{rule}: {error}"),
        }
    }
}

#[test]
fn tls_towards_backends_takes_the_word_ssl() {
    let text = "listen l\n bind :80\n server s 10.0.0.1:80 check check-ssl verify none\n";
    let done = haproxy(text);
    assert!(!done.toml.contains(".tls]"), "{}", done.toml);
    let text = "listen l\n bind :80\n server s 10.0.0.1:80 ssl verify none\n";
    assert!(haproxy(text).toml.contains("[pool.l.tls]\n  verify = false"));
}

#[test]
fn passwords_are_not_repeated() {
    let text = "vrrp_instance a {\n interface eth0\n virtual_router_id 1\n authentication {\n \
                auth_type PASS\n auth_pass hunter2\n }\n virtual_ipaddress {\n 10.0.0.1/24\n }\n}\n";
    let files = Memory::of(&[("keepalived-x.conf", text)]);
    let done = import(&sources("keepalived-x.conf"), &files).unwrap();
    assert!(!done.toml.contains("hunter2") && !told(&done.notes).contains("hunter2"));
    assert!(done.notes.iter().any(|note| note.line == 6 && note.kind == Kind::Lost));
}

#[test]
fn files_of_all_three_are_one_configuration() {
    let (files, _) = corpus();
    let sources = Sources {
        haproxy: vec![PathBuf::from("haproxy-minimal.cfg")],
        nginx: vec![PathBuf::from("nginx-included.conf")],
        keepalived: vec![
            PathBuf::from("keepalived-pair-a.conf"),
            PathBuf::from("keepalived-pair-b.conf"),
        ],
    };
    let done = import(&sources, &files).unwrap();
    let plan = config::parse("lockgate.toml", &done.toml).unwrap();
    assert_eq!((plan.nodes.len(), plan.vrrp.len()), (2, 2));
    // Both listen on one address; lockgate takes the first, and says so.
    assert_eq!(plan.listeners.len(), 1);
    assert!(told(&done.notes).contains("127.0.0.1:8080 overlaps 127.0.0.1:8080"));
    let priorities: Vec<_> =
        plan.nodes.iter().map(|node| plan.vrrp[0].priority(Some(node))).collect();
    assert_eq!(priorities, [150, 100]);
}

#[test]
fn the_rules_of_a_backend_hold_for_who_comes_to_it() {
    let text = "defaults\n mode tcp\nfrontend f\n bind :80\n default_backend b\nbackend b\n \
                tcp-request content reject unless { src 10.0.0.0/8 }\n server s 10.0.0.1:80\n";
    let files = Memory::of(&[("haproxy-x.cfg", text)]);
    match import(&sources("haproxy-x.cfg"), &files) {
        Ok(done) => assert!(done.toml.contains("allow = [\"10.0.0.0/8\"]"), "{}", done.toml),
        Err(error) => assert!(matches!(error, Error::Nothing { .. }), "{error}"),
    }
}
