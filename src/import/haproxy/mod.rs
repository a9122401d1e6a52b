//! haproxy.cfg: `sections` reads it, `settings` finds what holds in a proxy, `pool` and `frontend`
//! say what that means to lockgate.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use super::ledger::{Kind, Ledger};
use super::model::Model;
use super::{Error, Files, pattern};
use acl::{Lists, Setting};
use frontend::{Context, Target};
use sections::{Section, in_force};
use settings::{Global, MILLISECOND, Settings};

mod access;
mod acl;
mod bind;
mod check;
mod frontend;
mod known;
mod lex;
mod pool;
mod routing;
mod sections;
mod server;
mod settings;
mod term;

/// Adds what these files say.
pub(super) fn import(
    paths: &[PathBuf],
    files: &dyn Files,
    model: &mut Model,
    ledger: &mut Ledger,
) -> Result<(), Error> {
    let sections = sections::read(paths, files, ledger)?;
    let mut global = Global::default();
    for section in &sections {
        ledger.structure(section.id);
        if section.kind == "global" {
            read_global(section, &mut global, model, ledger);
        }
    }
    let period = period(&sections);
    let ports = ports(&sections, &global, files);
    let mut targets: HashMap<String, Target> = HashMap::new();
    let is_on = |section: &Section, settings: &Settings<'_>, ledger: &mut Ledger| {
        let disabled = settings.disabled();
        if let Some(id) = disabled {
            ledger.carried(id);
            for statement in &section.statements {
                ledger.lost_unless_told(statement.id, "its section is disabled");
            }
        }
        disabled.is_none()
    };
    for (index, section) in sections.iter().enumerate() {
        let settings = Settings(in_force(&sections, index));
        let is_proxy = matches!(section.kind.as_str(), "backend" | "listen");
        if !is_proxy || !is_on(section, &settings, ledger) {
            continue;
        }
        let ports = ports.get(&section.name).map_or(&[][..], Vec::as_slice);
        let mut target = Target {
            pool: pool::pool(section, &settings, ports, &global, model, ledger),
            server: settings.timeout("server", ledger).map(|(time, _)| time),
            tunnel: settings.timeout("tunnel", ledger).map(|(time, _)| time),
            ..Target::default()
        };
        if section.kind == "backend" {
            settings.is_http(ledger);
            let mut lists = Lists::default();
            for statement in settings.all(&["acl"]) {
                lists.add(statement, files);
            }
            let setting = Setting { is_tls: true, ports };
            target.rules = access::rules(&settings, &lists, setting, period, files, ledger);
            if target.pool.is_none() {
                ledger.lost(section.id, "it has no servers that lockgate could send clients to");
            }
        }
        targets.insert(section.name.clone(), target);
    }
    let context = Context { global: &global, targets: &targets, period, files };
    for (index, section) in sections.iter().enumerate() {
        let settings = Settings(in_force(&sections, index));
        let is_proxy = matches!(section.kind.as_str(), "frontend" | "listen");
        if !is_proxy || !is_on(section, &settings, ledger) {
            continue;
        }
        if is_for_statistics(section, &targets) {
            let why = "lockgate's own dashboard and metrics are at admin.http";
            ledger.lost(section.id, why);
            for statement in &section.statements {
                ledger.needless(statement.id, why);
            }
            continue;
        }
        frontend::listeners(section, &settings, &context, model, ledger);
    }
    // Only now is it known what nobody had a use for.
    for (index, section) in sections.iter().enumerate() {
        if matches!(section.kind.as_str(), "frontend" | "backend" | "listen") {
            Settings(in_force(&sections, index)).account(ledger);
        }
    }
    for section in &sections {
        rest(section, ledger);
    }
    Ok(())
}

/// A section that only shows the program's own statistics.
fn is_for_statistics(section: &Section, targets: &HashMap<String, Target>) -> bool {
    let begins = |first: &str| section.statements.iter().any(|s| s.word(0) == first);
    let has_pool = targets.get(&section.name).is_some_and(|target| target.pool.is_some());
    let shows = begins("stats")
        || section.statements.iter().any(|s| {
            s.words.iter().any(|word| word == "prometheus-exporter") || s.word(0) == "monitor-uri"
        });
    shows && !has_pool && !begins("use_backend") && !begins("default_backend")
}

fn rest(section: &Section, ledger: &mut Ledger) {
    let why = match section.kind.as_str() {
        "global" => return,
        "defaults" => "no section that takes its defaults from here has a use for it",
        "resolvers" => {
            "names are resolved by the system's resolver, again when their TTL ends: see that \
             /etc/resolv.conf names servers that know them"
        }
        "peers" => "lockgate shares no tables; see [pair] for what two gateways share",
        "userlist" => "lockgate asks for no passwords",
        "mailers" => "alerts belong to what reads the metrics; see config/prometheus",
        "program" => "the service manager runs programs",
        "ring" | "log-forward" | "traces" | "log-profile" => {
            "lockgate writes its log to standard output and standard error"
        }
        "cache" | "fcgi-app" | "http-errors" => "lockgate relays TCP and does not see requests",
        "crt-store" | "crt-list" => "name the certificates in [listener.tls]",
        "acme" => "a redirect listener serves the challenges of an ACME client; see acme_dir",
        _ => return,
    };
    for statement in &section.statements {
        ledger.lost_unless_told(statement.id, why);
    }
}

fn read_global(section: &Section, global: &mut Global, model: &mut Model, ledger: &mut Ledger) {
    for statement in &section.statements {
        let id = statement.id;
        let value = statement.word(1);
        let rest = statement.words.get(1..).unwrap_or_default();
        match statement.word(0) {
            "maxconn" => {
                model.max_connections = value.parse().ok().filter(|&most| most > 0);
                ledger.carried(id);
            }
            "nbthread" => {
                model.workers = value.parse().ok().filter(|n| (1..=1024).contains(n));
                ledger.carried(id);
            }
            "hard-stop-after" => {
                model.drain_timeout = pattern::duration(value, MILLISECOND);
                ledger.carried(id);
            }
            "crt-base" => {
                global.crt_base = Some(value.to_owned());
                ledger.carried(id);
            }
            "ca-base" => {
                global.ca_base = Some(value.to_owned());
                ledger.carried(id);
            }
            "ssl-default-bind-ciphers" => {
                global.ciphers = Some((value.to_owned(), id));
                ledger.needless(id, "it holds where a bind has TLS");
            }
            "ssl-default-bind-ciphersuites" => {
                global.ciphersuites = Some((value.to_owned(), id));
                ledger.needless(id, "it holds where a bind has TLS");
            }
            "ssl-default-bind-options" => {
                global.bind_options.push((rest.to_vec(), id));
                ledger.carried(id);
            }
            "ssl-server-verify" => {
                global.ssl_verify_none = value == "none";
                ledger.carried(id);
            }
            _ => match known::global(&statement.all()) {
                Some((Kind::Needless, why)) => ledger.needless(id, why),
                Some((_, why)) => ledger.lost(id, why),
                None => {}
            },
        }
    }
}

/// Over which time connections are counted, in any table.
fn period(sections: &[Section]) -> Option<Duration> {
    let statements = sections.iter().flat_map(|section| &section.statements);
    let tables = statements.filter(|statement| statement.word(0) == "stick-table");
    let words = tables.flat_map(|statement| &statement.words);
    let counts = words.flat_map(|word| ["conn_rate(", "sess_rate("].map(|rate| (word, rate)));
    counts.filter_map(|(word, rate)| word.split_once(rate)).find_map(|(_, rest)| {
        pattern::duration(rest.split(')').next()?, MILLISECOND).filter(|time| !time.is_zero())
    })
}

/// The ports that clients of a backend came to.
fn ports(sections: &[Section], global: &Global, files: &dyn Files) -> HashMap<String, Vec<u16>> {
    let mut ports: HashMap<String, HashSet<u16>> = HashMap::new();
    for (index, section) in sections.iter().enumerate() {
        if !matches!(section.kind.as_str(), "frontend" | "listen") {
            continue;
        }
        let settings = Settings(in_force(sections, index));
        // What is wrong with them is told when the listeners are made.
        let mut aside = Ledger::default();
        let aside_id = aside.enter(0, 0, 0, "");
        let own: HashSet<u16> = settings
            .all(&["bind"])
            .filter_map(|statement| {
                let statement = sections::Statement { id: aside_id, ..statement.clone() };
                let plain: Vec<String> = statement.words.iter().take(2).cloned().collect();
                let statement = sections::Statement { words: plain, ..statement };
                let none = Global { bind_options: Vec::new(), ..global.clone() };
                bind::bind(&statement, false, &none, files, &mut aside)
            })
            .flat_map(|bind| bind.addresses)
            .map(|address| address.port())
            .collect();
        let named = settings
            .0
            .iter()
            .filter(|statement| matches!(statement.word(0), "use_backend" | "default_backend"));
        let named = named.map(|statement| statement.word(1));
        for name in named.chain([section.name.as_str()]) {
            ports.entry(name.to_owned()).or_default().extend(&own);
        }
    }
    ports.into_iter().map(|(name, ports)| (name, ports.into_iter().collect())).collect()
}
