//! Lines that are no longer than the terminal is wide.

use anstyle::Style;
use unicode_width::UnicodeWidthStr as _;

use crate::ops::render::styled;
use crate::ops::render::width::{LEAST_WIDTH, cut};

/// Columns of the word that a line begins with, and of what goes on below it.
const HEAD: usize = 8;

/// A piece of a line.
pub(super) type Segment = (Style, String);

/// A piece without a style.
pub(super) fn plain(text: impl Into<String>) -> Segment {
    (Style::new(), text.into())
}

/// A line, and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    /// What was found: standard output.
    Data(String),
    /// What to think of it: standard error.
    Talk(String),
}

/// A screen that is being filled, line by line.
pub(super) struct Layout {
    width: usize,
    lines: Vec<Line>,
}

impl Layout {
    pub(super) fn new(width: usize) -> Self {
        Self { width: width.max(LEAST_WIDTH), lines: Vec::new() }
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    pub(super) fn into_lines(self) -> Vec<Line> {
        self.lines
    }

    /// The parts on one line, cut at its end.
    pub(super) fn line(&mut self, parts: &[Segment]) {
        let (mut text, mut room) = (String::new(), self.width);
        for (style, part) in parts {
            let part = cut(part, room);
            room -= part.width();
            text.push_str(&shown(*style, &part));
        }
        self.lines.push(Line::Data(text.trim_end().to_owned()));
    }

    /// A word, and the items behind it with `between` them; what does not fit goes on below.
    pub(super) fn items(&mut self, head: &str, items: &[Segment], between: &str) {
        let mut line = vec![plain(format!("{head:<HEAD$}"))];
        let mut used = HEAD;
        for (style, item) in items {
            let first = line.len() == 1;
            let needs = item.width() + if first { 0 } else { between.width() };
            if !first && used + needs > self.width {
                self.line(&line);
                (line, used) = (vec![plain(" ".repeat(HEAD))], HEAD);
            }
            if line.len() > 1 {
                line.push(plain(between));
                used += between.width();
            }
            used += item.width();
            line.push((*style, item.clone()));
        }
        self.line(&line);
    }

    /// A word and as many of the items behind it, in their order, as fit one line.
    pub(super) fn items_that_fit(&mut self, head: &str, items: &[Segment], between: &str) {
        let mut used = head.width();
        let mut line = vec![plain(head)];
        for (style, item) in items {
            let gap = if line.len() > 1 { between } else { "" };
            used += gap.width() + item.width();
            if used > self.width && line.len() > 1 {
                break;
            }
            line.extend([plain(gap), (*style, item.clone())]);
        }
        self.line(&line);
    }

    /// A word, the items behind it and a command: on one line where that fits, if need be without the last item; else the
    /// command is below, and behind the word stand as many items as fit.
    pub(super) fn items_with_command(&mut self, head: &str, items: &[Segment], command: &str) {
        let without_last = &items[..items.len().max(2) - 1];
        for items in [items, without_last] {
            if Self::columns(items, "  ") + 2 + command.width() <= self.width {
                return self.items(head, &[items, &[plain(command)]].concat(), "  ");
            }
        }
        self.items_that_fit(&format!("{head:<HEAD$}"), items, "  ");
        self.command(command);
    }

    /// The same with all of the items.
    pub(super) fn all_items_with_command(
        &mut self,
        head: &str,
        items: &[Segment],
        between: &str,
        command: &str,
    ) {
        if Self::columns(items, between) + 2 + command.width() <= self.width {
            let gaps = items.iter().skip(1).flat_map(|item| [plain(between), item.clone()]);
            let first = items.iter().take(1).cloned();
            let line = std::iter::once(plain(format!("{head:<HEAD$}"))).chain(first).chain(gaps);
            return self.line(&line.chain([plain("  "), plain(command)]).collect::<Vec<_>>());
        }
        self.items(head, items, between);
        self.command(command);
    }

    /// Columns of a word and these items.
    fn columns(items: &[Segment], between: &str) -> usize {
        let all: usize = items.iter().map(|(_, text)| text.width() + between.width()).sum();
        HEAD + all.saturating_sub(between.width())
    }

    /// A command on lines of its own, as a shell takes them. A word that is longer than a line is cut.
    fn command(&mut self, command: &str) {
        let mut line = " ".repeat(HEAD);
        if command.width() + HEAD > self.width {
            line.truncate(2);
        }
        for word in command.split(' ') {
            if !line.trim().is_empty() && line.width() + word.width() + 3 > self.width {
                self.lines.push(Line::Data(cut(&format!("{line} \\"), self.width)));
                line = "    ".to_owned();
            }
            if !line.ends_with(' ') {
                line.push(' ');
            }
            line.push_str(word);
        }
        self.lines.push(Line::Data(cut(&line, self.width)));
    }

    /// A sentence as talk, broken between words.
    pub(super) fn talk(&mut self, style: Style, text: &str) {
        let mut line = String::new();
        for word in text.split(' ') {
            let fits = line.width() + 1 + word.width() <= self.width;
            if !line.is_empty() && !fits {
                self.lines.push(Line::Talk(shown(style, &cut(&line, self.width))));
                line = " ".repeat(HEAD);
            } else if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        self.lines.push(Line::Talk(shown(style, &cut(&line, self.width))));
    }
}

fn shown(style: Style, text: &str) -> String {
    if text.is_empty() || style == Style::new() { text.to_owned() } else { styled(style, text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(layout: Layout) -> Vec<String> {
        let text = |line| match line {
            Line::Data(text) | Line::Talk(text) => text,
        };
        layout.into_lines().into_iter().map(text).collect()
    }

    #[test]
    fn a_command_that_is_longer_than_a_line_goes_on_as_a_shell_reads_it() {
        let mut layout = Layout::new(40);
        layout.items_with_command("dead", &[plain("gone at web.a.gov")], "wm dead ls");
        layout.items_with_command(
            "dead",
            &[plain("gone"), plain("2")],
            "wm-analyzer dead ls kind:gone host:a.gov",
        );
        let expected = [
            "dead    gone at web.a.gov  wm dead ls",
            "dead    gone  2",
            "  wm-analyzer dead ls kind:gone \\",
            "    host:a.gov",
        ];
        assert_eq!(texts(layout), expected);
    }

    #[test]
    fn what_does_not_fit_goes_on_below_or_is_cut() {
        let mut layout = Layout::new(40);
        layout.items("memory", &["reports 12 MiB", "dead 3 MiB", "jobs 1 MiB"].map(plain), " · ");
        layout.items_that_fit("  ", &["one".to_owned(), "x".repeat(50)].map(plain), "  ");
        layout.talk(Style::new(), "results are at their cap and nothing is claimed");
        layout.line(&[plain("漢字".repeat(30))]);
        let expected = [
            "memory  reports 12 MiB · dead 3 MiB".to_owned(),
            "        jobs 1 MiB".to_owned(),
            "  one".to_owned(),
            "results are at their cap and nothing is".to_owned(),
            "        claimed".to_owned(),
            format!("{}…", "漢字".repeat(9) + "漢"),
        ];
        assert_eq!(texts(layout), expected);
    }
}
