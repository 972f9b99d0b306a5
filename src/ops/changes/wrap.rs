//! Styled text as lines that fit a terminal.

use anstyle::Style;
use unicode_segmentation::UnicodeSegmentation as _;
use unicode_width::UnicodeWidthStr as _;

use crate::ops::render::styled;

/// A piece of a line: its style, and its text.
pub(super) type Piece = (Style, String);

/// The pieces as lines of at most the terminal's width, broken between words; what follows the first is indented.
pub(super) fn wrapped(begin: Vec<String>, pieces: Vec<Piece>, width: Option<usize>) -> Vec<String> {
    const INDENT: &str = "    ";
    let width = width.map_or(usize::MAX, |width| width.max(20));
    let mut line = begin.concat();
    let mut used = anstream::adapter::strip_str(&line).to_string().width();
    let mut lines = Vec::new();
    // Spaces are written once a word follows them on their line.
    let mut spaces = String::new();
    for (style, text) in pieces {
        let mut open = String::new();
        for chunk in text.split_inclusive(' ') {
            let mut word = chunk.trim_end_matches(' ');
            while !word.is_empty() {
                let columns = word.width();
                if used + spaces.len() + columns <= width {
                    used += spaces.len() + columns;
                    open.push_str(&std::mem::take(&mut spaces));
                    open.push_str(word);
                    break;
                }
                // A word longer than a line is broken where the line ends.
                let too_long = columns > width - INDENT.len();
                let room = width.saturating_sub(used + spaces.len());
                let fits = if too_long { columns_to_bytes(word, room) } else { 0 };
                if fits > 0 {
                    open.push_str(&spaces);
                    open.push_str(&word[..fits]);
                    word = &word[fits..];
                }
                line.push_str(&styled_piece(style, &open));
                lines.push(std::mem::replace(&mut line, INDENT.to_owned()));
                (used, open, spaces) = (INDENT.len(), String::new(), String::new());
            }
            spaces.extend(std::iter::repeat_n(' ', chunk.len() - chunk.trim_end_matches(' ').len()));
        }
        line.push_str(&styled_piece(style, &open));
    }
    lines.push(line);
    lines
}

fn styled_piece(style: Style, text: &str) -> String {
    if text.is_empty() { String::new() } else { styled(style, text) }
}

/// Bytes of the longest beginning of `text`, in whole graphemes, that takes at most so many columns.
fn columns_to_bytes(text: &str, columns: usize) -> usize {
    let mut used = 0;
    let mut end = 0;
    for (at, grapheme) in text.grapheme_indices(true) {
        used += grapheme.width();
        if used > columns {
            break;
        }
        end = at + grapheme.len();
    }
    end
}
