//! `lockgate explain`

use std::fmt::Write as _;
use std::io::IsTerminal;

use super::text::Table;
use super::{Error, Exit, Gateway, print, runtime};
use crate::admin::client;
use crate::admin::explanation::{Explanation, Question};
use crate::admin::order::RefusalKind;
use crate::{config, control};

/// Tells where a connection would go, by the running gateway or else by the file alone.
pub fn explain(gateway: &Gateway, question: &Question, json: bool) -> Result<(), Error> {
    let socket = gateway.socket()?;
    let mut target = format!("/v1/explain?listener={}", client::escape(&question.listener));
    let options = [
        ("client", &question.client),
        ("sni", &question.sni),
        ("alpn", &question.alpn),
        ("first_bytes", &question.first_bytes),
    ];
    for (name, value) in options {
        if let Some(value) = value {
            // Writing to a string cannot fail.
            let _ = write!(target, "&{name}={}", client::escape(value));
        }
    }
    let told: Explanation = match runtime()?.block_on(client::get(&socket, &target)) {
        Ok(body) => serde_json::from_slice(&body).map_err(|error| {
            Error::new(Exit::Software, format_args!("unexpected answer: {error}"))
        })?,
        Err(unreachable @ client::Error::Unreachable { .. }) => {
            // If there is no file either, the gateway is what is missing.
            let Ok(plan) = config::load(&gateway.config) else { return Err(unreachable.into()) };
            let mut told = control::explain::of_file(&plan, question).map_err(|refusal| {
                let exit = match refusal.kind {
                    RefusalKind::Invalid | RefusalKind::Unknown => Exit::Usage,
                    _ => Exit::Software,
                };
                Error::new(exit, refusal.error)
            })?;
            told.notes.push(format!("from {} alone: {unreachable}", gateway.config.display()));
            told
        }
        Err(error) => return Err(error.into()),
    };
    if json {
        return print(&format!("{}\n", serde_json::json!(told)));
    }
    print(&screen(&told, std::io::stdout().is_terminal()))
}

fn screen(told: &Explanation, color: bool) -> String {
    let paint = |code: &str, text: &str| match color {
        true => format!("\x1b[{code}m{text}\x1b[0m"),
        false => text.to_owned(),
    };
    let mut lines = vec![
        ("listener", format!("{} ({})", told.listener, told.protocol)),
        ("client", told.client.clone()),
    ];
    if let Some(kind) = &told.first_bytes {
        lines.push(("first", kind.clone()));
    }
    if let Some(name) = &told.sni {
        lines.push(("sni", name.clone()));
    }
    if !told.alpn.is_empty() {
        lines.push(("alpn", told.alpn.join(", ")));
    }
    lines.push(("rule", told.rule.clone()));
    if let (Some(pool), Some(balance)) = (&told.pool, &told.balance) {
        lines.push(("pool", format!("{pool} ({balance})")));
    }
    let outcome = match &told.backend {
        Some(backend) => format!("{}: {}", paint("32", backend), told.why),
        None => format!("{}: {}", paint("33", &told.outcome), told.why),
    };
    lines.push((if told.backend.is_some() { "backend" } else { "outcome" }, outcome));
    let mut text = String::new();
    for (name, value) in lines {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<9} {value}");
    }
    if !told.candidates.is_empty() {
        text.push('\n');
        let mut table = Table::default();
        for candidate in &told.candidates {
            let mark = if candidate.picked { "->" } else { "" };
            let row = [mark, &candidate.name, &candidate.state, &candidate.reason];
            table.rows.push(row.map(str::to_owned).into());
        }
        table.write(&mut text);
    }
    for note in &told.notes {
        let _ = writeln!(text, "note: {note}");
    }
    text
}
