//! The pictures of docs/balancing.md, drawn from what the policies really choose.
//!
//! A picture that no longer shows what happens is a failed test. With `LOCKGATE_PICTURES=update`
//! they are drawn anew.

use std::fmt::Write;
use std::path::Path;

use super::maglev::hash_client;
use super::*;

const NAMES: [&str; 3] = ["a", "b", "c"];
const STEP: usize = 15;
const LEFT: usize = 40;

/// A drawing, `width` by `height` in pixels.
struct Picture(String);

impl Picture {
    fn new(width: usize, height: usize, title: &str) -> Self {
        Self(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             width=\"{width}\" height=\"{height}\" role=\"img\" aria-label=\"{title}\">\n\
             <title>{title}</title>\n<style>\n\
             text {{ font: 12px ui-monospace, monospace; fill: #333 }}\n\
             .a {{ fill: #2563a8; stroke: #2563a8 }} .b {{ fill: #b4590c; stroke: #b4590c }} \
             .c {{ fill: #3d7a3d; stroke: #3d7a3d }}\n\
             .down {{ fill: #8884 }} \
             .moved {{ fill: none; stroke: #333; stroke-width: 2 }}\n\
             @media (prefers-color-scheme: dark) {{\n\
             text {{ fill: #ddd }} .moved {{ stroke: #ddd }}\n\
             .a {{ fill: #6da7e5; stroke: #6da7e5 }} .b {{ fill: #e59a55; stroke: #e59a55 }} \
             .c {{ fill: #7fbf7f; stroke: #7fbf7f }}\n\
             }}\n.line {{ fill: none; stroke-width: 2 }}\n</style>\n"
        ))
    }

    fn draw(&mut self, element: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{element}").unwrap();
    }

    fn text(&mut self, x: usize, y: usize, text: impl std::fmt::Display) {
        self.draw(format_args!("<text x=\"{x}\" y=\"{y}\">{text}</text>"));
    }

    /// Compares with the one in the documentation, or replaces it.
    fn is(mut self, name: &str) {
        self.0.push_str("</svg>\n");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/pictures").join(name);
        if std::env::var("LOCKGATE_PICTURES").is_ok_and(|wish| wish == "update") {
            std::fs::write(&path, &self.0).unwrap();
        }
        let drawn = std::fs::read_to_string(&path).unwrap();
        assert!(drawn == self.0, "{name} shows something else: LOCKGATE_PICTURES=update draws it");
    }
}

#[test]
fn turns() {
    const PICKS: usize = 42;
    let group = group(Policy::RoundRobin, &[(5, 0), (1, 0), (1, 0)]);
    let mut picture = Picture::new(
        LEFT + PICKS * STEP + 10,
        100,
        "Which of the backends a, b and c gets each connection, with weights 5, 1 and 1",
    );
    let (from, to) = (14, 28);
    let width = (to - from) * STEP;
    picture.draw(format_args!(
        "<rect class=\"down\" x=\"{}\" y=\"8\" width=\"{width}\" height=\"66\"/>",
        LEFT + from * STEP - STEP / 2
    ));
    picture.text(LEFT + from * STEP, 92, "while b is down");
    for (row, name) in NAMES.iter().enumerate() {
        picture.text(8, 24 + row * 22, name);
    }
    for pick in 0..PICKS {
        let weight = if (from..to).contains(&pick) { 0 } else { WEIGHT_ONE };
        group.cell(1).set_weight(weight);
        let slot = group.pick(&request(0)).unwrap();
        group.cell(slot).release();
        let (x, y) = (LEFT + pick * STEP, 20 + slot * 22);
        picture.draw(format_args!(
            "<circle class=\"{}\" cx=\"{x}\" cy=\"{y}\" r=\"5\"/>",
            NAMES[slot]
        ));
    }
    picture.is("round-robin.svg");
}

#[test]
fn load() {
    const ARRIVALS: usize = 200;
    let group = group(Policy::LeastConnections, &[(200, 0), (100, 0), (100, 0)]);
    let mut picture = Picture::new(
        LEFT + ARRIVALS * 3 + 60,
        190,
        "Connections of three backends of weights 200, 100 and 100 over time",
    );
    let mut lines = [const { String::new() }; 3];
    let mut ends: Vec<(usize, usize)> = Vec::new();
    for now in 0..ARRIVALS {
        ends.retain(|&(end, slot)| {
            if end <= now {
                group.cell(slot).release();
            }
            end > now
        });
        let slot = group.pick(&request(now as u64)).unwrap();
        // Most are short, some are long.
        let lasts = match mix(now as u64) % 8 {
            0 => 160,
            draw => 8 + 6 * draw as usize,
        };
        ends.push((now + lasts, slot));
        for (slot, line) in lines.iter_mut().enumerate() {
            let active = group.cell(slot).load().active();
            write!(line, "{},{} ", LEFT + now * 3, 160 - active * 5).unwrap();
        }
    }
    for (slot, line) in lines.iter().enumerate() {
        let name = NAMES[slot];
        picture.draw(format_args!("<polyline class=\"{name} line\" points=\"{}\"/>", line.trim()));
        let active = group.cell(slot).load().active();
        let y = 164 - active as usize * 5 + if slot == 2 { 12 } else { 0 };
        picture.text(LEFT + ARRIVALS * 3 + 6, y, format_args!("{name}: {active}"));
    }
    picture.text(LEFT, 182, "each new connection goes to the least (connections + 1) / weight");
    picture.is("least-connections.svg");
}

#[test]
fn clients_that_move() {
    const CLIENTS: usize = 72;
    const ROW: usize = 24;
    let group = group(Policy::SourceHash, &[(100, 0), (100, 0), (100, 0)]);
    let mut choose = |client: usize| {
        let address = std::net::IpAddr::from([198, 51, 100, client as u8]);
        let request = Request { client: hash_client(address), entropy: 0, tried: &[] };
        let slot = group.pick(&request).unwrap();
        group.cell(slot).release();
        slot
    };
    let before: Vec<usize> = (0..CLIENTS).map(&mut choose).collect();
    group.cell(1).set_weight(0);
    let after: Vec<usize> = (0..CLIENTS).map(&mut choose).collect();
    let mut picture = Picture::new(
        2 * (ROW * STEP + 30) + 10,
        100,
        "Which backend each of 72 clients gets, before and after b has left; only b's clients move",
    );
    for (side, (slots, caption)) in
        [(&before, "a, b and c are up"), (&after, "b is down: only its clients have moved")]
            .into_iter()
            .enumerate()
    {
        let left = 14 + side * (ROW * STEP + 30);
        for (client, &slot) in slots.iter().enumerate() {
            let (x, y) = (left + client % ROW * STEP, 14 + client / ROW * 20);
            picture.draw(format_args!(
                "<circle class=\"{}\" cx=\"{x}\" cy=\"{y}\" r=\"5\"/>",
                NAMES[slot]
            ));
            if slot != before[client] {
                assert_eq!(before[client], 1, "a client of a backend that stays has moved");
                picture.draw(format_args!(
                    "<circle class=\"moved\" cx=\"{x}\" cy=\"{y}\" r=\"6.5\"/>"
                ));
            }
        }
        picture.text(left - 6, 86, caption);
    }
    picture.is("source-hash.svg");
}
