//! What can be computed of how the page looks.

use std::collections::BTreeMap;

const STYLE: &str = include_str!("../../src/admin/dashboard/assets/style.css");

/// The pairs of colours of the style: light and dark.
fn colours() -> BTreeMap<&'static str, [[f64; 3]; 2]> {
    let channels = |hex: &str| {
        [1, 3, 5].map(|at| f64::from(u8::from_str_radix(&hex[at..at + 2], 16).unwrap()) / 255.0)
    };
    let lines = STYLE.lines().filter_map(|line| line.trim().strip_prefix("--"));
    lines
        .filter_map(|line| {
            let (name, value) = line.split_once(": light-dark(")?;
            let (light, dark) = value.strip_suffix(");")?.split_once(", ")?;
            Some((name, [channels(light), channels(dark)]))
        })
        .collect()
}

/// WCAG 2.2, "contrast ratio" and "relative luminance".
fn contrast(one: [f64; 3], other: [f64; 3]) -> f64 {
    let luminance = |colour: [f64; 3]| {
        let [red, green, blue] = colour.map(|channel| match channel <= 0.04045 {
            true => channel / 12.92,
            false => ((channel + 0.055) / 1.055).powf(2.4),
        });
        0.2126 * red + 0.7152 * green + 0.0722 * blue
    };
    let (one, other) = (luminance(one) + 0.05, luminance(other) + 0.05);
    one.max(other) / one.min(other)
}

/// AA: 4.5 for text (1.4.3), 3 for what controls and lines of a chart are made out by (1.4.11).
#[test]
fn colours_have_the_contrast_that_reading_takes_in_both_themes() {
    let colours = colours();
    let texts = ["text", "quiet", "accent", "good", "warn", "bad"];
    let grounds = ["ground", "panel", "raised", "wash", "bad-ground", "warn-ground"];
    let mut least: BTreeMap<&str, f64> = BTreeMap::new();
    let mut poor = Vec::new();
    let mut check = |mark: &'static str, ground: &str, enough: f64| {
        for (theme, name) in ["light", "dark"].iter().enumerate() {
            let ratio = contrast(colours[mark][theme], colours[ground][theme]);
            let so_far = least.entry(mark).or_insert(f64::INFINITY);
            *so_far = so_far.min(ratio);
            if ratio < enough {
                poor.push(format!("{mark} on {ground}, {name}: {ratio:.2}"));
            }
        }
    };
    for text in texts {
        grounds.iter().for_each(|ground| check(text, ground, 4.5));
    }
    ["ground", "panel"].iter().for_each(|ground| check("edge", ground, 3.0));
    eprintln!("least contrast: {least:.2?}");
    assert!(poor.is_empty(), "{poor:#?}");
    // No colour but these: one that is not in the list has not been looked at.
    let elsewhere = STYLE.lines().filter(|line| !line.contains("light-dark("));
    let other: Vec<_> =
        elsewhere.filter(|line| line.contains('#') && !line.contains('{')).collect();
    assert!(other.is_empty(), "{other:#?}");
}

/// What moves, moves only where the system has not said that nothing should.
#[test]
fn motion_is_only_for_those_who_do_not_mind() {
    let (before, within) =
        STYLE.split_once("@media (prefers-reduced-motion: no-preference)").unwrap();
    for word in ["transition", "animation"] {
        assert!(!before.contains(word), "{word} for everybody");
    }
    assert!(within.contains("transition"));
}
