//! Tests: what they look at, and what they ask for.

use std::path::Path;

use super::super::networks::Networks;
use super::super::{Files, pattern};

/// What a test looks at, and what it asks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Term {
    /// The client's address is in here.
    Source(Networks),
    /// The name that it asks for in TLS is one of these.
    Name(Vec<String>),
    /// The name that it asks for in HTTP is.
    Host(Vec<String>),
    /// It offers one of these protocols.
    Protocol(Vec<String>),
    /// It has said a ClientHello.
    Hello,
    /// TLS is terminated here.
    Terminated,
    /// It came to one of these ports.
    Port(Vec<u16>),
    /// It asks for a challenge of ACME.
    Challenge,
    /// It has more connections than this.
    Connections(u32),
    /// It makes more connections than this, in the period of the table.
    Rate(u32),
    Always,
    Never,
    /// What lockgate cannot tell, and why.
    Unknown(String),
}

/// What a list is whose name everybody knows.
pub(super) fn predefined(name: &str) -> Term {
    match name {
        "TRUE" | "WAIT_END" | "HTTP" | "REQ_CONTENT" => Term::Always,
        "FALSE" => Term::Never,
        "LOCALHOST" => Term::Source(Networks::parse("127.0.0.0/8").unwrap_or_default()),
        name if name.starts_with("METH_") || name.starts_with("HTTP_") => {
            Term::Unknown(NO_HTTP.to_owned())
        }
        name => Term::Unknown(format!("lockgate does not know '{name}'")),
    }
}

const NO_HTTP: &str = "lockgate relays TCP and does not see requests";

/// Reads `FETCH [flags] [operator] VALUES`.
pub(super) fn term(words: &[String], files: &dyn Files) -> Term {
    let Some((fetch, rest)) = words.split_first() else {
        return Term::Unknown("a test is missing".to_owned());
    };
    let mut method = "";
    let mut values: Vec<String> = Vec::new();
    let mut rest = rest.iter();
    while let Some(word) = rest.next() {
        match word.as_str() {
            "-i" | "-n" | "-u" => {}
            "--" => {
                values.extend(rest.by_ref().cloned());
            }
            "-m" => method = rest.next().map_or("", String::as_str),
            "-M" => return Term::Unknown("maps are not read here".to_owned()),
            "-f" => {
                let path = rest.next().map_or("", String::as_str);
                let Ok(text) = files.read(Path::new(path)) else {
                    return Term::Unknown(format!("{path} cannot be read"));
                };
                let lines = text.lines().map(str::trim);
                let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
                values.extend(lines.map(str::to_owned));
            }
            _ => values.push(word.clone()),
        }
    }
    // `req.ssl_sni,lower`: names are compared in lower case anyway.
    let fetch = fetch.strip_suffix(",lower").unwrap_or(fetch);
    let (base, suffix) = ["_beg", "_end", "_dom", "_reg", "_sub", "_dir", "_len"]
        .into_iter()
        .find_map(|suffix| {
            // Of `hdr_end(host)` the end is in the middle.
            let (name, argument) = fetch.split_once('(').map_or((fetch, ""), |(n, a)| (n, a));
            let base = name.strip_suffix(suffix)?;
            let argument = if argument.is_empty() { String::new() } else { format!("({argument}") };
            Some((format!("{base}{argument}"), &suffix[1..]))
        })
        .unwrap_or_else(|| (fetch.to_owned(), method));
    match base.as_str() {
        "src" => source(&values),
        "req.ssl_sni" | "req_ssl_sni" | "ssl_fc_sni" => names(suffix, &values, Term::Name),
        "hdr(host)"
        | "req.hdr(host)"
        | "hdr(Host)"
        | "req.hdr(Host)"
        | "req.hdr(host,1)"
        | "hdr(host,1)"
        | "req.hdr(host),host_only" => names(suffix, &values, Term::Host),
        "req.ssl_alpn" | "ssl_fc_alpn" if suffix.is_empty() || suffix == "str" => {
            Term::Protocol(values)
        }
        "req.ssl_hello_type" | "req_ssl_hello_type" | "req.ssl_ver" | "req_ssl_ver" => Term::Hello,
        "req.len" | "req_len" | "always_true" => Term::Always,
        "always_false" => Term::Never,
        "ssl_fc" => Term::Terminated,
        "dst_port" => match values.iter().filter(|v| *v != "eq").map(|v| v.parse()).collect() {
            Ok(ports) => Term::Port(ports),
            Err(_) => Term::Unknown("a range of ports is not compared".to_owned()),
        },
        "path" | "url" if suffix == "beg" => {
            let is_challenge = |value: &String| value.starts_with("/.well-known");
            if !values.is_empty() && values.iter().all(is_challenge) {
                Term::Challenge
            } else {
                Term::Unknown(NO_HTTP.to_owned())
            }
        }
        base => counted(base, &values),
    }
}

fn source(values: &[String]) -> Term {
    let mut all = Networks::default();
    for value in values {
        match Networks::parse(value) {
            Some(of) => all = all.union(&of),
            None => return Term::Unknown(format!("'{value}' is no network")),
        }
    }
    Term::Source(all)
}

fn names(method: &str, values: &[String], make: fn(Vec<String>) -> Term) -> Term {
    let values = values.iter().map(|value| value.to_ascii_lowercase());
    match method {
        "" | "str" => make(values.collect()),
        // The end of a name: every name below, and the name itself if there is no dot.
        "end" | "dom" => make(
            values
                .flat_map(|value| match value.strip_prefix('.') {
                    Some(parent) => vec![format!("*.{parent}")],
                    None => vec![value.clone(), format!("*.{value}")],
                })
                .collect(),
        ),
        "reg" => {
            let literal: Option<Vec<Vec<String>>> =
                values.map(|value| pattern::names_of_regex(&value)).collect();
            match literal {
                Some(names) => make(names.concat()),
                None => Term::Unknown("names are not compared with regular expressions".to_owned()),
            }
        }
        _ => Term::Unknown("only whole names, and those below a name, are compared".to_owned()),
    }
}

/// What the tables of HAProxy count, of a client.
fn counted(base: &str, values: &[String]) -> Term {
    let name = base.split('(').next().unwrap_or(base);
    let name = name.trim_start_matches("src_");
    let name = match name.strip_prefix("sc") {
        Some(rest) => rest.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start_matches('_'),
        None => name,
    };
    let most = match values {
        [operator, number] => match (operator.as_str(), number.parse::<u32>()) {
            ("gt", Ok(number)) => Some(number),
            ("ge", Ok(number)) => number.checked_sub(1),
            _ => None,
        },
        _ => None,
    };
    match (name, most.filter(|&most| most > 0)) {
        ("conn_cur" | "sess_cur", Some(most)) => Term::Connections(most),
        ("conn_rate" | "sess_rate", Some(most)) => Term::Rate(most),
        _ => Term::Unknown(format!("lockgate does not look at {base}")),
    }
}
