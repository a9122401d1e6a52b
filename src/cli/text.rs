//! Columns, colours, and numbers that are short: what `status` and `top` print with.

use std::time::Duration;

/// Text in columns, each as wide as its widest cell; the last one is not padded.
#[derive(Default)]
pub struct Table {
    /// Rows of cells, the first of them the titles.
    pub rows: Vec<Vec<String>>,
    /// Columns with numbers, which are aligned to the right.
    pub numbers: Vec<usize>,
}

impl Table {
    /// A table with these titles.
    pub fn new(titles: &[&str], numbers: &[usize]) -> Self {
        let titles = titles.iter().copied().map(str::to_owned).collect();
        Self { rows: vec![titles], numbers: numbers.to_vec() }
    }

    /// Appends it, indented by two.
    pub fn write(&self, text: &mut String) {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                cells.map(|cell| visible(cell)).max().unwrap_or(0)
            })
            .collect();
        for row in &self.rows {
            let mut line = String::from("  ");
            for (column, cell) in row.iter().enumerate() {
                let pad = " ".repeat(widths[column] - visible(cell));
                if self.numbers.contains(&column) {
                    line.push_str(&pad);
                    line.push_str(cell);
                } else {
                    line.push_str(cell);
                    if column + 1 < row.len() {
                        line.push_str(&pad);
                    }
                }
                if column + 1 < row.len() {
                    line.push_str("  ");
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
    }
}

/// Characters that take up space: all but colours.
fn visible(cell: &str) -> usize {
    let mut escaped = false;
    cell.chars()
        .filter(|&character| {
            let seen = !escaped && character != '\x1b';
            escaped = (escaped || character == '\x1b') && character != 'm';
            seen
        })
        .count()
}

/// How things are, by a state of a backend, of a VRRP instance or of the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// As it should be.
    Good,
    /// Worth a look.
    Fair,
    /// Not as it should be.
    Bad,
}

impl Mood {
    /// That of a state.
    pub fn of(state: &str) -> Self {
        match state {
            "up" | "unchecked" | "master" | "running" => Self::Good,
            "starting" | "draining" | "backup" | "disabled" => Self::Fair,
            _ => Self::Bad,
        }
    }

    /// Text in its colour, if colours are wanted.
    pub fn paint(self, text: &str, color: bool) -> String {
        let code = match self {
            _ if !color => return text.to_owned(),
            Self::Good => 32,
            Self::Fair => 33,
            Self::Bad => 31,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// The two largest units: `3d 4h`, `12m 5s`, `7s`.
pub fn span(seconds: f64) -> String {
    let whole = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX).as_secs();
    let units = [
        (whole / 86_400, "d"),
        (whole / 3_600 % 24, "h"),
        (whole / 60 % 60, "m"),
        (whole % 60, "s"),
    ];
    let first = units.iter().position(|&(n, _)| n > 0).unwrap_or(units.len() - 1);
    let shown = &units[first..units.len().min(first + 2)];
    shown.iter().map(|(n, unit)| format!("{n}{unit}")).collect::<Vec<_>>().join(" ")
}

/// Bytes in the largest unit that leaves a number above 1.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut amount = bytes as f64;
    let mut unit = 0;
    while amount >= 1024.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{amount:.1} {}", UNITS[unit]) }
}

/// The first few: there may be hundreds.
pub fn few(all: &[String]) -> String {
    const SHOWN: usize = 3;
    match all.len().checked_sub(SHOWN) {
        None | Some(0) => all.join(" "),
        Some(more) => format!("{} and {more} more", all[..SHOWN].join(" ")),
    }
}

/// `now`, or `now/most` where there is a limit.
pub fn of_most(now: u32, most: u32) -> String {
    match most {
        0 => now.to_string(),
        most => format!("{now}/{most}"),
    }
}

/// `7`, or what picks go by and what is configured: `3.5/7`.
pub fn weight(effective: f64, configured: u16) -> String {
    if effective == f64::from(configured) {
        format!("{configured}")
    } else {
        format!("{}/{configured}", (effective * 10.0).round() / 10.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_bytes_are_short() {
        let cases = [(0.2, "0s"), (61.0, "1m 1s"), (3_600.0, "1h 0m"), (90_000.0, "1d 1h")];
        cases.iter().for_each(|&(seconds, text)| assert_eq!(span(seconds), text));
        assert_eq!((span(-1.0), span(f64::NAN).is_empty()), ("0s".to_owned(), false));
        assert_eq!(
            [bytes(0), bytes(1_023), bytes(1_536), bytes(5 << 40)].join(","),
            "0 B,1023 B,1.5 KiB,5.0 TiB"
        );
    }

    #[test]
    fn columns_line_up_whatever_their_colour() {
        let mut table = Table::new(&["a", "\x1b[31mdown\x1b[0m", "1"], &[2]);
        table.rows.push(["longer", "up", "100"].map(str::to_owned).to_vec());
        let mut text = String::new();
        table.write(&mut text);
        assert_eq!(text, "  a       \x1b[31mdown\x1b[0m    1\n  longer  up    100\n");
    }

    #[test]
    fn weights_and_limits_are_told_when_they_say_something() {
        assert_eq!([weight(7.0, 7), weight(0.0, 7), weight(3.5, 7)].join(" "), "7 0/7 3.5/7");
        assert_eq!([of_most(3, 0), of_most(3, 9)].join(" "), "3 3/9");
    }
}
