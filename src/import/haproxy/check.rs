//! Health checks: `option httpchk`, `option tcp-check` and their rules.

use super::super::ledger::{Id, Ledger};
use super::super::model::Check;
use super::sections::Statement;
use super::settings::Settings;

/// What is checked, and where.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) check: Check,
    /// The check speaks TLS.
    pub(super) is_tls: bool,
    /// `port` of `connect`.
    pub(super) port: Option<u16>,
    /// `sni` of `connect`.
    pub(super) sni: Option<String>,
}

/// Reads the checks of a pool whose backends speak TLS or not.
pub(super) fn check(settings: &Settings<'_>, is_tls: bool, ledger: &mut Ledger) -> Found {
    let mut found = Found { check: Check::Tcp, is_tls, port: None, sni: None };
    let plain = if is_tls { Check::Tls } else { Check::Tcp };
    if let Some(option) = settings.option("httpchk") {
        http(settings, option, &mut found, ledger);
        return found;
    }
    found.check = plain;
    if let Some(option) = settings.option("tcp-check") {
        ledger.carried(option.id);
        exchange(settings, &mut found, ledger);
    } else if let Some(option) = settings.option("ssl-hello-chk") {
        ledger.carried(option.id);
        found.check = Check::Tls;
    } else if let Some(option) = settings.option("redis-check") {
        ledger.carried(option.id);
        let steps = [("send", "PING\r\n"), ("expect", "+PONG")];
        let steps = steps.map(|(key, text)| (key, text.to_owned()));
        found.check = Check::SendExpect(steps.to_vec());
    } else if let Some(option) = settings.option("smtpchk") {
        ledger.carried(option.id);
        found.check = Check::SendExpect(smtp(option));
    } else if let Some(option) = ["mysql-check", "pgsql-check", "ldap-check", "spop-check"]
        .iter()
        .find_map(|name| settings.option(name))
    {
        ledger.changed(option.id, "the check only sees that a connection is accepted");
    }
    found
}

fn http(settings: &Settings<'_>, option: &Statement, found: &mut Found, ledger: &mut Ledger) {
    let words: Vec<&str> = option.all()[2..].to_vec();
    let (mut method, mut path) = match words[..] {
        [] => ("OPTIONS", "/".to_owned()),
        [path] => ("OPTIONS", path.to_owned()),
        [method, path, ..] => (method, path.to_owned()),
    };
    // A name after the version; or HTTP/1.1\r\nHost:\ www.example.com, as it was written before
    // `http-check send`.
    let mut host = words.get(3).map(|name| (*name).to_owned());
    if let Some((_, rest)) =
        words.get(2..).unwrap_or_default().join(" ").to_lowercase().split_once("host:")
    {
        host = rest.split_whitespace().next().map(str::to_owned);
    }
    let mut statuses = Vec::new();
    let mut from = option.id;
    for rule in settings.all(&["http-check"]) {
        let words = rule.all();
        match words.get(1..).unwrap_or_default() {
            ["send", rest @ ..] => {
                from = rule.id;
                ledger.carried(rule.id);
                let mut rest = rest.iter();
                while let Some(word) = rest.next() {
                    match *word {
                        "meth" => method = rest.next().copied().unwrap_or("OPTIONS"),
                        "uri" => path = rest.next().copied().unwrap_or("/").to_owned(),
                        "ver" => drop(rest.next()),
                        "hdr" => {
                            let (name, value) = (rest.next(), rest.next());
                            if name.is_some_and(|name| name.eq_ignore_ascii_case("host")) {
                                host = value.map(|value| (*value).to_owned());
                            } else {
                                ledger.lost(rule.id, "hdr: the check sends no header but Host");
                            }
                        }
                        other => ledger.lost(rule.id, format!("{other}: the check is a plain GET")),
                    }
                }
            }
            ["expect", rest @ ..] => expect_status(rest, rule.id, &mut statuses, ledger),
            ["disable-on-404" | "send-state" | "comment", ..] => {
                ledger.lost(rule.id, "a check knows up and down only");
            }
            ["connect", rest @ ..] => connect(rest, rule.id, found, ledger),
            _ => ledger.lost(rule.id, "the check is one GET and one status"),
        }
    }
    ledger.carried(option.id);
    if method != "GET" {
        ledger.changed(from, format!("the check asks with GET, not {method}"));
    }
    if let Some((before, _)) = path.split_once(|c: char| !c.is_ascii_graphic()) {
        path = before.to_owned();
    }
    if !path.starts_with('/') {
        ledger.changed(from, format!("the check asks for /, not for {path}"));
        path = "/".to_owned();
    }
    if host.is_none() {
        let why = "the check asks with HTTP/1.1 and the backend's address as Host, where HAProxy \
                   sends HTTP/1.0 or no Host: set health.host if the backend insists on a name";
        ledger.changed(from, why);
    }
    found.check = Check::Http { tls: found.is_tls, path, host, statuses };
}

fn expect_status(words: &[&str], id: Id, statuses: &mut Vec<String>, ledger: &mut Ledger) {
    // `min-recv` and its like have a value each.
    let at = words.iter().position(|word| matches!(*word, "status" | "rstatus"));
    let (Some(at), false) = (at, words.contains(&"!")) else {
        let why = "only the status of the answer is looked at: a backend whose answer is another \
                   counts as up";
        ledger.lost(id, why);
        return;
    };
    let value = words.get(at + 1).copied().unwrap_or_default();
    let found: Option<Vec<String>> = if words[at] == "status" {
        value.split(',').map(status).collect()
    } else {
        ranges_of_regex(value)
    };
    match found {
        Some(found) if !found.is_empty() => {
            ledger.carried(id);
            statuses.extend(found);
        }
        _ => ledger.lost(id, "the expression is not understood: 200 to 399 count as up"),
    }
}

fn status(text: &str) -> Option<String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| text.parse::<u16>().ok().filter(|n| (100..=599).contains(n));
    let (first, last) = (number(first)?, number(last)?);
    Some(if first == last { first.to_string() } else { format!("{first}-{last}") })
}

/// `^[23]`, `(2|3)[0-9][0-9]`, `200|301` and their like.
fn ranges_of_regex(regex: &str) -> Option<Vec<String>> {
    let plain: String = regex.chars().filter(|c| !matches!(c, '^' | '$' | '(' | ')')).collect();
    let plain = plain.replace("[0-9]", ".").replace("\\d", ".").replace('.', "");
    let digits = plain.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let parts: Vec<String> = match digits {
        Some(digits) if !digits.contains('-') => digits.chars().map(String::from).collect(),
        Some(_) => return None,
        None => plain.split('|').map(str::to_owned).collect(),
    };
    parts
        .iter()
        .map(|part| match part.len() {
            1 => status(&format!("{part}00-{part}99")),
            3 => status(part),
            _ => None,
        })
        .collect()
}

/// The steps of `tcp-check`, in their order.
fn exchange(settings: &Settings<'_>, check: &mut Found, ledger: &mut Ledger) {
    let mut steps: Vec<(&'static str, String)> = Vec::new();
    let mut told_of_tls = None;
    let mut connects = 0;
    for rule in settings.all(&["tcp-check"]) {
        let words = rule.all();
        match words.get(1..).unwrap_or_default() {
            ["connect", rest @ ..] => {
                connects += 1;
                if connects > 1 || !steps.is_empty() {
                    ledger.lost(
                        rule.id,
                        "a check is one connection: this step, and those after \
                                          it, are left out",
                    );
                    break;
                }
                connect(rest, rule.id, check, ledger);
            }
            ["send", text, ..] => {
                steps.push(("send", (*text).to_owned()));
                told_of_tls = Some(rule.id);
                ledger.carried(rule.id);
            }
            ["send-binary", hex, ..] => match text_of_hex(hex) {
                Some(text) => {
                    steps.push(("send", text));
                    told_of_tls = Some(rule.id);
                    ledger.carried(rule.id);
                }
                None => {
                    ledger.lost(rule.id, format!("{NO_BINARY}: the check ends before it"));
                    break;
                }
            },
            ["expect", rest @ ..] => match expected(rest) {
                Ok(step) => {
                    steps.push(step);
                    told_of_tls = Some(rule.id);
                    ledger.carried(rule.id);
                }
                Err(why) => ledger.lost(
                    rule.id,
                    format!(
                        "{why}: mind that backends which only this step told apart (a primary \
                         from its replicas, say) all count as up"
                    ),
                ),
            },
            ["comment", ..] => ledger.needless(rule.id, "it only explains"),
            _ => ledger.lost(rule.id, "a check sends texts and expects texts"),
        }
    }
    if check.is_tls {
        if let Some(id) = told_of_tls {
            ledger.lost(id, "what is sent and expected within TLS is left out of the check");
        }
        check.check = Check::Tls;
        return;
    }
    // What is sent last, and not answered, makes no difference.
    if steps.iter().any(|(key, _)| *key != "send") {
        check.check = Check::SendExpect(steps);
    } else if !steps.is_empty()
        && let Some(id) = told_of_tls
    {
        ledger.lost(
            id,
            "nothing is expected in return: the check only sees that a connection \
                         is accepted",
        );
    }
}

/// `connect` of `tcp-check` and `http-check`.
fn connect(words: &[&str], id: Id, check: &mut Found, ledger: &mut Ledger) {
    ledger.carried(id);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "default" | "linger" => {}
            "ssl" => check.is_tls = true,
            "port" => match words.next().and_then(|port| port.parse().ok()) {
                Some(port @ 1..) => check.port = Some(port),
                _ => ledger.lost(id, "port: it is no number: the port of the backend is checked"),
            },
            "sni" => check.sni = words.next().map(|name| (*name).to_owned()),
            "comment" => drop(words.next()),
            "addr" | "alpn" | "proto" => {
                let value = words.next().copied().unwrap_or_default();
                ledger.lost(id, format!("{word} {value}: the check connects without it"));
            }
            _ => ledger.lost(id, format!("{word}: the check connects without it")),
        }
    }
}

const NO_BINARY: &str = "only bytes up to 7f can be written in a check";

/// What `send-binary` and `expect binary` write in hexadecimal digits, if it is text.
fn text_of_hex(hex: &str) -> Option<String> {
    let digits: Vec<u32> = hex.chars().map(|c| c.to_digit(16)).collect::<Option<_>>()?;
    if digits.is_empty() || !digits.len().is_multiple_of(2) {
        return None;
    }
    digits
        .chunks_exact(2)
        .map(|pair| char::from_u32(pair[0] * 16 + pair[1]).filter(char::is_ascii))
        .collect()
}

/// The step of an `expect`: a text that HAProxy looks for anywhere in the answer, or an expression.
fn expected(words: &[&str]) -> Result<(&'static str, String), String> {
    match words {
        ["string", text] => Ok(("expect_contains", (*text).to_owned())),
        ["rstring", regex] => Ok(("expect_regex", (*regex).to_owned())),
        ["binary", hex] => {
            let text = text_of_hex(hex).ok_or_else(|| NO_BINARY.to_owned())?;
            Ok(("expect_contains", text))
        }
        ["!", ..] => Err("what must not be answered is not looked for".to_owned()),
        [
            "min-recv" | "comment" | "ok-status" | "error-status" | "tout-status" | "on-success"
            | "on-error" | "status-code",
            _,
            rest @ ..,
        ] => expected(rest),
        [what, ..] => Err(format!("{what}: texts and regular expressions are looked for")),
        [] => Err("nothing is expected".to_owned()),
    }
}

/// `option smtpchk`: the greeting, a HELO, its answer, and a farewell, as HAProxy does.
fn smtp(option: &Statement) -> Vec<(&'static str, String)> {
    let (helo, domain) = match (option.word(2), option.word(3)) {
        (helo @ ("HELO" | "EHLO"), domain) if !domain.is_empty() => (helo, domain),
        _ => ("HELO", "localhost"),
    };
    vec![
        ("expect_regex", "(?m)^220[ \\r].*\\n".to_owned()),
        ("send", format!("{helo} {domain}\r\n")),
        ("expect_regex", "(?m)^2[0-9][0-9]".to_owned()),
        ("send", "QUIT\r\n".to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_check_expects() {
        for (words, step) in [
            (&["string", "PONG"][..], Ok(("expect_contains", "PONG"))),
            (&["rstring", "^\\+OK"], Ok(("expect_regex", "^\\+OK"))),
            (&["comment", "x", "min-recv", "4", "string", "+"], Ok(("expect_contains", "+"))),
            (&["binary", "2b4F4b0d0a"], Ok(("expect_contains", "+OK\r\n"))),
            (&["binary", "ff"], Err(())),
            (&["!", "string", "PONG"], Err(())),
            (&["string-lf", "%[x]"], Err(())),
            (&[], Err(())),
        ] {
            let found = expected(words).map_err(drop);
            assert_eq!(found, step.map(|(key, text)| (key, text.to_owned())), "{words:?}");
        }
    }
}
