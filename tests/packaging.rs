//! What a distribution gets: the package, the unit, manual pages, completions.

mod systemd;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{lockgate, output_of};

const PROJECT: &str = env!("CARGO_MANIFEST_DIR");

/// Runs something that has to succeed. Returns what it has printed, to both of its outputs.
#[track_caller]
fn printed(command: &mut Command) -> String {
    let output = output_of(command);
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{command:?}: {}\n{text}", output.status);
    text
}

/// Makes the package of the binary that is tested.
fn package(directory: &Path) -> PathBuf {
    let mut script = Command::new(format!("{PROJECT}/scripts/package"));
    script.arg("--binary").arg(lockgate()).arg("--output").arg(directory).arg("--fast");
    printed(&mut script);
    let found = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let found: Vec<_> = found.collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found.into_iter().next().unwrap()
}

/// On a copy of this machine's files, in namespaces: see `install.sh`.
#[test]
fn the_package_installs_runs_and_leaves_nothing_behind() {
    let (output, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let package = package(output.path());
    let fields = printed(Command::new("dpkg-deb").arg("--field").arg(&package));
    let version = format!("Version: {}\n", env!("CARGO_PKG_VERSION"));
    assert!(fields.contains("Package: lockgate\n") && fields.contains(&version), "{fields}");
    let conffiles = printed(Command::new("dpkg-deb").arg("--info").arg(&package).arg("conffiles"));
    assert_eq!(conffiles, "/etc/lockgate/lockgate.toml\n/etc/sysctl.d/50-lockgate.conf\n");
    let lint = ["--allow-root", "--fail-on", "error"];
    printed(Command::new("lintian").args(lint).arg(&package));

    let mut install = Command::new("unshare");
    install.args(["--mount", "--net", "--propagation", "private", "sh"]);
    install.arg(format!("{PROJECT}/tests/packaging/install.sh")).arg(&package).arg(copy.path());
    let told = printed(&mut install);
    assert!(told.contains("left: []"), "{told}");
}

#[test]
fn the_unit_is_valid_and_exposes_little() {
    let unit = format!("{PROJECT}/config/systemd/lockgate.service");
    // With the program and the page that the unit names where they are not installed.
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("lockgate.service");
    let text = fs::read_to_string(&unit).unwrap();
    let here = text.replace("/usr/bin/lockgate", lockgate().to_str().unwrap());
    fs::write(&copy, here.replace("man:lockgate(1) ", "")).unwrap();
    let verified = printed(Command::new("systemd-analyze").arg("verify").arg(&copy));
    assert!(!verified.contains("lockgate.service"), "{verified}");
    let security = ["security", "--offline=true", "--no-pager"];
    let rated = printed(Command::new("systemd-analyze").args(security).arg(&unit));
    let level = rated.split("exposure level for lockgate.service: ").nth(1).unwrap_or(&rated);
    let level: f64 = level.split_whitespace().next().unwrap().parse().unwrap();
    assert!(level <= 2.5, "{rated}");
}

#[test]
fn manual_pages_are_well_formed_and_tell_of_each_command() {
    let directory = tempfile::tempdir().unwrap();
    printed(Command::new(lockgate()).arg("man").arg(directory.path()));
    let pages: Vec<_> =
        fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    let names = |page: &str| pages.iter().any(|found| found.ends_with(page));
    assert!(names("lockgate.1") && names("lockgate-run.1") && names("lockgate-release-vip.1"));
    assert!(!names("lockgate-vip-guard.1"), "{pages:?}");
    for page in &pages {
        let warnings = ["--warnings", "-E", "UTF-8", "-Tutf8", "-Z", "-l"];
        let mut man = Command::new("man");
        man.args(warnings).arg(page).env("LC_ALL", "C.UTF-8");
        let output = output_of(&mut man);
        assert!(output.status.success() && output.stderr.is_empty(), "{page:?}: {output:?}");
        let found = printed(Command::new("mandoc").args(["-T", "lint", "-W", "error"]).arg(page));
        assert_eq!(found, "", "{page:?}");
    }
}

#[test]
fn bash_completes_commands_and_their_options() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("lockgate");
    let complete = |shell: &str| printed(Command::new(lockgate()).args(["completions", shell]));
    fs::write(&file, complete("bash")).unwrap();
    let complete_word = |words: &str, word: &str, before: &str| {
        let script = format!(
            "source {}; COMP_WORDS=({words}); COMP_CWORD=$(({}-1)); \
             _lockgate lockgate '{word}' '{before}'; echo \"${{COMPREPLY[@]}}\"",
            file.display(),
            words.split_whitespace().count(),
        );
        printed(Command::new("bash").args(["--norc", "-c", &script])).trim().to_owned()
    };
    assert_eq!(complete_word("lockgate sta", "sta", "lockgate"), "status");
    assert_eq!(complete_word("lockgate check --pre", "--pre", "check"), "--preflight");
    for (shell, sign) in [("zsh", "#compdef lockgate"), ("fish", "complete -c lockgate")] {
        assert!(complete(shell).contains(sign), "{shell}");
    }
}

/// Against a small database: one advisory that applies, and some that do not.
#[test]
fn an_advisory_that_applies_is_a_failure_and_no_database_is_none() {
    let directory = tempfile::tempdir().unwrap();
    let advise = |package: &str, number: u32, patched: &str| {
        let folder = directory.path().join("crates").join(package);
        fs::create_dir_all(&folder).unwrap();
        let text = format!(
            "```toml\n[advisory]\nid = \"RUSTSEC-2026-{number:04}\"\npackage = \"{package}\"\n\
             date = \"2026-01-01\"\n[versions]\npatched = [\"{patched}\"]\n```\n# Title\n"
        );
        fs::write(folder.join(format!("RUSTSEC-2026-{number:04}.md")), text).unwrap();
    };
    let script = || Command::new(format!("{PROJECT}/scripts/advisories"));
    advise("tokio", 1, ">= 1.0.0");
    advise("not-ours", 2, ">= 99");
    assert!(printed(script().arg(directory.path())).contains("2 advisories"));
    advise("rustls", 3, "^0.22.4, ^0.22");
    let output = output_of(script().arg(directory.path()));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("VULNERABLE: rustls"), "{output:?}");
    let none = output_of(script().env_remove("RUSTSEC_DB").env("CARGO_HOME", directory.path()));
    assert!(none.status.success(), "{none:?}");
    assert!(String::from_utf8_lossy(&none.stderr).contains("NOT CHECKED"), "{none:?}");
}
