//! How wide a line may be, and what gives way where it would be wider: a name loses its middle, a sentence its end or is
//! broken between words, a table its least columns.
//!
//! # Why
//! A terminal breaks a longer line anywhere, and a table of such lines cannot be read. What is to be copied, a command
//! or an address, is left whole: the terminal joins the parts of a line that it broke itself.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr};

/// Below that nothing is legible anyway.
pub(in crate::ops) const LEAST_WIDTH: usize = 40;
/// Columns where there is no terminal, and where it does not say.
const USUAL_WIDTH: usize = 80;
/// Columns that a cell keeps as long as another one can give way.
const LEAST_CELL: usize = 20;

/// The columns to fill, where they are known: `COLUMNS`, or as wide as the terminal is.
pub(in crate::ops) fn known_width() -> Option<usize> {
    let told = std::env::var("COLUMNS").ok().and_then(|text| text.trim().parse().ok());
    let seen = || terminal_size::terminal_size().map(|(columns, _)| usize::from(columns.0));
    told.or_else(seen).map(|width: usize| width.max(LEAST_WIDTH))
}

/// The columns to fill.
pub(in crate::ops) fn terminal_width() -> usize {
    known_width().unwrap_or(USUAL_WIDTH)
}

/// Columns of a text that may have styles.
pub(super) fn columns(text: &str) -> usize {
    anstream::adapter::strip_str(text).map(UnicodeWidthStr::width).sum()
}

/// A long name with its middle left out.
pub(in crate::ops) fn shortened(name: &str, most: usize) -> String {
    if name.width() <= most {
        return name.to_owned();
    }
    let behind = most.saturating_sub(1) / 2;
    let end: String = name.chars().skip(name.chars().count().saturating_sub(behind)).collect();
    format!("{}{end}", cut(name, most.saturating_sub(end.width())))
}

/// A long text with its end left out.
pub(in crate::ops) fn cut(text: &str, most: usize) -> String {
    if text.width() <= most {
        return text.to_owned();
    }
    let mut out = String::new();
    for c in text.chars() {
        if out.width() + c.width().unwrap_or(0) + 1 > most {
            break;
        }
        out.push(c);
    }
    if most > 0 {
        out.push('…');
    }
    out
}

/// A sentence broken between words; `indent` blanks before all lines but the first. A word that is longer than a line
/// stands whole on one of its own.
pub(in crate::ops) fn wrapped(text: &str, width: usize, indent: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let (mut line, mut used) = (String::new(), 0);
    for (at, word) in text.split(' ').enumerate() {
        let needs = columns(word);
        if !line.trim().is_empty() && used + 1 + needs > width {
            lines.push(std::mem::replace(&mut line, " ".repeat(indent)).trim_end().to_owned());
            used = indent;
        } else if at > 0 {
            line.push(' ');
            used += 1;
        }
        line.push_str(word);
        used += needs;
    }
    lines.push(line);
    lines
}

/// A column of a table, by its heading, and how it gives way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column<'a> {
    /// A count, at the right: never cut.
    Number(&'a str),
    /// A word, a time, an id: its middle goes when nothing else can.
    Word(&'a str),
    /// A name: its middle goes.
    Shortened(&'a str),
    /// A sentence: its end goes.
    Cut(&'a str),
    /// A sentence that can be read elsewhere: its middle goes, and where little is left all of it.
    Detail(&'a str),
    /// What is of no use in parts, and can be had elsewhere: it is there or not.
    Extra(&'a str),
}

impl Column<'_> {
    pub(super) fn heading(&self) -> &str {
        match self {
            Self::Number(heading)
            | Self::Word(heading)
            | Self::Shortened(heading)
            | Self::Cut(heading)
            | Self::Detail(heading)
            | Self::Extra(heading) => heading,
        }
    }

    fn can_be_cut(self) -> bool {
        match self {
            Self::Shortened(_) | Self::Cut(_) | Self::Detail(_) => true,
            Self::Number(_) | Self::Word(_) | Self::Extra(_) => false,
        }
    }

    fn can_be_left_out(self) -> bool {
        match self {
            Self::Detail(_) | Self::Extra(_) => true,
            Self::Number(_) | Self::Word(_) | Self::Shortened(_) | Self::Cut(_) => false,
        }
    }

    /// A cell within its width.
    pub(super) fn fitted(self, cell: &str, width: usize) -> String {
        match self {
            _ if columns(cell) <= width => cell.to_owned(),
            Self::Cut(_) | Self::Number(_) | Self::Extra(_) => cut(cell, width),
            Self::Word(_) | Self::Shortened(_) | Self::Detail(_) => shortened(cell, width),
        }
    }
}

/// The widths of the columns in a table that is `width` wide; `None` for one that is left out. `widths` is what each of
/// them would take.
pub(super) fn fitted(table: &[Column<'_>], widths: &[usize], width: usize) -> Vec<Option<usize>> {
    // One blank before the first column, two before each other.
    let taken = |widths: &[Option<usize>]| -> usize { widths.iter().flatten().map(|width| width + 2).sum() };
    let fits = |widths: &[Option<usize>]| taken(widths) <= width + 1;
    let mut widths: Vec<Option<usize>> = widths.iter().copied().map(Some).collect();
    loop {
        let least = |(column, width): (&Column<'_>, &Option<usize>)| match column.can_be_cut() {
            true => width.map(|width| width.min(LEAST_CELL)),
            false => *width,
        };
        let least: Vec<_> = table.iter().zip(&widths).map(least).collect();
        let last = (0..table.len()).rev().find(|at| table[*at].can_be_left_out() && widths[*at].is_some());
        match last {
            Some(last) if !fits(&least) => widths[last] = None,
            Some(_) | None => break,
        }
    }
    let can_be_cut = |column: Column<'_>| column.can_be_cut();
    let is_word = |column: Column<'_>| matches!(column, Column::Word(_));
    give_way(table, &mut widths, &fits, LEAST_CELL, can_be_cut);
    give_way(table, &mut widths, &fits, LEAST_CELL, is_word);
    give_way(table, &mut widths, &fits, 1, can_be_cut);
    widths
}

/// Makes the widest of these columns narrower, one by one, down to `least`, until the table fits.
fn give_way(
    table: &[Column<'_>],
    widths: &mut [Option<usize>],
    fits: &impl Fn(&[Option<usize>]) -> bool,
    least: usize,
    may: impl Fn(Column<'_>) -> bool,
) {
    while !fits(widths) {
        let widest = (0..table.len()).filter(|at| may(table[*at]) && widths[*at] > Some(least));
        let Some(widest) = widest.max_by_key(|at| widths[*at]) else { return };
        widths[widest] = widths[widest].map(|width| width - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_keeps_its_ends() {
        assert_eq!(shortened("01a2199e-0000-7000-8000-00000000fad7", 17), "01a2199e…0000fad7");
        assert_eq!(shortened("job-7", 17), "job-7");
        assert_eq!([shortened("job-7", 1), shortened("job-7", 0)], ["…", ""]);
    }

    #[test]
    fn a_sentence_is_broken_between_words_and_what_is_to_be_copied_is_not() {
        let told = "  see   the page https://web.a.gov/a/very/long/address and go on";
        let lines = ["  see   the page", "    https://web.a.gov/a/very/long/address", "    and go on"];
        assert_eq!(wrapped(told, 20, 4), lines);
        assert_eq!(wrapped("", 20, 4), [""]);
        assert_eq!(wrapped("\u{1b}[2mone\u{1b}[0m two", 7, 2), ["\u{1b}[2mone\u{1b}[0m two"]);
    }

    #[test]
    fn in_a_narrow_table_the_widest_gives_way_and_then_what_can_be_had_elsewhere() {
        let table = [
            Column::Shortened("ID"),
            Column::Number("N"),
            Column::Cut("WHY"),
            Column::Extra("A"),
            Column::Extra("B"),
        ];
        assert_eq!(fitted(&table, &[36, 2, 40, 5, 5], 120), [36, 2, 40, 5, 5].map(Some));
        assert_eq!(fitted(&table, &[36, 2, 40, 5, 5], 80), [30, 2, 29, 5, 5].map(Some));
        assert_eq!(
            fitted(&table, &[36, 2, 40, 5, 30], 60),
            [Some(23), Some(2), Some(23), Some(5), None],
            "the last one first"
        );
        assert_eq!(fitted(&table, &[36, 2, 40, 50, 50], 40)[3..], [None, None]);
    }
}
