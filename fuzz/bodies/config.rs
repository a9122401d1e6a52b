//! Any bytes as a configuration file.

use lockgate::config::{Error, parse};

/// A text is a plan, or gets a report of mistakes whose places exist and whose messages can be
/// shown: one line each, without anything that a terminal would obey.
pub fn any(bytes: &[u8]) {
    // What is not UTF-8 is refused before it is parsed.
    let text = String::from_utf8_lossy(bytes);
    match parse("any.toml", &text) {
        Ok(plan) => {
            plan.doubts().iter().for_each(|doubt| one_line(&doubt.to_string()));
            assert_eq!(parse("any.toml", &text).expect("as before"), plan);
        }
        Err(Error::Invalid(report)) => {
            let lines: Vec<&str> = text.split('\n').collect();
            assert!(!report.errors().is_empty());
            for error in report.errors() {
                assert!((1..=lines.len()).contains(&error.line), "line {}", error.line);
                let most = lines[error.line - 1].chars().count() + 1;
                assert!((1..=most).contains(&error.column), "{}:{}", error.line, error.column);
                one_line(&error.message);
                error.note.iter().chain(&error.help).for_each(|text| printable(text));
            }
            let order = report.errors().windows(2);
            order.for_each(|pair| {
                assert!((pair[0].line, pair[0].column) <= (pair[1].line, pair[1].column));
            });
            let shown = report.render(false);
            assert!(shown.contains(&format!("any.toml:{}:", report.errors()[0].line)), "{shown}");
            assert!(!shown.contains('\u{1b}'), "an escape of the file reaches the terminal");
            report.render(true);
        }
        Err(Error::Unreadable { .. }) => panic!("nothing was read"),
    }
}

fn one_line(text: &str) {
    assert!(!text.is_empty() && !text.contains('\n'), "{text:?}");
    printable(text);
}

fn printable(text: &str) {
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
}
