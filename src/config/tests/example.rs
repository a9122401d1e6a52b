//! The annotated example: valid, complete, and true of the defaults.

use super::*;

#[test]
fn the_example_is_valid_and_shows_the_defaults() {
    let shown = parse("lockgate.toml", EXAMPLE).unwrap();
    let bare = r#"
[[listener]]
name = "web"
bind = ["0.0.0.0:8080", "[::]:8080"]
pool = "web"
[pool.web.health]
[[pool.web.backend]]
name = "web-1"
address = "127.0.0.1:3000"
[[pool.web.backend]]
address = "127.0.0.1:3001"
"#;
    assert_eq!(shown, parse("t.toml", bare).unwrap());
}

#[test]
fn the_example_shows_the_defaults_of_other_checks() {
    let mut http = EXAMPLE.replace("type = \"tcp\"", "type = \"http\"");
    for key in ["tls", "path", "host", "expect_status"] {
        http = http.replace(&format!("# {key} = "), &format!("{key} = "));
    }
    let bare = EXAMPLE.replace("type = \"tcp\"", "type = \"http\"");
    assert_eq!(parse("t.toml", &http).unwrap(), parse("t.toml", &bare).unwrap());

    let send = EXAMPLE
        .replace("type = \"tcp\"", "type = \"send_expect\"")
        .replace("# send = ", "send = ")
        .replace("# expect = ", "expect = ");
    parse("t.toml", &send).unwrap();
}

/// The example with all of its sections: those in comments begin with a header and end at an empty
/// line.
fn uncommented() -> String {
    let mut is_inside = false;
    let mut text = String::new();
    for line in EXAMPLE.lines() {
        is_inside = !line.is_empty() && (is_inside || line.starts_with("# ["));
        let bare = line.strip_prefix("# ").or_else(|| line.strip_prefix('#')).unwrap_or(line);
        text.push_str(if is_inside { bare } else { line });
        text.push('\n');
    }
    text
}

#[test]
fn the_example_shows_the_defaults_of_tls_and_vrrp() {
    let bare = r#"
[node.gw1]
address = "10.0.1.10"
priority = 150
[node.gw2]
address = "10.0.1.11"
[[listener]]
name = "web"
bind = ["0.0.0.0:8080", "[::]:8080"]
pool = "web"
[listener.limit]
[[listener]]
name = "https"
bind = ["0.0.0.0:8443", "[::]:8443"]
protocol = "tls"
pool = "web"
[[listener.tls.certificates]]
cert = "/etc/lockgate/example.com.pem"
key = "/etc/lockgate/example.com.key"
[[listener.route]]
sni = ["admin.example.com", "*.internal.example.com"]
pool = "web"
[[listener]]
name = "passthrough"
bind = ["0.0.0.0:9443", "[::]:9443"]
protocol = "tls_passthrough"
pool = "web"
[[listener]]
name = "http"
bind = ["0.0.0.0:80", "[::]:80"]
protocol = "redirect"
[pool.web.tls]
[pool.web.health]
[[pool.web.backend]]
name = "web-1"
address = "127.0.0.1:3000"
[[pool.web.backend]]
address = "127.0.0.1:3001"
[[vrrp]]
name = "public"
interface = "eth0"
vrid = 51
addresses = "10.0.1.100/24"
"#;
    let shown = parse("lockgate.toml", &uncommented()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(shown, parse("t.toml", bare).unwrap());
}

#[test]
fn the_example_shows_every_key() {
    let example = uncommented();
    for section in known::SECTIONS {
        let name = if section.title == "[node.NAME]" { "gw1" } else { "web" };
        let title = section.title.replace("NAME", name);
        let path = match title.trim_matches(['[', ']']) {
            "the file" => String::new(),
            path => format!("{path}."),
        };
        for key in section.keys {
            let (written, below) = (format!("{key} = "), format!("{path}{key}"));
            let mut is_inside = false;
            let is_shown = example.lines().any(|line| match line.strip_prefix('[') {
                Some(header) => {
                    is_inside = line.starts_with(&title);
                    let rest = header.trim_start_matches('[').strip_prefix(&below);
                    rest.is_some_and(|rest| rest.starts_with([']', '.']))
                }
                None if title.starts_with('{') => line.contains(&format!(" {written}")),
                // Keys of other kinds of checks are in comments.
                None => is_inside && line.trim_start_matches("# ").starts_with(&written),
            });
            assert!(is_shown, "{key} of {title}");
        }
    }
}
