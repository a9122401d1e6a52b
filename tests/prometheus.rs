//! The rules for Prometheus, judged by its own tools. `alerts.yml`, in the directory beside this file,
//! has a test for each alert.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::output_of;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Has `promtool` judge files.
#[track_caller]
fn promtool(arguments: &[&str], files: &[&str]) {
    let files = files.iter().map(|name| file(name));
    let output = output_of(Command::new("promtool").args(arguments).args(files));
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(output.status.success(), "{}", said.concat());
}

const RULES: [&str; 2] = ["config/prometheus/recording.yml", "config/prometheus/alerts.yml"];
const TESTS: &str = "tests/prometheus/alerts.yml";

/// Names of all alerts.
fn alerts(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect()
}

#[test]
fn the_rules_and_the_example_are_valid() {
    promtool(&["check", "rules"], &RULES);
    promtool(&["check", "config"], &["config/prometheus/prometheus.yml"]);
}

#[test]
fn alerts_fire_when_they_should_and_not_otherwise() {
    promtool(&["test", "rules"], &[TESTS]);
}

#[test]
fn every_alert_is_tested() {
    let [_, rules] = RULES.map(|name| fs::read_to_string(file(name)).unwrap());
    let tests = fs::read_to_string(file(TESTS)).unwrap();
    let names = alerts(&rules);
    assert!(names.len() > 20, "{names:?}");
    for name in names {
        assert!(tests.contains(&format!("alertname=\"{name}\"")), "{name} never fires in a test");
    }
}

#[test]
fn every_alert_says_how_bad_it_is_what_it_means_and_what_to_do() {
    let rules = fs::read_to_string(file(RULES[1])).unwrap();
    for rule in rules.split("- alert: ").skip(1) {
        let has = |key: &str| rule.contains(&format!("{key}: \""));
        assert!(has("summary") && has("description") && has("runbook"), "{rule}");
        let severe = ["critical", "warning"].map(|how| format!("severity: {how} }}"));
        assert!(severe.iter().any(|severity| rule.contains(severity)), "{rule}");
    }
}

/// That the tests above can fail: an alert that never fires, and one that always does.
#[test]
fn an_alert_that_is_wrong_is_found_out() {
    let directory = tempfile::TempDir::new().unwrap();
    let copy = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    for name in [RULES[0], TESTS] {
        copy(name, &fs::read_to_string(file(name)).unwrap());
    }
    let rules = fs::read_to_string(file(RULES[1])).unwrap();
    let verdict = |rules: &str| {
        copy(RULES[1], rules);
        let tests = directory.path().join(TESTS);
        output_of(Command::new("promtool").args(["test", "rules"]).arg(tests)).status.success()
    };
    assert!(verdict(&rules));
    let right = "expr: lockgate_pool_usable == 0";
    for wrong in ["expr: lockgate_pool_usable == 2", "expr: lockgate_pool_usable >= 0"] {
        assert!(rules.contains(right));
        assert!(!verdict(&rules.replace(right, wrong)), "{wrong}");
    }
}
