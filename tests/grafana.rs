//! The dashboard for Grafana and the rules for Prometheus, asked of a real Prometheus that scrapes
//! a real pair of gateways with traffic on it.
//!
//! ```text
//!      client                server               gw1          gw2
//!   Prometheus, clients   one that lives       gateway ─VRRP─ gateway
//!                         (and one that does not)
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::lan::{self, FLOATING, GATEWAYS, Lan, SERVER};
use crate::harness::tls::{Authority, Store, visit_tls};
use crate::harness::{Gateway, Launch, StopAtEnd, output_of, until, visit};

const ADMIN: u16 = 8404;
const NAME: &str = "www.example.com";
/// Where Prometheus answers, in its namespace.
const PROMETHEUS: &str = "127.0.0.1:9090";

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn dashboard() -> Value {
    serde_json::from_str(&fs::read_to_string(file("config/grafana/lockgate.json")).unwrap())
        .unwrap()
}

/// Panels that show something.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let all = dashboard["panels"].as_array().unwrap();
    all.iter().filter(|panel| panel["type"] != "row").collect()
}

/// A query with values for the variables, as Grafana puts them in.
fn substituted(query: &str) -> String {
    let query = query
        .replace("$__rate_interval", "5s")
        .replace("$job", "lockgate")
        .replace("$gateway", ".*")
        .replace("$listener", ".*")
        .replace("$pool", ".*");
    assert!(!query.contains('$'), "a variable without a value: {query}");
    query
}

/// Every query of the dashboard, and whose it is.
fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let query = |title: &Value, of: &Value| {
        (title.as_str().unwrap().to_owned(), substituted(of["expr"].as_str().unwrap()))
    };
    let mut queries = Vec::new();
    for panel in panels(dashboard) {
        let targets = panel["targets"].as_array().unwrap();
        queries.extend(targets.iter().map(|target| query(&panel["title"], target)));
    }
    queries
}

/// Words of a query that are names of ours.
fn names(query: &str) -> BTreeSet<&str> {
    let words = query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|w| w.starts_with("lockgate_") || w.starts_with("process_")).collect()
}

/// A running Prometheus; killed when dropped.
struct Prometheus<'a> {
    lan: &'a Lan,
    process: Child,
    directory: TempDir,
}

impl<'a> Prometheus<'a> {
    /// Scrapes both gateways once a second, and has the rules of the project.
    fn start(lan: &'a Lan) -> Self {
        let directory = TempDir::new().unwrap();
        for rules in ["recording.yml", "alerts.yml"] {
            let text = fs::read_to_string(file("config/prometheus").join(rules)).unwrap();
            // Not half a minute for the first of them.
            let text = text.replace("interval: 30s", "interval: 1s");
            fs::write(directory.path().join(rules), text).unwrap();
        }
        let example = fs::read_to_string(file("config/prometheus/prometheus.yml")).unwrap();
        let [one, two] = GATEWAYS.map(|gateway| format!("{gateway}:{ADMIN}"));
        let config = example
            .replace("interval: 15s", "interval: 1s")
            .replace("10.0.1.10:8404", &one)
            .replace("10.0.1.11:8404", &two);
        assert!(config.contains(&one) && config.contains(&two) && config.contains("interval: 1s"));
        fs::write(directory.path().join("prometheus.yml"), config).unwrap();
        let [ip, netns, exec, name] = lan.client.enter();
        let log = fs::File::create(directory.path().join("log")).unwrap();
        let process = Command::new(ip)
            .args([netns, exec, name, "prometheus", "--config.file=prometheus.yml"])
            .args(["--storage.tsdb.path=data", &format!("--web.listen-address={PROMETHEUS}")])
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("prometheus, see scripts/setup");
        let mut prometheus = Self { lan, process, directory };
        until("prometheus is ready", || {
            let ended = prometheus.process.try_wait().unwrap();
            assert!(ended.is_none(), "prometheus ended: {}", prometheus.log());
            prometheus.curl(&["/-/ready"]).filter(|answer| answer.contains("Ready"))
        });
        prometheus
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn curl(&self, arguments: &[&str]) -> Option<String> {
        let (path, rest) = arguments.split_first().unwrap();
        let [ip, netns, exec, name] = self.lan.client.enter();
        let output = output_of(
            Command::new(ip)
                .args([netns, exec, name, "curl", "--silent", "--max-time", "20"])
                .args(rest)
                .arg(format!("http://{PROMETHEUS}{path}")),
        );
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    fn api(&self, arguments: &[&str]) -> Value {
        let answer = self.curl(arguments).expect("prometheus answers");
        let answer: Value = serde_json::from_str(&answer).expect(&answer);
        assert_eq!(answer["status"], "success", "{arguments:?}: {answer}");
        answer["data"].clone()
    }

    /// What a query finds now.
    fn query(&self, query: &str) -> Vec<Value> {
        let query = format!("query={query}");
        let data = self.api(&["/api/v1/query", "--get", "--data-urlencode", &query]);
        data["result"].as_array().unwrap().clone()
    }

    /// The one number that a query finds.
    fn number(&self, query: &str) -> Option<f64> {
        let found = self.query(query);
        found.first().map(|sample| sample["value"][1].as_str().unwrap().parse().unwrap())
    }

    /// Waits until a query finds something.
    #[track_caller]
    fn await_data(&self, what: &str, query: &str) -> Vec<Value> {
        until(&format!("{what}: {query}"), || Some(self.query(query)).filter(|r| !r.is_empty()))
    }
}

impl Drop for Prometheus<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if thread::panicking() {
            eprintln!("--- prometheus\n{}---", self.log());
        }
    }
}

/// Both gateways, with TLS, with a pool of which one backend is dead and known to be, and one of
/// which one is dead and is found out again and again.
fn start(lan: &Lan, store: &Store, authority: &Authority) -> [Gateway; 2] {
    let files = store.put("site", &authority.issue(&[NAME]));
    let (living, dead) =
        (SocketAddr::new(SERVER.into(), 7000), SocketAddr::new(SERVER.into(), 7999));
    let backends = |pool: &str| {
        format!(
            "[[pool.{pool}.backend]]\nname = \"living\"\naddress = \"{living}\"\n\
             [[pool.{pool}.backend]]\nname = \"dead\"\naddress = \"{dead}\"\n"
        )
    };
    let config = format!(
        "[[listener]]\nname = \"https\"\nbind = \"0.0.0.0:443\"\nprotocol = \"tls\"\npool = \"checked\"\n\
         [listener.limit]\nrate = \"1000/s\"\nconnections = 1000\n\
         [listener.tls]\ncertificates = [{{ cert = {:?}, key = {:?} }}]\n\
         [[listener]]\nname = \"plain\"\nbind = \"0.0.0.0:80\"\npool = \"unchecked\"\n\
         [pool.checked]\nhealth = {{ type = \"tcp\", interval = \"500ms\", fast_interval = \"100ms\" }}\n{}\
         [pool.unchecked]\npassive = {{ max_fails = 0 }}\n{}{}",
        files.cert,
        files.key,
        backends("checked"),
        backends("unchecked"),
        lan::pair(""),
    );
    let admin = SocketAddr::from(([0, 0, 0, 0], ADMIN));
    let start =
        |index: usize| Launch::new(&config).http(admin).under(&lan.gateways[index].enter()).start();
    let gateways = [start(0), start(1)];
    lan::await_vrrp(&gateways[0], "master");
    lan::await_vrrp(&gateways[1], "backup");
    gateways
}

/// Everything that a dashboard shows: connections, handshakes, and both that fail.
fn traffic(lan: &Lan, authority: &Authority, stop: &AtomicBool) {
    let client = authority.client();
    let (https, plain) = (SocketAddr::new(FLOATING, 443), SocketAddr::new(FLOATING, 80));
    lan.client.run(|| {
        while !stop.load(Ordering::SeqCst) {
            visit(plain).unwrap();
            visit_tls(&client, NAME, https).unwrap();
            assert!(visit_tls(&client, "other.example.com", https).is_err());
            thread::sleep(Duration::from_millis(20));
        }
    });
}

#[test]
fn every_query_of_the_dashboard_and_every_rule_finds_something() {
    let lan = Lan::new();
    let _server = lan.server("living", 7000);
    let (store, authority) = (Store::new(), Authority::new("authority"));
    let gateways = start(&lan, &store, &authority);
    let prometheus = Prometheus::start(&lan);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        scope.spawn(|| traffic(&lan, &authority, &stop));
        let dashboard = dashboard();
        let queries = queries(&dashboard);
        assert!(queries.len() > 40, "{}", queries.len());

        let scrape = gateways[0].get("/metrics");
        for (panel, query) in &queries {
            for name in names(query) {
                assert!(scrape.contains(name), "{panel}: nothing is called {name}");
            }
            prometheus.await_data(panel, query);
        }
        for variable in &dashboard["templating"]["list"].as_array().unwrap()[1..] {
            let query = variable["definition"].as_str().unwrap();
            let inside = query.strip_prefix("label_values(").and_then(|q| q.strip_suffix(')'));
            let (series, label) = inside.unwrap().rsplit_once(", ").unwrap();
            let found = prometheus.await_data(query, &substituted(series));
            assert!(found.iter().all(|sample| sample["metric"][label].is_string()), "{query}");
        }
        for annotation in dashboard["annotations"]["list"].as_array().unwrap() {
            // Something happens now and then: what is asked is whether it can be asked.
            let expr = substituted(annotation["expr"].as_str().unwrap());
            prometheus.query(&expr);
            prometheus
                .await_data("what annotations are made of", expr.split_once(" > ").unwrap().0);
        }

        for (what, expected) in [
            ("sum(up)", 2.0),
            ("sum(lockgate_vrrp_state == bool 2)", 1.0),
            ("count(lockgate_backend_up{pool=\"checked\"} == 0)", 2.0),
            ("min(lockgate_pool_usable)", 1.0),
            ("min(pool:lockgate_backend_up:ratio)", 0.5),
        ] {
            until(&format!("{what} = {expected}"), || {
                prometheus.number(what).filter(|&found| found == expected)
            });
        }

        let rules = || prometheus.api(&["/api/v1/rules"])["groups"].as_array().unwrap().clone();
        for group in rules() {
            for rule in group["rules"].as_array().unwrap() {
                let name = rule["name"].as_str().unwrap();
                if rule["type"] == "recording" {
                    prometheus.await_data("a recording rule", name);
                }
                for name in names(rule["query"].as_str().unwrap()) {
                    let is_recorded = rule["query"].as_str().unwrap().contains(&format!(":{name}"));
                    assert!(is_recorded || scrape.contains(name), "nothing is called {name}");
                }
            }
        }
        until("all rules have been evaluated", || {
            let groups = rules();
            let all = groups.iter().flat_map(|group| group["rules"].as_array().unwrap());
            let health: Vec<_> = all.map(|rule| rule["health"].as_str().unwrap()).collect();
            health.iter().all(|&health| health == "ok").then_some(())
        });
        // Of what is wrong here, this and nothing else may be told.
        let pending = prometheus.query("ALERTS");
        for alert in &pending {
            let name = alert["metric"]["alertname"].as_str().unwrap();
            let expected = [
                "LockgateBackendDown",
                "LockgatePoolDegraded",
                "LockgateConnectFailures",
                "LockgateTlsHandshakeErrors",
                "LockgateCertificateExpiresSoon",
            ];
            assert!(expected.contains(&name), "{alert}");
        }
    });
}

#[test]
fn the_dashboard_is_well_formed() {
    let dashboard = dashboard();
    let all = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = all.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), all.len(), "ids are unique");
    let titles: BTreeSet<_> = all.iter().map(|panel| panel["title"].as_str().unwrap()).collect();
    assert_eq!(titles.len(), all.len(), "titles are unique");

    let mut taken = BTreeSet::new();
    for panel in all {
        let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24 && at("w") > 0 && at("h") > 0, "{panel}");
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(taken.insert((x, y)), "{} lies over another", panel["title"]);
            }
        }
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    assert_eq!(variables[0]["type"], "datasource");
    for panel in panels(&dashboard) {
        let title = &panel["title"];
        let defaults = &panel["fieldConfig"]["defaults"];
        assert!(!defaults["unit"].as_str().unwrap().is_empty(), "{title} has no unit");
        assert!(panel["description"].as_str().is_some_and(|text| text.len() > 5), "{title}");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        let steps = defaults["thresholds"]["steps"].as_array().unwrap();
        assert!(steps[0]["value"].is_null(), "{title}");
        let values = steps[1..].iter().map(|step| step["value"].as_f64().unwrap());
        assert!(values.is_sorted(), "{title}");
        let targets = panel["targets"].as_array().unwrap();
        let ids: BTreeSet<_> = targets.iter().map(|target| target["refId"].as_str()).collect();
        assert!(!targets.is_empty() && ids.len() == targets.len(), "{title}");
        for target in targets {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            assert!(
                target["legendFormat"].as_str().is_some_and(|text| !text.is_empty()),
                "{title}"
            );
        }
    }
}
