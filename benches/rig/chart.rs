//! The results as a picture: bars of each subject's ratio to HAProxy, scenario by scenario, as SVG.

use std::fmt::Write as _;

use crate::report::{Report, Table};

/// Sizes in pixels.
const WIDTH: f64 = 960.0;
const MARGIN: f64 = 24.0;
/// Where bars begin; labels end a little before.
const LEFT: f64 = 150.0;
/// Where the ratio and the value end.
const RATIO: f64 = 850.0;
const VALUE: f64 = WIDTH - MARGIN;
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
    let (name, what, unit) = table.title();
    let first = top + TITLE;
    let bottom = first + STEP * bars.len() as f64;
    let _ = writeln!(
        body,
        "<text x=\"{MARGIN}\" y=\"{y}\"><tspan font-weight=\"bold\">{}</tspan>\
         <tspan dx=\"8\" fill=\"#555\">{}</tspan></text>\
         <text x=\"{RATIO}\" y=\"{y}\" text-anchor=\"end\" fill=\"#777\">ratio</text>\
         <text x=\"{VALUE}\" y=\"{y}\" text-anchor=\"end\" fill=\"#777\">{}</text>",
        escape(name),
        escape(what),
        escape(unit),
        y = top + 20.0,
    );
    for (row, (label, value, ratio)) in bars.iter().enumerate() {
        let y = first + STEP * row as f64;
        let text = y + BAR - 3.5;
        let length = UNIT * ratio.clamp(0.0, MOST);
        let weight = if colour(label) == COLOURS[0].1 { "bold" } else { "normal" };
        let _ = writeln!(
            body,
            "<g font-weight=\"{weight}\">\
             <text x=\"{:.0}\" y=\"{text}\" text-anchor=\"end\">{}</text>\
             <text x=\"{RATIO}\" y=\"{text}\" text-anchor=\"end\">{ratio:.2}</text>\
             <text x=\"{VALUE}\" y=\"{text}\" text-anchor=\"end\" fill=\"#777\">{value}</text></g>\
             <rect x=\"{LEFT}\" y=\"{y}\" width=\"{length:.1}\" height=\"{BAR}\" fill=\"{}\"/>",
            LEFT - 8.0,
            escape(label),
            colour(label),
        );
        // A bar that does not fit is cut.
        if *ratio > MOST {
            let x = LEFT + length - 24.0;
            let _ = writeln!(
                body,
                "<path d=\"M {x:.1} {y} l 6 {BAR} h 4 l -6 -{BAR} z\" fill=\"#fff\"/>"
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
