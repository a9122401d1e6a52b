//! The results as a picture: bars of each subject's ratio to HAProxy, scenario by scenario, as SVG.

use std::fmt::Write as _;

use crate::report::{Report, Table};

/// Sizes in pixels.
const WIDTH: f64 = 960.0;
const MARGIN: f64 = 24.0;
/// Where bars begin; labels end a little before.
const LEFT: f64 = 150.0;
/// How long a bar of ratio 1 is. Two and a half of that fit.
const UNIT: f64 = 240.0;
const MOST: f64 = 2.5;
const BAR: f64 = 15.0;
const STEP: f64 = 19.0;
const TITLE: f64 = 30.0;
const HEADING: f64 = 92.0;

/// Told apart by those who cannot tell red from green, too.
const COLOURS: [(&str, &str); 6] = [
    ("lockgate", "#0b6e99"),
    ("floor", "#9aa5ad"),
    ("haproxy", "#e0a030"),
    ("haproxy-splice", "#c97b1c"),
    ("nginx", "#5a9a5a"),
    ("envoy", "#a35aa3"),
];

/// Draws all tables that have a reference.
pub fn draw(report: &Report) -> String {
    let mut body = String::new();
    let mut y = HEADING;
    for table in report.tables() {
        y = draw_table(&mut body, table, y);
    }
    let height = y + MARGIN;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"Helvetica, Arial, sans-serif\" \
         font-size=\"12\" fill=\"#222\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"{MARGIN}\" y=\"34\" font-size=\"19\" font-weight=\"bold\">\
         Cost of a proxied connection, relative to HAProxy</text>\n\
         <text x=\"{MARGIN}\" y=\"55\" fill=\"#555\">Shorter is better. The line at 1 is the better \
         of HAProxy with and without splice.</text>\n\
         <text x=\"{MARGIN}\" y=\"73\" fill=\"#555\">{}</text>\n\
         {body}</svg>\n",
        escape(&report.subtitle())
    )
}

/// Returns where the next one begins.
fn draw_table(body: &mut String, table: &Table, top: f64) -> f64 {
    let bars = table.bars();
    if bars.is_empty() {
        return top;
    }
    let (name, what) = table.title();
    let first = top + TITLE;
    let bottom = first + STEP * bars.len() as f64;
    let _ = writeln!(
        body,
        "<text x=\"{MARGIN}\" y=\"{:.0}\"><tspan font-weight=\"bold\">{}</tspan>\
         <tspan dx=\"8\" fill=\"#555\">{}</tspan></text>",
        top + 20.0,
        escape(name),
        escape(&what)
    );
    for (row, (label, value, ratio)) in bars.iter().enumerate() {
        let y = first + STEP * row as f64;
        let text = y + BAR - 3.5;
        let length = UNIT * ratio.clamp(0.0, MOST);
        // A bar that does not fit ends with a gap, and its label says how long it were.
        let cut = *ratio > MOST;
        let (weight, more) =
            (if *label == "lockgate" { "bold" } else { "normal" }, &format!("{ratio:.2}"));
        let _ = writeln!(
            body,
            "<text x=\"{:.0}\" y=\"{text}\" text-anchor=\"end\" font-weight=\"{weight}\">{}</text>\
             <rect x=\"{LEFT}\" y=\"{y}\" width=\"{length:.1}\" height=\"{BAR}\" rx=\"1.5\" fill=\"{}\"/>\
             <text x=\"{:.1}\" y=\"{text}\" font-weight=\"{weight}\">{more}\
             <tspan dx=\"6\" fill=\"#777\" font-weight=\"normal\">{value}</tspan></text>",
            LEFT - 8.0,
            escape(label),
            colour(label),
            LEFT + length + 6.0,
        );
        if cut {
            let _ = writeln!(
                body,
                "<path d=\"M {x:.1} {y} l 6 {BAR} h 4 l -6 -{BAR} z\" fill=\"#fff\"/>",
                x = LEFT + length - 24.0
            );
        }
    }
    let x = LEFT + UNIT;
    let _ = writeln!(
        body,
        "<line x1=\"{x}\" y1=\"{:.0}\" x2=\"{x}\" y2=\"{:.0}\" stroke=\"#222\" \
         stroke-width=\"1\" stroke-dasharray=\"3 2\"/>",
        first - 3.0,
        bottom
    );
    bottom + 8.0
}

/// A subject that is measured twice has the same one.
fn colour(label: &str) -> &'static str {
    let kind = label.split('#').next().unwrap_or(label);
    COLOURS.iter().find(|(name, _)| *name == kind).map_or("#888", |(_, colour)| colour)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
