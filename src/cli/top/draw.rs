//! Puts a [`Glance`] onto a screen of any size.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout as Split, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row as Cells, Table, Wrap};

use super::columns::Layout;
use super::model::{Glance, LISTENERS, Wish};
use crate::cli::text::Mood;

/// Everything that is on the screen.
#[derive(Debug, Default)]
pub struct Scene {
    /// What there is to see; `None` until the gateway has answered.
    pub glance: Option<Glance>,
    /// Why what is seen is not of now.
    pub trouble: Option<String>,
    /// What the viewer wishes.
    pub wish: Wish,
    /// The first backend that is shown.
    pub first: usize,
    /// The filter is being typed.
    pub typing: bool,
    /// The keys are explained.
    pub help: bool,
    /// Nothing moves.
    pub paused: bool,
    /// Between two answers, for people.
    pub interval: String,
    /// Colours are wanted.
    pub color: bool,
    /// Backends that there was room for when it was last drawn.
    pub room: usize,
}

/// What the keys do.
const HELP: &str = "
  q, Esc, Ctrl-C   leave
  s, S             sort backends by the next column, by the one before
  r                the other way round
  /                show only backends with these words in pool, name, address
                   or state; Enter keeps them, Esc shows all again
  Up, Down, PgUp, PgDn, Home, End, j, k
                   look further down or up the list of backends
  +, -             ask less often, more often
  Space            hold still, go on
  ?, h             this, and back

  new/s, in/s, out/s, failed/s and connect ms are about the time since the last
  answer; in = towards backends, out = towards clients. A dash is a number that
  is not known. Where there is little room columns are left out.";

impl Scene {
    /// Draws it. Remembers how many backends there was room for.
    pub fn draw(&mut self, frame: &mut Frame<'_>) {
        let area = frame.area();
        let [body, foot] = Split::vertical([Constraint::Min(0), Constraint::Length(1)]).areas(area);
        if self.help {
            frame.render_widget(Paragraph::new(HELP), body);
        } else {
            self.body(frame, body);
        }
        // Last: it tells what there was room for.
        self.foot(frame, foot);
    }

    fn body(&mut self, frame: &mut Frame<'_>, mut body: Rect) {
        if let Some(trouble) = &self.trouble {
            let style = self.style(Mood::Bad).add_modifier(Modifier::BOLD);
            let text =
                Paragraph::new(Span::styled(trouble.clone(), style)).wrap(Wrap { trim: true });
            let lines = trouble.chars().count().div_ceil(usize::from(body.width.max(1)));
            let [above, below] = Split::vertical([
                Constraint::Length(u16::try_from(lines).unwrap_or(1).min(3)),
                Constraint::Min(0),
            ])
            .areas(body);
            frame.render_widget(text, above);
            body = below;
        }
        let Some(glance) = self.glance.take() else { return };
        // Backends have a third of the screen at least.
        let most = usize::from(body.height / 3).max(2);
        let listeners = lines(&glance.listeners).min(most);
        let heights = [glance.head.len(), lines(&glance.instances).min(most), listeners];
        let [head, instances, listeners] =
            heights.map(|height| Constraint::Length(u16::try_from(height).unwrap_or(u16::MAX)));
        let [head, instances, listeners, backends] =
            Split::vertical([head, instances, listeners, Constraint::Min(0)]).areas(body);
        self.head(frame, head, &glance);
        self.instances(frame, instances, &glance);
        self.listeners(frame, listeners, &glance);
        self.backends(frame, backends, &glance);
        self.glance = Some(glance);
    }

    fn style(&self, mood: Mood) -> Style {
        // What is old is not to look as if it were well.
        if !self.color || (self.trouble.is_some() && mood == Mood::Good) {
            return Style::new();
        }
        Style::new().fg(match mood {
            Mood::Good => Color::Green,
            Mood::Fair => Color::Yellow,
            Mood::Bad => Color::Red,
        })
    }

    fn title(&self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    fn head(&self, frame: &mut Frame<'_>, area: Rect, glance: &Glance) {
        let line = |(at, (mood, text)): (usize, &(Mood, String))| match (at, mood) {
            (0, _) => Line::styled(text.clone(), Style::new().add_modifier(Modifier::BOLD)),
            (_, Mood::Good) => Line::raw(text.clone()),
            (_, &mood) => Line::styled(text.clone(), self.style(mood)),
        };
        let text: Vec<_> = glance.head.iter().enumerate().map(line).collect();
        frame.render_widget(Paragraph::new(text), area);
    }

    fn instances(&self, frame: &mut Frame<'_>, area: Rect, glance: &Glance) {
        let titles = ["vrrp", "state", "priority", "master", "for", "cause"].map(str::to_owned);
        let cells: Vec<_> = glance.instances.iter().map(|(_, cells)| cells.to_vec()).collect();
        let rows = glance.instances.iter().map(|(mood, cells)| {
            let cell = |(at, text): (usize, &String)| match at {
                1 => Cell::from(Span::styled(text.clone(), self.style(*mood))),
                _ => Cell::from(text.clone()),
            };
            Cells::new(cells.iter().enumerate().map(cell))
        });
        let widths = widths(&titles, &cells);
        let table = Table::new(rows, widths).header(Cells::new(titles).style(self.title()));
        frame.render_widget(table.column_spacing(2), area);
    }

    fn listeners(&self, frame: &mut Frame<'_>, area: Rect, glance: &Glance) {
        let titles = LISTENERS.map(str::to_owned);
        let right = |at: usize, text: &str| {
            let line = Line::raw(text.to_owned());
            Cell::from(if at > 1 { line.right_aligned() } else { line })
        };
        let cells = |row: &[String]| {
            Cells::new(row.iter().enumerate().map(|(at, text)| right(at, text)).collect::<Vec<_>>())
        };
        let widths = widths(&titles, &glance.listeners);
        let header = cells(&titles).style(self.title());
        let room = usize::from(area.height.saturating_sub(1));
        let shown = match glance.listeners.len() {
            all if all > room => room.saturating_sub(1),
            all => all,
        };
        let more = format!("{} more", glance.listeners.len() - shown);
        let more = (shown < glance.listeners.len()).then(|| Cells::new([Cell::from(more)]));
        let rows = glance.listeners[..shown].iter().map(|row| cells(row)).chain(more);
        let table = Table::new(rows, widths).header(header);
        frame.render_widget(table.column_spacing(2), area);
    }

    fn backends(&mut self, frame: &mut Frame<'_>, area: Rect, glance: &Glance) {
        let rows = &glance.backends;
        self.room = usize::from(area.height.saturating_sub(1));
        self.first = self.first.min(rows.len().saturating_sub(self.room));
        let layout = Layout::fit(rows, usize::from(area.width));
        let aligned = |text: String, style: Style, is_number: bool| {
            let line = Line::styled(text, style);
            Cell::from(if is_number { line.right_aligned() } else { line })
        };
        let header = layout.columns.iter().map(|(column, _)| {
            let sorted = column.sort == Some(self.wish.sort);
            let style =
                if sorted { Style::new().add_modifier(Modifier::BOLD) } else { Style::new() };
            aligned(column.title.to_owned(), style, column.is_number)
        });
        let header = Cells::new(header.collect::<Vec<_>>()).style(self.title());
        let shown = rows.iter().skip(self.first).take(self.room).map(|row| {
            let mood = Mood::of(&row.state);
            Cells::new(layout.columns.iter().map(|(column, _)| {
                let style = if column.title == "state" { self.style(mood) } else { Style::new() };
                aligned(column.cell(row), style, column.is_number)
            }))
        });
        let widths = layout
            .columns
            .iter()
            .map(|&(_, width)| Constraint::Length(u16::try_from(width).unwrap_or(u16::MAX)));
        let table = Table::new(shown, widths).header(header).column_spacing(2);
        frame.render_widget(table, area);
    }

    fn foot(&self, frame: &mut Frame<'_>, area: Rect) {
        let text = if self.typing {
            format!("show only: {}_", self.wish.filter)
        } else {
            let mut parts = vec!["? help  q leave".to_owned(), format!("every {}", self.interval)];
            parts.push(format!(
                "sorted by {}{}",
                self.wish.sort.name(),
                if self.wish.reversed { ", reversed" } else { "" }
            ));
            if let Some(glance) = &self.glance {
                let (shown, all) = (glance.backends.len(), glance.backends.len() + glance.hidden);
                if !self.wish.filter.is_empty() {
                    parts.push(format!("{shown} of {all} with \"{}\"", self.wish.filter));
                } else if self.first > 0 || all > self.room {
                    parts.push(format!(
                        "{} to {} of {all}",
                        self.first + 1,
                        all.min(self.first.saturating_add(self.room))
                    ));
                }
            }
            if self.paused {
                parts.push("held still".to_owned());
            }
            parts.join("  |  ")
        };
        frame.render_widget(Paragraph::new(text).style(self.title()), area);
    }
}

/// Lines of a table with a title and one below, or none at all.
fn lines<T>(rows: &[T]) -> usize {
    if rows.is_empty() { 0 } else { rows.len() + 1 }
}

fn widths(titles: &[String], rows: &[Vec<String>]) -> Vec<Constraint> {
    let widest = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at)).chain(titles.get(at));
        cells.map(|text| text.chars().count()).max().unwrap_or(0)
    };
    let length = |at| Constraint::Length(u16::try_from(widest(at)).unwrap_or(u16::MAX));
    (0..titles.len()).map(length).collect()
}
