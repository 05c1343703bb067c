//! Tables that fit the terminal.

use super::escape;
use super::tone::{Tone, painted};
use super::width::{cut, width};

/// Columns between two cells.
const GAP: usize = 2;

/// A flexible column is not made narrower than this: less says nothing.
const NARROWEST: usize = 8;

/// A column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    /// What stands above it.
    pub(crate) head: &'static str,
    /// Whether it gives way when the terminal is narrow.
    pub(crate) flexible: bool,
}

/// A column that keeps its width.
pub(crate) const fn fixed(head: &'static str) -> Column {
    Column { head, flexible: false }
}

/// A column that gives way.
pub(crate) const fn flexible(head: &'static str) -> Column {
    Column { head, flexible: true }
}

/// A table in the making. Every cell is cleaned of escapes.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<(String, Tone)>>,
}

impl Table {
    /// An empty one.
    pub(crate) fn new(columns: &[Column]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// One more row of plain cells.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.toned(cells.map(|text| (text, Tone::Plain)));
    }

    /// One more row.
    pub(crate) fn toned<const N: usize>(&mut self, cells: [(String, Tone); N]) {
        self.rows.push(cells.map(|(text, tone)| (escape::line(&text), tone)).to_vec());
    }

    /// The table as text, at most `most` columns wide where a width is given.
    pub(crate) fn render(&self, most: Option<usize>, colours: bool) -> String {
        let heads = self.columns.iter().map(|column| (column.head.to_owned(), Tone::Dim)).collect();
        let widths = self.widths(most);
        let mut text = String::new();
        for row in std::iter::once(&heads).chain(&self.rows) {
            text.push_str(&render_row(row, &widths, colours));
            text.push('\n');
        }
        text
    }

    fn widths(&self, most: Option<usize>) -> Vec<usize> {
        let natural = |(index, column): (usize, &Column)| {
            let cells = self.rows.iter().filter_map(|row| row.get(index));
            cells.map(|(text, _)| width(text)).fold(width(column.head), usize::max)
        };
        let mut widths: Vec<_> = self.columns.iter().enumerate().map(natural).collect();
        let gaps = GAP * self.columns.len().saturating_sub(1);
        let mut over =
            most.map_or(0, |most| (widths.iter().sum::<usize>() + gaps).saturating_sub(most));
        while over > 0 {
            let flexible = widths.iter_mut().zip(&self.columns);
            let candidates =
                flexible.filter(|(width, column)| column.flexible && **width > NARROWEST);
            let Some((widest, _)) = candidates.max_by_key(|(width, _)| **width) else { break };
            *widest -= 1;
            over -= 1;
        }
        self.drop_what_still_overflows(&mut widths, over);
        widths
    }

    /// Takes what is left over from the end: on a very narrow terminal the last columns go.
    fn drop_what_still_overflows(&self, widths: &mut [usize], mut over: usize) {
        for width in widths.iter_mut().rev() {
            let taken = (*width).min(over);
            *width -= taken;
            over -= taken;
        }
    }
}

fn render_row(row: &[(String, Tone)], widths: &[usize], colours: bool) -> String {
    let mut line = String::new();
    let mut owed = 0;
    for ((text, tone), room) in row.iter().zip(widths) {
        let text = cut(text, *room);
        if !text.is_empty() {
            line.push_str(&" ".repeat(owed));
            line.push_str(&painted(*tone, &text, colours));
            owed = 0;
        }
        owed += room - width(&text) + GAP;
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Table {
        let mut table = Table::new(&[fixed("ID"), flexible("NAME"), fixed("AGE")]);
        table.row(["deadbeef".into(), "a rather long name of a task".into(), "5m".into()]);
        table.toned([
            ("1".into(), Tone::Plain),
            ("日本".into(), Tone::Good),
            (String::new(), Tone::Plain),
        ]);
        table
    }

    #[test]
    fn a_wide_terminal_shows_all() {
        let expected = "ID        NAME                          AGE\n\
                        deadbeef  a rather long name of a task  5m\n\
                        1         日本\n";
        assert_eq!(sample().render(None, false), expected);
        assert_eq!(sample().render(Some(80), false), expected);
    }

    #[test]
    fn a_narrow_one_cuts_what_is_flexible() {
        let expected = "ID        NAME        AGE\n\
                        deadbeef  a rather …  5m\n\
                        1         日本\n";
        assert_eq!(sample().render(Some(25), false), expected);
        assert!(sample().render(Some(25), true).contains("\x1b[32m日本\x1b[0m"));
    }

    #[test]
    fn f49_a_cell_carries_no_escape() {
        let mut table = Table::new(&[fixed("A")]);
        table.row(["x\x1b]52;c;eA==\x07\ny".into()]);
        assert_eq!(table.render(None, false), "A\nx y\n");
    }

    proptest! {
        #[test]
        fn every_line_fits(names in prop::collection::vec("\\PC{0,60}", 0..6), most in 0usize..90) {
            let mut table = Table::new(&[fixed("ID"), flexible("NAME"), flexible("BRANCH")]);
            for name in names {
                table.row(["deadbeef".into(), name.clone(), name]);
            }
            for line in table.render(Some(most), false).lines() {
                prop_assert!(width(line) <= most.max(2 * GAP));
            }
        }
    }
}
