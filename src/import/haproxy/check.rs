//! Health checks: `option httpchk`, `option tcp-check` and their rules.

use super::super::ledger::{Id, Ledger};
use super::super::model::Check;
use super::sections::Statement;
use super::settings::Settings;

/// What is checked, in a pool whose backends speak TLS or not.
pub(super) fn check(
    settings: &Settings<'_>,
    is_tls: bool,
    name: Option<&str>,
    ledger: &mut Ledger,
) -> Check {
    let plain = if is_tls { Check::Tls } else { Check::Tcp };
    if let Some(option) = settings.option("httpchk") {
        return http(settings, option, is_tls, name, ledger);
    }
    if let Some(option) = settings.option("tcp-check") {
        ledger.carried(option.id);
        return exchange(settings, is_tls, ledger).unwrap_or(plain);
    }
    if let Some(option) = settings.option("ssl-hello-chk") {
        ledger.carried(option.id);
        return Check::Tls;
    }
    if let Some(option) = settings.option("redis-check") {
        ledger.carried(option.id);
        return Check::SendExpect { send: "PING\r\n".to_owned(), expect: "+PONG".to_owned() };
    }
    if let Some(option) = settings.option("smtpchk") {
        ledger.changed(option.id, "the greeting is looked at, and no HELO sent");
        return Check::SendExpect { send: String::new(), expect: "220".to_owned() };
    }
    for name in ["mysql-check", "pgsql-check", "ldap-check", "spop-check"] {
        if let Some(option) = settings.option(name) {
            ledger.changed(option.id, "the check only sees that a connection is accepted");
            return plain;
        }
    }
    plain
}

fn http(
    settings: &Settings<'_>,
    option: &Statement,
    is_tls: bool,
    name: Option<&str>,
    ledger: &mut Ledger,
) -> Check {
    let words: Vec<&str> = option.all()[2..].to_vec();
    let (mut method, mut path) = match words[..] {
        [] => ("OPTIONS", "/".to_owned()),
        [path] => ("OPTIONS", path.to_owned()),
        [method, path, ..] => (method, path.to_owned()),
    };
    // HTTP/1.1\r\nHost:\ www.example.com, as it was written before `http-check send`.
    let mut host = name.map(str::to_owned);
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
            ["connect", rest @ ..] => {
                ledger.carried(rule.id);
                for word in rest {
                    if !matches!(*word, "ssl" | "default") {
                        ledger.lost(rule.id, "the check connects as clients' connections do");
                    }
                }
            }
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
    Check::Http { tls: is_tls, path, host, statuses }
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

/// The first thing that is sent and the first that is expected.
fn exchange(settings: &Settings<'_>, is_tls: bool, ledger: &mut Ledger) -> Option<Check> {
    let (mut send, mut expect): (Option<String>, Option<String>) = (None, None);
    let mut connects_with_tls = is_tls;
    let mut first_lost = None;
    for rule in settings.all(&["tcp-check"]) {
        let words = rule.all();
        let words = words.get(1..).unwrap_or_default();
        match words {
            ["connect", rest @ ..] if expect.is_none() => {
                connects_with_tls |= rest.contains(&"ssl");
                ledger.carried(rule.id);
            }
            ["send", text, ..] if send.is_none() && expect.is_none() => {
                send = Some((*text).to_owned());
                ledger.carried(rule.id);
            }
            ["expect", rest @ ..] if expect.is_none() => match expected(rest) {
                Some(text) => {
                    expect = Some(text);
                    ledger.changed(rule.id, "the answer has to begin with it");
                }
                None => ledger.lost(rule.id, "only a text is expected, at the beginning"),
            },
            ["comment", ..] => ledger.needless(rule.id, "it only explains"),
            _ => {
                first_lost.get_or_insert(rule.id);
                ledger.lost(
                    rule.id,
                    "a check sends once and expects once: mind that backends which only this \
                     step told apart (a primary from its replicas, say) all count as up",
                );
            }
        }
    }
    let Some(expect) = expect else {
        return connects_with_tls.then_some(Check::Tls);
    };
    if connects_with_tls {
        if let Some(lost) =
            first_lost.or_else(|| settings.option("tcp-check").map(|option| option.id))
        {
            ledger.lost(lost, "what is sent and expected within TLS is left out of the check");
        }
        return Some(Check::Tls);
    }
    Some(Check::SendExpect { send: send.unwrap_or_default(), expect })
}

fn expected(words: &[&str]) -> Option<String> {
    match words {
        ["string", text] => Some((*text).to_owned()),
        ["rstring", regex] => {
            let text = regex.strip_prefix('^')?.replace("\\+", "+").replace("\\.", ".");
            let is_plain =
                |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | ' ' | '-' | '_' | '/');
            (!text.is_empty() && text.chars().all(is_plain)).then_some(text)
        }
        ["min-recv" | "comment", _, rest @ ..] => expected(rest),
        _ => None,
    }
}
