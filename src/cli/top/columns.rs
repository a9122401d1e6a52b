//! The columns of backends: which of them fit, and what is in them.

use super::model::{Row, Sort, amount, millis, number};
use crate::cli::text::{of_most, span};

/// A column of backends.
#[derive(Debug)]
pub struct Column {
    /// Over it.
    pub title: &'static str,
    /// Aligned to the right.
    pub is_number: bool,
    /// What it is sorted by.
    pub sort: Option<Sort>,
    /// Where there is little room those with the highest number go first.
    rank: u8,
    cell: fn(&Row) -> String,
}

const COLUMNS: [Column; 13] = [
    column("backend", Some(Sort::Name), 0, |row| row.name.clone()),
    column("address", None, 8, |row| row.address.clone()),
    column("state", Some(Sort::State), 0, |row| row.state.clone()),
    numbers("weight", None, 4, |row| row.weight.clone()),
    numbers("conns", Some(Sort::Conns), 0, |row| of_most(row.conns, row.most)),
    numbers("new/s", Some(Sort::New), 1, |row| number(row.new)),
    numbers("in/s", Some(Sort::In), 3, |row| amount(row.bytes[0])),
    numbers("out/s", Some(Sort::Out), 2, |row| amount(row.bytes[1])),
    numbers("failed/s", Some(Sort::Failed), 5, |row| number(row.failed)),
    numbers("connect ms", Some(Sort::Connect), 6, |row| millis(row.connect)),
    numbers("check ms", None, 9, |row| row.check.clone()),
    numbers("for", None, 7, |row| span(row.since)),
    column("reason", None, 10, |row| row.reason.clone()),
];

const fn column(
    title: &'static str,
    sort: Option<Sort>,
    rank: u8,
    cell: fn(&Row) -> String,
) -> Column {
    Column { title, is_number: false, sort, rank, cell }
}

const fn numbers(
    title: &'static str,
    sort: Option<Sort>,
    rank: u8,
    cell: fn(&Row) -> String,
) -> Column {
    Column { title, is_number: true, sort, rank, cell }
}

/// What a screen has room for.
#[derive(Debug)]
pub struct Layout {
    /// Columns, and how wide each is.
    pub columns: Vec<(&'static Column, usize)>,
}

/// Between two columns.
const GAP: usize = 2;

/// Long names are cut: the other columns are of use, too.
const WIDEST: usize = 40;

impl Layout {
    /// All columns, each as wide as it needs to be.
    pub fn whole(rows: &[Row]) -> Self {
        let columns = COLUMNS.iter().map(|column| (column, column.width(rows))).collect();
        Self { columns }
    }

    /// What fits into so many characters: never less than the name, the state and the connections,
    /// whatever becomes of them.
    pub fn fit(rows: &[Row], width: usize) -> Self {
        let mut columns: Vec<_> =
            COLUMNS.iter().map(|column| (column, column.width(rows).min(WIDEST))).collect();
        let taken = |columns: &[(&Column, usize)]| {
            columns.iter().map(|(_, width)| width + GAP).sum::<usize>().saturating_sub(GAP)
        };
        while taken(&columns) > width {
            // The reason is the last to be cut, and the first to be shortened: it is a sentence.
            if let Some((column, room)) = columns.last_mut()
                && column.title == "reason"
                && *room > 12
            {
                *room -= 1;
                continue;
            }
            let Some(worst) = (0..columns.len()).max_by_key(|&at| columns[at].0.rank) else {
                break;
            };
            if columns[worst].0.rank == 0 {
                break;
            }
            columns.remove(worst);
        }
        Self { columns }
    }
}

impl Column {
    /// What a row has in it.
    pub fn cell(&self, row: &Row) -> String {
        (self.cell)(row)
    }

    fn width(&self, rows: &[Row]) -> usize {
        let cells = rows.iter().map(|row| self.cell(row).chars().count());
        cells.chain([self.title.len()]).max().unwrap_or(0)
    }
}
