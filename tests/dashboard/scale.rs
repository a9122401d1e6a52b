//! Much of everything, and nothing that moves.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::{CHECKED, open};
use crate::harness::browser::{Browser, DESK};
use crate::harness::{Config, Server, StopAtEnd, eventually, unused_address, visit};

/// Has the page note what the test asks about later.
fn watch(browser: &Browser) {
    browser.run(
        "window.moved = []; window.drawn = []; window.touched = []; \
         new PerformanceObserver(list => list.getEntries().forEach(entry => { \
             const who = entry.sources.map(source => source.node?.parentElement?.outerHTML); \
             moved.push([entry.value, who]); \
         })).observe({ type: 'layout-shift' }); \
         new PerformanceObserver(list => list.getEntries().forEach(entry => \
             entry.name === 'lockgate.render' && drawn.push(entry.duration))) \
             .observe({ type: 'measure' }); \
         new MutationObserver(list => touched.push(...list.map(change => change.type))) \
             .observe(document.querySelector('main'), \
                      { subtree: true, childList: true, characterData: true, attributes: true });",
    );
}

/// Waits until the page has shown so many further answers.
fn let_pass(browser: &Browser, answers: u64) {
    browser.run("drawn.length = 0");
    eventually("answers are shown", || {
        browser.run("return drawn.length").as_u64().unwrap() >= answers
    });
}

#[test]
fn nothing_moves_while_numbers_change() {
    let address = unused_address();
    let servers = ["a", "b", "c"].map(Server::named);
    let config = Config::new(address).pool(CHECKED);
    let config = servers.iter().fold(config, |config, server| config.backend(server, ""));
    let (gateway, _, browser) = open(config, DESK);
    servers.iter().for_each(|server| drop(gateway.await_state(server.name(), "up")));
    browser.await_text("#verdict", "All well");
    watch(&browser);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        scope.spawn(|| {
            // More and more, so that numbers get longer.
            for pause in (0..200).rev() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                visit(address).unwrap();
                thread::sleep(Duration::from_millis(pause / 2));
            }
        });
        let_pass(&browser, 6);
    });
    assert_ne!(browser.text("#fact-new"), "0/s");
    let moved: Vec<(f64, serde_json::Value)> =
        serde_json::from_value(browser.run("return moved")).unwrap();
    let sum: f64 = moved.iter().map(|(value, _)| value).sum();
    eprintln!("layout shift: {sum:.6}");
    // A tenth is what is called good; a digit that is wider than its neighbour is nothing.
    assert!(sum < 0.002, "{moved:#?}");
}

#[test]
fn a_thousand_backends_stay_smooth_and_only_what_changes_is_touched() {
    const BACKENDS: usize = 1000;
    let mut config = Config::new(unused_address());
    for number in 0..BACKENDS {
        let address = format!("127.200.{}.{}:7", number / 250, number % 250 + 1);
        config = config.backend_at(&format!("server-{number}"), &address, "");
    }
    let (_gateway, _, browser) = open(config, DESK);
    let rows = "return document.querySelectorAll('.backends tbody tr').length";
    eventually("all are there", || browser.run(rows) == BACKENDS);
    watch(&browser);
    let_pass(&browser, 5);
    let mut drawn: Vec<f64> = serde_json::from_value(browser.run("return drawn")).unwrap();
    drawn.sort_by(f64::total_cmp);
    let median = drawn[drawn.len() / 2];
    let touched: Vec<String> = serde_json::from_value(browser.run("return touched")).unwrap();
    let per_answer = touched.len() / drawn.len();
    eprintln!("a thousand backends: {median:.1} ms and {per_answer} changes for an answer");
    // A tenth of this is the rule; the machine is shared.
    assert!(median < 300.0, "{drawn:?}");
    // For how long each has been in its state, and a few numbers above: not twelve cells of each.
    assert!(per_answer < 2 * BACKENDS, "{per_answer}");
    let built = touched.iter().filter(|kind| *kind == "childList").count();
    assert!(built < 20, "rows are kept: {built}");
}
