//! Who does not see the page, has no mouse, or reads it on a phone.

use serde_json::{Value, json};

use super::{CHECKED, open};
use crate::harness::browser::{Browser, DESK, ENTER, ESCAPE, PHONE, TAB, View};
use crate::harness::{Config, Server, eventually, until, unused_address};

/// A pool of servers with these names.
fn config(servers: &[Server]) -> Config {
    let config = Config::new(unused_address()).pool(CHECKED);
    servers.iter().fold(config, |config, server| config.backend(server, ""))
}

/// Presses Tab until something has the focus. Returns what had it on the way.
#[track_caller]
fn tab_to(browser: &Browser, selector: &str) -> Vec<String> {
    let mut seen = Vec::new();
    for _ in 0..60 {
        browser.press(&[TAB]);
        let script = "const it = document.activeElement; \
             return it.id || it.textContent.trim() || it.getAttribute('href') || it.tagName";
        seen.push(browser.run(script).as_str().unwrap().to_owned());
        let is_there = json!(selector);
        if browser.run(&format!("return document.activeElement.matches({is_there})")) == true {
            return seen;
        }
    }
    panic!("{selector} never has the focus: {seen:?}");
}

fn names(browser: &Browser) -> Vec<String> {
    let script = "return [...document.querySelectorAll('.backends tbody tr')]\
         .filter(row => !row.hidden).map(row => row.querySelector('.name .main').textContent)";
    serde_json::from_value(browser.run(script)).unwrap()
}

#[test]
fn the_keyboard_is_enough() {
    let mut servers = ["cat", "ant", "bee"].map(Server::named);
    servers[2].kill();
    let (gateway, http, browser) = open(config(&servers), DESK);
    gateway.await_state("cat", "up");
    gateway.await_state("ant", "up");
    browser.await_text("[id='backend/app/bee'] .state", "down");
    assert_eq!(names(&browser), ["cat", "ant", "bee"]);

    // The first stop leads to what is wrong.
    browser.press(&[TAB]);
    assert_eq!(browser.run("return document.activeElement.className"), "skip");
    browser.press(&[ENTER]);
    assert_eq!(browser.run("return document.activeElement.id"), "situation");
    // From there to the trouble, and from the trouble to its row.
    tab_to(&browser, "#problems a");
    browser.press(&[ENTER]);
    assert_eq!(browser.run("return document.activeElement.id"), "backend/app/bee");

    browser.press(&['/']);
    assert_eq!(browser.run("return document.activeElement.id"), "filter");
    browser.press(&['a', 'n', 't']);
    eventually("others are hidden", || names(&browser) == ["ant"]);
    assert_eq!(browser.text("#shown"), "1 of 3 backends");
    browser.press(&[ESCAPE]);
    eventually("all are back", || names(&browser).len() == 3);

    tab_to(&browser, "#troubled");
    browser.press(&[' ']);
    eventually("only what is down is shown", || names(&browser) == ["bee"]);
    browser.press(&[' ']);

    let heading = ".backends th.name";
    tab_to(&browser, &format!("{heading} button"));
    let order = format!("return document.querySelector('{heading}').getAttribute('aria-sort')");
    for (expected, said) in [
        (["ant", "bee", "cat"], json!("ascending")),
        (["cat", "bee", "ant"], json!("descending")),
        (["cat", "ant", "bee"], Value::Null),
    ] {
        browser.press(&[ENTER]);
        eventually(&format!("the order is {expected:?}"), || names(&browser) == expected);
        assert_eq!(browser.run(&order), said);
    }

    browser.run("document.querySelector('#theme').focus()");
    let theme = "return document.documentElement.dataset.theme ?? null";
    let ground = "return getComputedStyle(document.body).backgroundColor";
    let light = browser.run(ground);
    browser.press(&[ENTER, ENTER]);
    assert_eq!(browser.run(theme), "dark");
    assert_ne!(browser.run(ground), light);
    browser.open(&format!("http://{http}/"));
    assert_eq!(browser.run(theme), "dark", "it is remembered");
}

/// A node of the accessibility tree: its role, its name, and what may be done with it.
struct Node {
    role: String,
    name: String,
    focusable: bool,
}

fn accessibility_tree(browser: &Browser) -> Vec<Node> {
    let tree = browser.develop("Accessibility.getFullAXTree", &json!({}));
    let nodes = tree["nodes"].as_array().unwrap().iter();
    let text = |value: &Value| value["value"].as_str().unwrap_or_default().to_owned();
    nodes
        .filter(|node| node["ignored"] != true)
        .map(|node| Node {
            role: text(&node["role"]),
            name: text(&node["name"]),
            focusable: node["properties"].as_array().is_some_and(|properties| {
                properties.iter().any(|property| property["name"] == "focusable")
            }),
        })
        .collect()
}

#[test]
fn a_screen_reader_finds_landmarks_headings_tables_and_names() {
    let servers = ["a", "b"].map(Server::named);
    for view in [DESK, PHONE] {
        let (gateway, _, browser) = open(config(&servers), view);
        gateway.await_state("b", "up");
        browser.await_text("[id='backend/app/b'] .state", "up");
        let nodes = accessibility_tree(&browser);
        let named = |role: &str| -> Vec<&str> {
            let those = nodes.iter().filter(|node| node.role == role);
            those.map(|node| node.name.as_str()).collect()
        };
        for role in ["banner", "main", "search", "contentinfo"] {
            assert_eq!(named(role).len(), 1, "{role}");
        }
        // There is no room for the links at the top of a phone.
        assert_eq!(named("navigation").len(), usize::from(view.width > 600));
        for heading in ["lockgate", "All well", "Events", "VRRP", "Listeners", "Pools", "app"] {
            assert!(named("heading").contains(&heading), "{heading}: {:?}", named("heading"));
        }
        for table in ["Listeners: where clients connect", "Backends of app"] {
            assert!(named("table").contains(&table), "{table}: {:?}", named("table"));
        }
        for row in ["a", "b", "web"] {
            assert!(named("rowheader").contains(&row), "{row}: {:?}", named("rowheader"));
        }
        assert!(named("columnheader").contains(&"State"), "{:?}", named("columnheader"));
        assert!(!named("status").is_empty());
        let nameless = nodes.iter().filter(|node| {
            let asks = ["button", "link", "searchbox", "checkbox", "combobox"];
            node.focusable && asks.contains(&node.role.as_str()) && node.name.is_empty()
        });
        assert_eq!(nameless.count(), 0);
        assert_eq!(browser.run("return document.documentElement.lang"), "en");
    }
}

#[test]
fn no_width_takes_scrolling_sideways_and_a_phone_shows_first_what_is_wrong() {
    let name = format!("{}.example.com", "a-long-name-of-a-server".repeat(4));
    let mut down = Server::named("down");
    down.kill();
    let up = Server::named("up");
    let config =
        config(&[down]).backend_at(&name, &up.address().to_string(), "max_connections = 65000");
    let (_gateway, _, browser) = open(config, PHONE);
    browser.await_text("#problems", "down");
    for width in [1440, 1100, 840, 768, 390, 320] {
        browser.look_with(View { width, ..PHONE });
        until("the layout follows", || (browser.run("return innerWidth") == width).then_some(()));
        let wide = browser.run(
            "return [...document.querySelectorAll('body *')].filter(it => { \
               const box = it.getBoundingClientRect(); \
               return box.width > 0 && !it.closest('.unseen, .skip, thead, .shapes') \
                   && (box.right > innerWidth + 1 || box.left < -1); }).map(it => it.outerHTML)",
        );
        assert_eq!(wide, json!([]), "at {width} pixels");
        assert_eq!(browser.run("return document.documentElement.scrollWidth <= innerWidth"), true);
        // What is wrong is seen without scrolling at all.
        let top = "return document.querySelector('#problems li').getBoundingClientRect().bottom";
        assert!(browser.run(top).as_f64().unwrap() < 500.0, "at {width} pixels");
        // WCAG 2.2, 2.5.8: links within sentences are exempt.
        let small = browser.run(
            "return [...document.querySelectorAll('button, input, select')].filter(it => { \
               const box = (it.closest('label') ?? it).getBoundingClientRect(); \
               return box.width > 1 && !it.closest('thead') && (box.width < 24 || box.height < 24); \
             }).map(it => it.outerHTML)",
        );
        assert_eq!(small, json!([]));
    }
}
