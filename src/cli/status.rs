//! `lockgate status`

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::Duration;

use super::{Error, Exit, Gateway, print, runtime};
use crate::admin::client;
use crate::admin::status::{Backend, Status};

/// Prints the state of the running gateway on one screen, or as JSON.
pub fn status(gateway: &Gateway, json: bool) -> Result<(), Error> {
    let socket = gateway.socket()?;
    let body = runtime()?.block_on(client::get(&socket, "/v1/status"))?;
    if json {
        return print(&format!("{}\n", String::from_utf8_lossy(&body).trim_end()));
    }
    let status: Status = serde_json::from_slice(&body)
        .map_err(|error| Error::new(Exit::Software, format_args!("unexpected answer: {error}")))?;
    print(&screen(&status, std::io::stdout().is_terminal()))
}

/// Text in columns, each as wide as its widest cell; the last one is not padded.
#[derive(Default)]
struct Table {
    rows: Vec<Vec<String>>,
    /// Columns with numbers, which are aligned to the right.
    numbers: &'static [usize],
}

impl Table {
    fn write(&self, text: &mut String) {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                cells.map(|cell| visible(cell)).max().unwrap_or(0)
            })
            .collect();
        for row in &self.rows {
            text.push_str("  ");
            for (column, cell) in row.iter().enumerate() {
                let pad = " ".repeat(widths[column] - visible(cell));
                if self.numbers.contains(&column) {
                    text.push_str(&pad);
                    text.push_str(cell);
                } else {
                    text.push_str(cell);
                    if column + 1 < row.len() {
                        text.push_str(&pad);
                    }
                }
                if column + 1 < row.len() {
                    text.push_str("  ");
                }
            }
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

fn screen(status: &Status, color: bool) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "lockgate {}{}  {}  up {}  generation {}  connections {}/{}",
        status.version,
        status.node.as_ref().map(|node| format!("  node {node}")).unwrap_or_default(),
        status.state,
        span(status.uptime_seconds),
        status.generation,
        status.connections,
        status.max_connections,
    );

    if !status.vrrp.is_empty() {
        text.push_str(&instances(status, color));
    }

    text.push_str("\nlisteners\n");
    let mut table = Table { rows: vec![], numbers: &[4, 5, 6, 7] };
    table.rows.push(
        ["name", "address", "protocol", "pool", "conns", "total", "in", "out"]
            .map(Into::into)
            .into(),
    );
    for listener in &status.listeners {
        table.rows.push(vec![
            listener.name.clone(),
            listener.bind.join(" "),
            listener.protocol.clone(),
            listener.pool.clone().unwrap_or_else(|| "-".to_owned()),
            listener.connections.to_string(),
            listener.connections_total.to_string(),
            bytes(listener.bytes_in),
            bytes(listener.bytes_out),
        ]);
    }
    table.write(&mut text);

    for pool in &status.pools {
        let queue = match pool.queue {
            0 => String::new(),
            waiting => format!("  {waiting} waiting"),
        };
        let _ = writeln!(text, "\npool {}  {}{queue}", pool.name, pool.balance);
        let mut table = Table { rows: vec![], numbers: &[3, 4, 5, 6] };
        table.rows.push(
            ["name", "address", "state", "weight", "conns", "total", "failed", "for", "reason"]
                .map(Into::into)
                .into(),
        );
        table.rows.extend(pool.backends.iter().map(|backend| row(backend, color)));
        table.write(&mut text);
    }
    text
}

/// The VRRP instances: who has which addresses, since when and why.
fn instances(status: &Status, color: bool) -> String {
    let mut text = "\nvrrp\n".to_owned();
    let mut table = Table { rows: vec![], numbers: &[3] };
    table.rows.push(
        ["name", "interface", "state", "priority", "master", "addresses", "for", "cause"]
            .map(Into::into)
            .into(),
    );
    for instance in &status.vrrp {
        let state = match color {
            true => format!("{}{}\x1b[0m", paint(&instance.state), instance.state),
            false => instance.state.clone(),
        };
        let priority = match instance.effective_priority == instance.priority {
            true => instance.priority.to_string(),
            false => format!("{}/{}", instance.effective_priority, instance.priority),
        };
        let cause = match &instance.reason {
            Some(reason) => format!("{} ({reason})", instance.cause),
            None => instance.cause.clone(),
        };
        table.rows.push(vec![
            instance.name.clone(),
            format!("{} vrid {}", instance.interface, instance.vrid),
            state,
            priority,
            instance.master.clone().unwrap_or_else(|| "-".to_owned()),
            addresses(&instance.addresses),
            span(instance.since_seconds),
            cause,
        ]);
    }
    table.write(&mut text);
    text
}

/// The first few: an instance may have hundreds.
fn addresses(all: &[String]) -> String {
    const SHOWN: usize = 3;
    match all.len().checked_sub(SHOWN) {
        None | Some(0) => all.join(" "),
        Some(more) => format!("{} and {more} more", all[..SHOWN].join(" ")),
    }
}

fn row(backend: &Backend, color: bool) -> Vec<String> {
    let weight = backend.effective_weight;
    let weight = if weight == f64::from(backend.weight) {
        format!("{weight}")
    } else {
        format!("{}/{}", (weight * 10.0).round() / 10.0, backend.weight)
    };
    let state = match backend.backup {
        true => format!("{} (backup)", backend.state),
        false => backend.state.clone(),
    };
    let connections = match backend.max_connections {
        0 => backend.connections.to_string(),
        limit => format!("{}/{limit}", backend.connections),
    };
    vec![
        backend.name.clone(),
        match &backend.resolved {
            Some(resolved) => format!("{} ({resolved})", backend.address),
            None => backend.address.clone(),
        },
        if color { format!("{}{state}\x1b[0m", paint(&backend.state)) } else { state },
        weight,
        connections,
        backend.connections_total.to_string(),
        backend.connect_failures_total.to_string(),
        span(backend.since_seconds),
        backend.reason.clone(),
    ]
}

fn paint(state: &str) -> &'static str {
    match state {
        "up" | "unchecked" | "master" => "\x1b[32m",
        "starting" | "draining" | "backup" => "\x1b[33m",
        _ => "\x1b[31m",
    }
}

/// The two largest units: `3d 4h`, `12m 5s`, `7s`.
fn span(seconds: f64) -> String {
    let whole = Duration::from_secs_f64(seconds.max(0.0)).as_secs();
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
fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut amount = bytes as f64;
    let mut unit = 0;
    while amount >= 1024.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{amount:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_bytes_are_short() {
        let cases = [(0.2, "0s"), (61.0, "1m 1s"), (3_600.0, "1h 0m"), (90_000.0, "1d 1h")];
        cases.iter().for_each(|&(seconds, text)| assert_eq!(span(seconds), text));
        assert_eq!(
            [bytes(0), bytes(1_023), bytes(1_536), bytes(5 << 40)].join(","),
            "0 B,1023 B,1.5 KiB,5.0 TiB"
        );
    }

    #[test]
    fn columns_line_up_whatever_their_colour() {
        let rows = [["a", "\x1b[31mdown\x1b[0m", "1"], ["longer", "up", "100"]];
        let rows = rows.map(|row| row.map(str::to_owned).to_vec()).to_vec();
        let mut text = String::new();
        Table { rows, numbers: &[2] }.write(&mut text);
        assert_eq!(text, "  a       \x1b[31mdown\x1b[0m    1\n  longer  up    100\n");
    }
}
