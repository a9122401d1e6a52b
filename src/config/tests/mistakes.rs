//! What is said about mistakes.

use super::*;

#[test]
fn one_mistake_one_error() {
    for (section, extra, expected) in [
        // Keys.
        ("runtime", "worker = 1", "2:1 unknown key 'worker' in [runtime]"),
        ("runtme", "workers = 1", "1:2 unknown key 'runtme' in the file"),
        ("backend", "wieght = 1", "9:1 unknown key 'wieght' in [[pool.NAME.backend]]"),
        ("listener", "\"a\\nb\" = 1", "6:1 unknown key 'a\u{fffd}b' in [[listener]]"),
        // Types.
        ("runtime", "pin = 1", "2:7 pin: expected true or false, found a number"),
        ("runtime", "workers = '4'", "2:11 workers: expected a whole number, found text"),
        ("runtime", "workers = 1.5", "2:11 workers: expected a whole number, found a fraction"),
        ("runtime", "drain_timeout = 5", "2:17 drain_timeout: expected a duration, found a number"),
        ("log", "level = true", "2:9 level: expected text in quotes, found true or false"),
        ("pool.web", "health = 1", "2:10 health: expected [pool.NAME.health], found a number"),
        ("pool.web", "passive = []", "2:11 passive: expected [pool.NAME.passive], found a list"),
        // Ranges.
        ("runtime", "workers = 1025", "2:11 workers: 1025 is out of range (0 to 1024)"),
        ("runtime", "workers = -1", "2:11 workers: -1 is out of range (0 to 1024)"),
        (
            "runtime",
            "workers = 0x7fff_ffff_ffff_ffff",
            "2:11 workers: 0x7fffffffffffffff is out of range (0 to 1024)",
        ),
        ("backend", "weight = 65536", "9:10 weight: 65536 is out of range (0 to 65535)"),
        ("pool.web", "retries = 101", "2:11 retries: 101 is out of range (0 to 100)"),
        (
            "pool.web.passive",
            "max_ejected = 101",
            "2:15 max_ejected: 101 is out of range (0 to 100)",
        ),
        ("pool.web.health", "rise = 0", "2:8 rise: 0 is out of range (1 to 65535)"),
        ("pool.web.health", "port = 65536", "2:8 port: 65536 is out of range (0 to 65535)"),
        (
            "pool.web",
            "on_down = 'reset'",
            "2:11 on_down: without [pool.NAME.health] nothing takes a backend down",
        ),
        ("listener", "idle_timeout = '0s'", "6:16 idle_timeout: must be longer than zero"),
        (
            "listener",
            "half_close_timeout = '0s'",
            "6:22 half_close_timeout: must be longer than zero",
        ),
        ("pool.web", "connect_timeout = '0ms'", "2:19 connect_timeout: must be longer than zero"),
        (
            "pool.web",
            "connect_timeout = '400d'",
            "2:19 connect_timeout: '400d' is longer than 366 days",
        ),
        ("pool.web.health", "interval = '0s'", "2:12 interval: must be longer than zero"),
        (
            "pool.web.health",
            "fast_interval = '3s'",
            "2:17 fast_interval: 3s is longer than the interval of 2s",
        ),
        ("pool.web.passive", "window = '0s'", "2:10 window: must be longer than zero"),
        // Values.
        ("log", "level = 'warning'", "2:9 level: unknown value 'warning'"),
        ("pool.web", "balance = 'round_robin'", "2:11 balance: unknown value 'round_robin'"),
        ("listener", "protocol = 'udp'", "6:12 protocol: 'udp' is not supported yet"),
        ("listener", "protocol = 'tpc'", "6:12 protocol: unknown value 'tpc'"),
        ("admin", "http = ':8404'", "2:8 http: no host in ':8404'"),
        ("pool.web", "source = '10.0.0.1:80'", "2:10 source: '10.0.0.1:80' is not an IP address"),
        (
            "pool.web",
            "source = '::1'",
            "10:11 address: 10.0.0.1:80 cannot be reached from source ::1 on line 2",
        ),
        (
            "backend",
            "name = 'a/b'",
            "9:8 name: 'a/b' holds a '/', white space or a control character",
        ),
        // Health.
        ("pool.web.health", "path = '/'", "2:1 'path' is a key of type \"http\", not of \"tcp\""),
        (
            "pool.web.health",
            "type = 'tls'\ntls = true",
            "3:1 'tls' is a key of type \"http\", not of \"tls\"",
        ),
        (
            "pool.web.health",
            "type = 'http'\nsend = ''",
            "3:1 'send' is a key of type \"send_expect\", not of \"http\"",
        ),
        (
            "pool.web.health",
            "type = 'send_expect'",
            "1:1 type \"send_expect\" needs the key 'expect', or 'steps'",
        ),
        (
            "pool.web.health",
            "type = 'send_expect'\nexpect = ''",
            "3:10 expect: must not be empty: any answer begins with nothing",
        ),
        ("pool.web.health", "type = 'http'\npath = 'up'", "3:8 path: a path begins with '/'"),
        (
            "pool.web.health",
            "type = 'http'\npath = '/a b'",
            "3:8 path: the character \\u{20} is not allowed here",
        ),
        (
            "pool.web.health",
            "type = 'http'\nhost = \"a\\r\\nb\"",
            "3:8 host: the character \\u{d} is not allowed here",
        ),
        (
            "pool.web.health",
            "type = 'http'\nexpect_status = []",
            "3:17 expect_status: must not be empty",
        ),
        (
            "pool.web.health",
            "type = 'http'\nexpect_status = [200, 600]",
            "3:23 expect_status: 600 is out of range (100 to 599)",
        ),
        (
            "pool.web.health",
            "type = 'http'\nexpect_status = '2xx'",
            "3:17 expect_status: '2xx' is not a status or range within 100 to 599",
        ),
        (
            "pool.web.health",
            "type = 'http'\nexpect_status = '399-200'",
            "3:17 expect_status: '399-200' is an empty range",
        ),
        ("pool.web.health", "type = 'htp'\npath = '/'\nsend = ''", "2:8 type: unknown value 'htp'"),
    ] {
        let source = minimal_with(section, extra);
        assert_eq!(messages(&source), [expected], "{source}");
    }
}

#[test]
fn mistakes_across_sections() {
    let pool = "[[pool.p.backend]]\naddress = 'h:1'\n";
    for (source, expected) in [
        ("", "1:1 no [[listener]]: nothing to do"),
        ("[log]\n", "1:1 no [[listener]]: nothing to do"),
        ("listener = []\n", "1:1 no [[listener]]: nothing to do"),
        ("[[listener]]\nbind = '10.0.0.1:1'\n", "1:1 this listener has no 'name'"),
        ("[[listener]]\nname = 'a'\n", "1:1 this listener has no 'bind'"),
        ("[[listener]]\nname = 'a'\nbind = []\n", "3:8 bind: must not be empty"),
        (
            "[listener]\nname = 'a'\nbind = '10.0.0.1:1'\n",
            "1:1 listener: there can be several of these",
        ),
        ("listener = 5\n", "1:12 listener: expected [[listener]], found a number"),
        ("listener = [5]\n", "1:13 listener: expected [[listener]], found a number"),
        (
            "[[listener]]\nname = 'a'\nbind = 'h:0'\n",
            "3:8 bind: port 0 is out of range (1 to 65535)",
        ),
        (
            "[[listener]]\nname = 'a'\nbind = '10.0.0.1:1'\npool = 'q'\n",
            "4:8 pool: no pool is named 'q'",
        ),
        (
            "[[listener]]\nname = 'a'\nbind = ['10.0.0.1:1', '10.0.0.1:1']\n",
            "3:23 bind: 10.0.0.1:1 is already bound on line 3",
        ),
        (
            "[[listener]]\nname = 'a'\nbind = '10.0.0.1:1'\n\
             [[listener]]\nname = 'b'\nbind = '0.0.0.0:1'\n",
            "6:8 bind: 0.0.0.0:1 overlaps 10.0.0.1:1 on line 3",
        ),
        (
            "[[listener]]\nname = 'a'\nbind = '[::]:1'\n\
             [[listener]]\nname = 'b'\nbind = '[::1]:1'\n",
            "6:8 bind: [::1]:1 overlaps [::]:1 on line 3",
        ),
        (
            "[[listener]]\nname = 'a'\nbind = '10.0.0.1:1'\n\
             [[listener]]\nname = 'a'\nbind = '10.0.0.1:2'\n",
            "5:8 listener name 'a' is already used on line 2",
        ),
        (
            "[[listener]]\nname = 'a'\nbind = '0.0.0.0:9'\n[admin]\nhttp = '127.0.0.1:9'\n",
            "3:8 bind: 0.0.0.0:9 overlaps admin.http on line 5",
        ),
        (
            "[[listener]]\nname = 'a'\nbind = '0.0.0.0:8404'\n",
            "3:8 bind: 0.0.0.0:8404 overlaps admin.http",
        ),
    ] {
        assert_eq!(messages(source), [expected], "{source}");
        assert_eq!(messages(&format!("{source}{pool}")).len(), 1, "{source}");
    }

    for (pools, expected) in [
        ("[pool.web]\n", "1:1 pool 'web' has no backends"),
        ("[pool.web]\nbackend = []\n", "1:1 pool 'web' has no backends"),
        ("[pool]\nweb = 5\n", "2:7 web: expected [pool.NAME], found a number"),
        ("pool = 5\n", "1:8 pool: expected [pool.NAME], found a number"),
        ("[[pool]]\nname = 'web'\n", "1:1 pool: expected [pool.NAME], found a list"),
        (
            "[pool.web]\nbackend = 'h:1'\n",
            "2:11 backend: expected [[pool.NAME.backend]], found text",
        ),
        ("[pool.web.backend]\naddress = 'h:1'\n", "1:1 backend: there can be several of these"),
        ("[[pool.web.backend]]\nweight = 1\n", "1:1 this backend has no 'address'"),
        (
            "[[pool.web.backend]]\naddress = '[::1]:1'\naddresses = 'all'\n",
            "3:13 addresses: [::1]:1 is an address already, not a name",
        ),
        (
            "[[pool.web.backend]]\naddress = 'h:1'\naddresses = 'both'\n",
            "3:13 addresses: unknown value 'both'",
        ),
        ("[[pool.web.backend]]\naddress = 'h'\n", "2:11 address: no port in 'h'"),
        (
            "[[pool.web.backend]]\naddress = 'h:1'\n[[pool.web.backend]]\naddress = 'H:1'\n",
            "4:11 backend name 'h:1' is already used on line 2",
        ),
        (
            "[[pool.web.backend]]\nname = 'h:1'\naddress = 'h:2'\n\
             [[pool.web.backend]]\naddress = 'h:1'\n",
            "5:11 backend name 'h:1' is already used on line 2",
        ),
        (
            "[pool.'a b']\n[[pool.'a b'.backend]]\naddress = 'h:1'\n\
             [[pool.web.backend]]\naddress = 'h:1'",
            "1:7 pool: 'a b' holds a '/', white space or a control character",
        ),
    ] {
        let listener = "\n[[listener]]\nname = 'a'\nbind = '10.0.0.1:1'\npool = 'web'\n";
        let source = format!("{pools}{listener}");
        assert_eq!(messages(&source), [expected], "{source}");
    }
}

#[test]
fn wildcards_of_two_families_do_not_overlap() {
    let source = "[[listener]]\nname = 'a'\nbind = ['0.0.0.0:8404', '[::]:8404']\n[admin]\n";
    parse("t.toml", &format!("{source}http = ''\n")).unwrap();
    parse("t.toml", &format!("{source}http = '127.0.0.1:8405'\n")).unwrap();
}

#[test]
fn syntax_errors_hide_nothing_and_cause_nothing() {
    for (source, expected) in [
        // The header is closed, so its keys stay its own.
        (
            MINIMAL.replace("[[listener]]", "[[listener"),
            vec!["2:11 unclosed array table, expected `]]`"],
        ),
        // The array does not swallow the pool.
        (
            MINIMAL.replace("\"0.0.0.0:80\"", "[\"0.0.0.0:0\""),
            vec!["4:8 unclosed array, expected `]`"],
        ),
        (
            MINIMAL
                .replace("\"0.0.0.0:80\"", "[\"0.0.0.0:80\",")
                .replace("10.0.0.1:80", "10.0.0.1"),
            vec!["4:8 unclosed array, expected `]`", "8:11 address: no port in '10.0.0.1'"],
        ),
        // Unquoted text, a missing value, a key without a value.
        (
            minimal_with("log", "level = info\naccess = yes\nformat =\nlvl\nfoo = 1"),
            vec![
                "2:9 'info' is not a value; text is written in quotes",
                "3:10 'yes' is not a value; text is written in quotes",
                "4:9 a value is missing",
                "5:4 key with no value, expected `=`",
                "6:1 unknown key 'foo' in [log]",
            ],
        ),
        // A required key on a broken line is not called missing; in another section it is.
        (
            MINIMAL
                .replace("name = \"web\"", "name = web")
                .replace("address = \"10.0.0.1:80\"", ""),
            vec![
                "3:8 'web' is not a value; text is written in quotes",
                "7:1 this backend has no 'address'",
            ],
        ),
        // Twice the same.
        (
            minimal_with("log", "level = 'info'\nlevel = 'warn'"),
            vec!["3:1 'level' is already defined"],
        ),
        (
            format!("{MINIMAL}[log]\n[log]\nx = 1\n"),
            vec!["10:2 'log' is already defined", "11:1 unknown key 'x' in [log]"],
        ),
    ] {
        assert_eq!(messages(&source), expected, "{source}");
    }
}

#[test]
fn suggestions() {
    for (section, extra, note, help) in [
        ("runtime", "worker = 1", None, Some("did you mean 'workers'?")),
        ("runtime", "zzz = 1", None, None),
        ("runtime", "level = 1", Some("'level' is a key of [log]"), None),
        ("log", "level = 'inof'", None, Some("did you mean 'info'?")),
        ("log", "level = 'x'", None, Some("one of error, warn, info, debug, trace")),
        ("log", "access = 'true'", None, None),
        ("log", "level = info", None, Some("write \"info\"")),
        ("log", "access = yes", None, Some("write true")),
        ("runtime", "drain_timeout = 5", None, Some("write \"5s\"")),
        ("runtime", "workers = '5'", None, Some("write 5")),
        ("pool.web", "balance = 'round_robin'", None, Some("did you mean 'weighted_round_robin'?")),
        (
            "pool.wbe",
            "backend = [{ address = 'h:1' }]\n\
             [[listener]]\nname = 'x'\nbind = '10.0.0.1:9'\npool = 'wb'",
            None,
            Some("did you mean 'wbe'?"),
        ),
        ("pool.web.health", "path = '/'", Some("without a 'type', the type is \"tcp\""), None),
    ] {
        let source = minimal_with(section, extra);
        let report = report(&source);
        let [error] = report.errors() else { panic!("{source}\n{report}") };
        assert_eq!((error.note.as_deref(), error.help.as_deref()), (note, help), "{source}");
    }
}

#[test]
fn columns_count_characters() {
    let source = "# ö\r\n[[listener]]\r\nname = 'a'\r\nbind = ['日本', '[::]:1']\r\nü = 1\r\n";
    assert_eq!(messages(source)[0], "4:9 bind: no port in '日本'");
    let bom = format!("\u{feff}lissener = 1\n{MINIMAL}");
    assert_eq!(messages(&bom), ["1:1 unknown key 'lissener' in the file"]);
}

#[test]
fn many_mistakes_at_once() {
    let source = r#"[runtime]
worker = 4
pin = "yes"
drain_timeout = 30

[log]
level = "inof"
format = json

[[listener]]
name = "web"
bind = ["*:443", "10.0.0.1:70000", "10.0.0.1:80"]
pool = "wbe"

[[listener]]
name = "web"
bind = "0.0.0.0:80"
protocol = "udp"
idle_timeout = "0s"

[pool.web]
retries = 1000
source = "10.0.0.9"

[pool.web.health]
path = "healthz"

[[pool.web.backend]]
address = "[::1]:3000"

[[vrrp]]
interface = "eth0"
vrid = 510
addresses = ["10.0.1.100"]
priority = 150
"#;
    let rendered = report(source).to_string();
    assert_eq!(rendered, include_str!("many_mistakes.txt").trim_end(), "\n{rendered}\n");
}

#[test]
fn a_single_error_is_counted_as_one() {
    let report = report("");
    assert!(report.render(false).ends_with("\n1 error in t.toml"));
    assert!(report.render(false).contains("--> t.toml:1:1\n"));
    assert!(!report.render(false).contains('\u{1b}'));
    assert!(report.render(true).contains('\u{1b}'));
}

#[test]
fn a_long_line_and_many_errors_are_named_and_cut() {
    let source = format!("[runtime]\nx = '{}'\n{MINIMAL}", "a".repeat(100_000));
    let rendered = report(&source).render(false);
    assert!(rendered.contains("--> t.toml:2:1") && rendered.len() < 500, "{rendered}");

    let source: String = (0..1500).map(|i| format!("k{i} = 1\n")).collect();
    let report = report(&source);
    assert_eq!(report.errors().len(), 1501);
    assert!(report.to_string().ends_with("1501 errors in t.toml (the first 1000 are shown)"));
}

#[test]
fn deep_nesting_is_answered() {
    // Multi-line strings are repaired one by one, which takes time.
    for (part, times) in [
        ("a.", 20_000),
        ("[", 20_000),
        ("{a=", 20_000),
        ("[{a=", 20_000),
        ("[[", 20_000),
        ("\"\"\"", 500),
        ("'''\n", 500),
        ("a=[\n", 500),
    ] {
        let deep = part.repeat(times);
        for source in [deep.clone(), format!("a = {deep}"), format!("[{deep}a]\n")] {
            parse("t.toml", &source).unwrap_err();
        }
    }
}

/// What a backend may become counts, not how many are written.
#[test]
fn a_pool_has_room_for_what_its_names_may_mean() {
    let pool = |names: usize, others: usize| {
        let backend = |n: usize, more: &str| {
            format!("[[pool.web.backend]]\nname = '{n}'\naddress = 'h:1'\n{more}")
        };
        let names = (0..names).map(|n| backend(n, "addresses = 'all'\n"));
        let others = (0..others).map(|n| backend(1_000 + n, ""));
        let text: String = names.chain(others).collect();
        let listener = "[[listener]]\nname = 'a'\nbind = ['127.0.0.1:1']\npool = 'web'\n";
        parse("t.toml", &format!("{listener}[pool.web]\n{text}")).map_err(|error| error.to_string())
    };
    assert_eq!(pool(127, 256).unwrap().pools[0].backends.len(), 383);
    let error = pool(127, 257).unwrap_err();
    assert!(error.contains("32769 backends in a pool are more than 32768"), "{error}");
    assert!(error.contains("counts as the 256"), "{error}");
}
