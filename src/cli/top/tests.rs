//! What is worked out, and what is on the screen.

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::draw::Scene;
use super::*;
use crate::admin::status;

/// An answer of a gateway with three backends; `counts` is what each has served so far.
fn answer(uptime: f64, counts: [u64; 3]) -> Status {
    let backend = |(at, &count): (usize, &u64)| {
        let state = ["up", "down", "up"][at];
        serde_json::json!({
            "name": (["one", "two", "three"][at]), "address": format!("10.0.0.{at}:80"),
            "resolved": null, "state": state, "reason": (["", "connection refused", ""][at]),
            "since_seconds": 61.0, "weight": 100, "effective_weight": ([100.0, 0.0, 50.0][at]),
            "connections": ([5, 0, 9][at]), "max_connections": ([0, 0, 10][at]), "backup": false,
            "connections_total": count, "connect_failures_total": 0, "bytes_in": count * 1024,
            "bytes_out": count * 2048, "connect_seconds_total": count as f64 / 1000.0,
            "oldest_seconds": null, "check": null, "set": null,
        })
    };
    let backends: Vec<_> = counts.iter().enumerate().map(backend).collect();
    let total: u64 = counts.iter().sum();
    let text = serde_json::json!({
        "version": "1.2.3", "uptime_seconds": uptime, "generation": 1, "node": "gw1",
        "state": "running", "connections": 14, "max_connections": 1000,
        "workers": [{ "connections": 7 }, { "connections": 7 }],
        "listeners": [{
            "name": "web", "bind": ["10.0.0.9:80"], "protocol": "tcp", "pool": "app",
            "connections": 14, "max_connections": 0, "connections_total": total, "bytes_in": total,
            "bytes_out": total, "refused_total": 0, "closed": {}, "handshakes_total": 0,
            "handshake_failures_total": 0,
        }],
        "pools": [{
            "name": "app", "balance": "random", "queue": 0, "retries_total": 0, "usable": true,
            "backends": backends,
        }],
        "vrrp": [], "certificates": [], "pid": 77,
        "process": {
            "open_files": 20, "max_open_files": 1024, "resident_bytes": 10 << 20,
            "cpu_seconds": uptime / 4.0,
        },
        "reloads": { "ok": 0, "failed": 0, "last": null }, "previous": [], "drain": null,
    });
    serde_json::from_value(text).unwrap()
}

fn names(glance: &Glance) -> Vec<&str> {
    glance.backends.iter().map(|row| row.name.as_str()).collect()
}

#[test]
fn rates_are_what_has_grown_in_the_time_of_the_gateway() {
    let (before, now) = (answer(100.0, [10, 0, 7]), answer(102.0, [30, 0, 7]));
    let glance = glance(&now, Some(&before), &Wish::default());
    let one = &glance.backends[0];
    assert_eq!((one.new, one.bytes), (Some(10.0), [Some(10_240.0), Some(20_480.0)]));
    assert!((one.connect.unwrap() - 0.001).abs() < 1e-9, "{one:?}");
    assert_eq!((glance.backends[1].new, glance.backends[1].connect), (Some(0.0), None));
    assert_eq!(glance.listeners[0][3..6], ["10", "10 B", "10 B"]);
    assert!(glance.head[2].1.starts_with("cpu 25% "), "{:?}", glance.head);
}

#[test]
fn without_an_answer_before_it_rates_are_unknown() {
    let now = answer(102.0, [30, 0, 7]);
    let unknown = |before: Option<Status>| {
        let glance = glance(&now, before.as_ref(), &Wish::default());
        assert_eq!((glance.backends[0].new, glance.backends[0].connect), (None, None));
        assert_eq!(glance.listeners[0][3], "-");
    };
    unknown(None);
    // Another process; the same one, asked twice at a time; and one that has counted less since.
    unknown(Some(Status { pid: 78, ..answer(100.0, [10, 0, 7]) }));
    unknown(Some(answer(102.0, [10, 0, 7])));
    unknown(Some(answer(101.0, [99, 0, 999])));
}

#[test]
fn a_backend_that_is_new_has_no_rates_and_others_have() {
    let (mut before, now) = (answer(100.0, [10, 0, 7]), answer(101.0, [30, 0, 7]));
    before.pools[0].backends.remove(0);
    let glance = glance(&now, Some(&before), &Wish::default());
    assert_eq!((glance.backends[0].new, glance.backends[2].new), (None, Some(0.0)));
}

#[test]
fn backends_are_sorted_and_the_other_way_round() {
    let (before, now) = (answer(100.0, [10, 0, 7]), answer(101.0, [11, 0, 17]));
    let sorted = |sort, reversed| {
        let wish = Wish { sort, reversed, filter: String::new() };
        let glance = glance(&now, Some(&before), &wish);
        names(&glance)
            .iter()
            .map(|name| name.trim_start_matches("app/").to_owned())
            .collect::<Vec<_>>()
            .join(" ")
    };
    for (sort, expected) in [
        (Sort::File, "one two three"),
        (Sort::Name, "one three two"),
        (Sort::State, "two one three"),
        (Sort::Conns, "three one two"),
        (Sort::New, "three one two"),
        (Sort::Out, "three one two"),
        (Sort::Failed, "one two three"),
    ] {
        assert_eq!(sorted(sort, false), expected, "{sort:?}");
    }
    assert_eq!(sorted(Sort::Conns, true), "two one three");
    assert_eq!(sorted(Sort::File, true), "three two one");
    let round = (0..9).fold(Sort::File, |sort, _| sort.step(true));
    assert_eq!((round, Sort::File.step(false).step(true)), (Sort::File, Sort::File));
}

#[test]
fn a_filter_is_words_that_all_have_to_be_there() {
    let now = answer(1.0, [0; 3]);
    let shown = |filter: &str| {
        let wish = Wish { filter: filter.to_owned(), ..Wish::default() };
        let glance = glance(&now, None, &wish);
        (names(&glance).join(" "), glance.hidden)
    };
    assert_eq!(shown("DOWN"), ("app/two".to_owned(), 2));
    assert_eq!(shown("up app/t"), ("app/three".to_owned(), 2));
    assert_eq!(shown("10.0.0.1:"), ("app/two".to_owned(), 2));
    assert_eq!(shown("  "), ("app/one app/two app/three".to_owned(), 0));
    assert_eq!(shown("nothing"), (String::new(), 3));
}

#[test]
fn what_is_wrong_is_at_the_top() {
    let mut now = answer(1.0, [0; 3]);
    now.pools[0].usable = false;
    now.reloads.last = Some(status::Reload {
        time: String::new(),
        result: "failed".to_owned(),
        text: "\nerror: no\nmore".to_owned(),
    });
    let glance = glance(&now, None, &Wish::default());
    let lines: Vec<_> = glance.head[3..].iter().map(|(_, line)| line.as_str()).collect();
    assert_eq!(lines, ["pool app has no usable backend", "the last reload was refused: error: no"]);
}

#[test]
fn numbers_are_short() {
    use model::{amount, number};
    let numbers = [0.0, 0.3, 9.94, 12.6, 99_999.0, 123_456.0].map(|value| number(Some(value)));
    assert_eq!(numbers.join(" "), "0 0.3 9.9 13 99999 123k");
    assert_eq!([number(None), amount(None), amount(Some(1536.0))].join(" "), "- - 1.5 KiB");
}

/// What is on a screen of this size, line by line.
fn screen(scene: &mut Scene, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| scene.draw(frame)).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..height).map(|y| line(y).trim_end().to_owned() + "\n").collect()
}

fn scene() -> Scene {
    let (before, now) = (answer(100.0, [10, 0, 7]), answer(101.0, [30, 0, 7]));
    let wish = Wish::default();
    let glance = Some(glance(&now, Some(&before), &wish));
    Scene { glance, wish, interval: "1s".to_owned(), color: true, ..Scene::default() }
}

#[test]
fn a_screen_of_the_usual_size() {
    let expected = "\
lockgate 1.2.3  node gw1  running  up 1m 41s  generation 1  pid 77
connections 14/1000  new 20/s  in 20 B/s  out 20 B/s
cpu 25%  memory 10.0 MiB  files 20/1024  workers 7 7
listener  protocol  conns  new/s  in/s  out/s  refused/s  tls failed/s
web       tcp          14     20  20 B   20 B          0             0
backend    state  weight  conns  new/s      in/s     out/s  failed/s  connect ms
app/one    up        100      5     20  20.0 KiB  40.0 KiB         0         1.0
app/two    down    0/100      0      0       0 B       0 B         0           -
app/three  up     50/100   9/10      0       0 B       0 B         0           -

? help  q leave  |  every 1s  |  sorted by file
";
    assert_eq!(screen(&mut scene(), 80, 11), expected);
}

#[test]
fn a_wide_screen_has_all_columns() {
    let text = screen(&mut scene(), 160, 20);
    for part in ["10.0.0.1:80", "connection refused", "check ms", "1m 1s"] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
}

#[test]
fn a_tiny_screen_breaks_nothing() {
    for (width, height) in [(1, 1), (3, 2), (20, 3), (12, 40), (200, 1)] {
        screen(&mut scene(), width, height);
        screen(&mut Scene { help: true, ..scene() }, width, height);
        screen(&mut Scene { trouble: Some("no ".repeat(99)), ..scene() }, width, height);
    }
    let narrow = screen(&mut scene(), 26, 12);
    assert!(narrow.contains("app/three") && narrow.contains("9/10"), "{narrow}");
}

#[test]
fn a_gateway_that_does_not_answer_is_said_over_what_it_last_said() {
    let trouble = Some("no gateway answers on /x: trying again".to_owned());
    let text = screen(&mut Scene { trouble: trouble.clone(), ..scene() }, 80, 12);
    assert!(text.starts_with("no gateway answers on /x: trying again\nlockgate 1.2.3"), "{text}");
    let text = screen(&mut Scene { trouble, ..Scene::default() }, 80, 3);
    assert!(text.starts_with("no gateway answers"), "{text}");
}

#[test]
fn the_list_can_be_scrolled_and_ends() {
    let mut scene = Scene { first: usize::MAX, ..scene() };
    let text = screen(&mut scene, 80, 9);
    assert!(!text.contains("app/one") && text.contains("app/three"), "{text}");
    assert!(text.contains("2 to 3 of 3"), "{text}");
    assert_eq!(scene.first, 1);
    // More room than there are: from the beginning.
    assert!(screen(&mut scene, 80, 30).contains("app/one"));
}

#[test]
fn many_listeners_leave_room_for_backends() {
    let mut now = answer(1.0, [0; 3]);
    let listener = now.listeners[0].clone();
    now.listeners = (0..50).map(|_| listener.clone()).collect();
    let mut scene = Scene { glance: Some(glance(&now, None, &Wish::default())), ..scene() };
    let text = screen(&mut scene, 80, 24);
    assert!(text.contains("45 more\n") && text.contains("app/three"), "{text}");
}

#[test]
fn colours_are_for_those_who_want_them() {
    let colours = |color| {
        let mut terminal = Terminal::new(TestBackend::new(80, 11)).unwrap();
        terminal.draw(|frame| Scene { color, ..scene() }.draw(frame)).unwrap();
        let cells = terminal.backend().buffer().content().to_vec();
        cells.iter().filter(|cell| cell.fg != ratatui::style::Color::Reset).count()
    };
    assert!(colours(true) > 0);
    assert_eq!(colours(false), 0);
}

#[test]
fn keys_do_what_the_help_says() {
    let mut viewer = Viewer::new(Wish::default(), Arc::new(AtomicU64::new(1_000)));
    viewer.now = Some(Box::new(answer(1.0, [0; 3])));
    let press = |viewer: &mut Viewer, code| viewer.press(KeyEvent::from(code));
    let key = KeyCode::Char;
    assert!(press(&mut viewer, key('s')) && viewer.scene.wish.sort == Sort::Name);
    assert!(press(&mut viewer, key('S')) && viewer.scene.wish.sort == Sort::File);
    assert!(press(&mut viewer, key('r')) && viewer.scene.wish.reversed);
    assert!(press(&mut viewer, key('+')) && viewer.scene.interval == "2s");
    (0..9).for_each(|_| assert!(press(&mut viewer, key('-'))));
    assert_eq!(viewer.scene.interval, "100ms");
    assert!(press(&mut viewer, key(' ')) && viewer.scene.paused);
    for character in ['/', 'q', 'x'] {
        assert!(press(&mut viewer, key(character)), "q is a letter while words are typed");
    }
    assert_eq!(viewer.scene.wish.filter, "qx");
    assert!(press(&mut viewer, KeyCode::Backspace) && viewer.scene.wish.filter == "q");
    assert!(press(&mut viewer, KeyCode::Esc) && viewer.scene.wish.filter.is_empty());
    assert!(press(&mut viewer, key('?')) && viewer.scene.help);
    assert!(press(&mut viewer, key('q')) && !viewer.scene.help, "q leaves the help first");
    assert!(!press(&mut viewer, key('q')));
    assert!(!viewer.press(KeyEvent::new(key('c'), KeyModifiers::CONTROL)));
}

#[test]
fn a_batch_has_everything_and_no_colours() {
    let text = text(&scene().glance.unwrap());
    assert!(text.starts_with("lockgate 1.2.3  node gw1  running"), "{text}");
    for part in ["app/two", "connection refused", "10.0.0.1:80", "20.0 KiB"] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    assert!(!text.contains('\x1b'));
}

#[test]
fn intervals_have_bounds() {
    assert_eq!(interval("250ms"), Ok(Duration::from_millis(250)));
    for wrong in ["1ms", "2h", "soon", "1"] {
        assert!(interval(wrong).is_err(), "{wrong}");
    }
}
