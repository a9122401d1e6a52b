//! The arrows that must never be, kept by a machine: which file may name what.
//!
//! ARCHITECTURE.md has the reasons.

use std::fs;
use std::path::{Path, PathBuf};

/// All Rust files under a directory of the project, with their text up to their tests.
fn sources(directory: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut directories: Vec<PathBuf> = vec![root.join(directory)];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("the project's own directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).expect("inside").display().to_string();
                if name.contains("/tests") {
                    continue;
                }
                let text = fs::read_to_string(&path).expect("readable");
                let code = text.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
                found.push((name, code));
            }
        }
    }
    assert!(!found.is_empty(), "{directory} has no Rust files");
    found
}

/// Fails for each line of code in `directory`, outside the files that begin with one of `except`,
/// that has one of `words`.
fn forbid(directory: &str, except: &[&str], words: &[&str], reason: &str) {
    let mut found = Vec::new();
    for (name, text) in sources(directory) {
        if except.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if words.iter().any(|word| code.contains(word)) {
                found.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{reason}:\n{}", found.join("\n"));
}

#[test]
fn pure_modules_touch_no_runtime_no_socket_and_no_clock() {
    let world = [
        "tokio",
        "socket2",
        "nix::",
        "libc::",
        "Instant::now",
        "SystemTime::now",
        "crate::socket",
        "crate::pool",
        "crate::worker",
        "crate::control",
        "crate::admin",
        "crate::tls",
        "std::fs",
    ];
    for pure in ["src/balance", "src/health", "src/limit", "src/proto"] {
        forbid(pure, &[], &world, "decisions are functions of what they are given");
    }
    for pure in ["src/access.rs", "src/control/pulse.rs", "src/control/tracking.rs"] {
        let others: Vec<_> = sources("src").into_iter().map(|(name, _)| name).collect();
        let others: Vec<_> =
            others.iter().map(String::as_str).filter(|name| *name != pure).collect();
        forbid("src", &others, &world, "decisions are functions of what they are given");
    }
    let shell = ["vrrp/src/linux"];
    forbid("vrrp/src", &shell, &world, "decisions are functions of what they are given");
    let shell = ["src/event_loop/mod.rs", "src/event_loop/source.rs", "src/event_loop/task.rs"];
    forbid("src/event_loop", &shell, &world, "the wheel is a function of what it is given");
    let reading = ["src/import/mod.rs"];
    forbid("src/import", &reading, &world, "an import is a function of its files");
    let loading = ["src/config/mod.rs"];
    forbid("src/config", &loading, &world, "a configuration is a function of its text");
}

#[test]
fn the_data_plane_knows_a_snapshot_and_not_a_file() {
    for file in [
        "src/connection",
        "src/worker",
        "src/socket.rs",
        "src/event_loop",
        "src/access.rs",
        "src/guard.rs",
        "src/limit",
        "src/pool.rs",
        "src/snapshot.rs",
        "src/relay",
    ] {
        let text: Vec<_> =
            sources("src").into_iter().filter(|(name, _)| name.starts_with(file)).collect();
        assert!(!text.is_empty(), "{file} is gone: mend this test");
        for (name, text) in text {
            for above in ["crate::config", "crate::control", "crate::admin", "crate::cli"] {
                assert!(!text.contains(above), "{name} must not know {above}");
            }
        }
    }
}

/// Its channels are no part of its runtime, and serve workers as well.
#[test]
fn workers_have_a_loop_of_their_own_and_no_runtime() {
    let runtime = ["tokio::net", "tokio::time", "tokio::task", "tokio::runtime", "tokio::io"];
    for plane in ["src/event_loop", "src/relay", "src/worker", "src/connection"] {
        forbid(plane, &[], &runtime, "a worker has no tokio runtime");
    }
    let others = sources("src").into_iter().map(|(name, _)| name);
    let others: Vec<_> = others
        .filter(|name| {
            !["src/connection.rs", "src/worker.rs", "src/socket.rs"].contains(&name.as_str())
        })
        .collect();
    let others: Vec<_> = others.iter().map(String::as_str).collect();
    forbid("src", &others, &runtime, "a worker has no tokio runtime");
}

#[test]
fn only_the_control_plane_sets_weights() {
    let except = ["src/control", "src/pool.rs", "src/balance/cell.rs"];
    forbid("src", &except, &["set_weight("], "weights have one writer");
}

#[test]
fn rustls_stays_in_its_folder() {
    forbid("src", &["src/tls"], &["rustls"], "the next version of rustls is to touch one folder");
}

#[test]
fn vrrp_is_known_at_its_seam_and_knows_nothing_of_the_gateway() {
    let seam = ["src/control/failover", "src/cli/mod.rs", "src/cli/release.rs"];
    forbid("src", &seam, &["lockgate_vrrp::"], "VRRP has one seam");
    forbid("vrrp/src", &[], &["lockgate::"], "the crate is of use without the gateway");
    let shell = ["vrrp/src/linux", "vrrp/src/lib.rs"];
    forbid("vrrp/src", &shell, &["crate::linux"], "the core runs on anything");
    forbid("src", &[], &["pnet"], "frames are made in vrrp/src/linux");
    forbid("vrrp/src", &["vrrp/src/linux"], &["pnet"], "frames are made in vrrp/src/linux");
}

#[test]
fn unsafe_stays_in_one_file() {
    forbid(
        "src",
        &["src/socket.rs"],
        &["unsafe {", "unsafe fn", "unsafe impl"],
        "one file has the proofs",
    );
    forbid(
        "vrrp/src",
        &["vrrp/src/linux/sys.rs"],
        &["unsafe {", "unsafe fn", "unsafe impl"],
        "one file has the proofs",
    );
}

/// All documents under a directory of the project.
fn documents(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("the project's own directory") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            found.extend(documents(&path));
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
    found
}

/// The anchors of a document's headings.
fn anchors(document: &Path) -> Vec<String> {
    let text = fs::read_to_string(document).expect("readable");
    let headings = text.lines().filter_map(|line| line.strip_prefix('#'));
    let anchor = |heading: &str| {
        let heading = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        heading.chars().filter(|&c| c.is_alphanumeric() || c == '-' || c == '_').collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn links_in_documents_lead_somewhere() {
    let (mut links, mut dead) = (0, Vec::new());
    for document in documents(Path::new(env!("CARGO_MANIFEST_DIR"))) {
        let text = fs::read_to_string(&document).expect("readable");
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
        for target in targets.filter(|target| !target.contains(':')) {
            links += 1;
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = match path {
                "" => document.clone(),
                path => document.with_file_name(path),
            };
            let leads = file.exists()
                && (anchor.is_empty() || anchors(&file).iter().any(|found| found == anchor));
            if !leads {
                dead.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert!(links > 50, "{links} links");
    assert!(dead.is_empty(), "links that lead nowhere:\n{}", dead.join("\n"));
}
