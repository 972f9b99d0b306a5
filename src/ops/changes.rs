//! The changes of a report as lines for a person: whole words, one line per hunk, the invisible made visible.
//!
//! For display only: what is stored stays exact. Pure; a caller prints.
//!
//! # Why
//! A diff by characters reads `January [-1-]2{+0+}`. Here a change is widened until it begins and ends between words of
//! both texts, as Unicode divides them (UAX #29): a number with its separators is one word, and no character is torn
//! from its accent. Changes of white space alone are most of many diffs, and are one line with their count.

mod wrap;

use std::ops::Range;

use unicode_normalization::UnicodeNormalization as _;
use unicode_segmentation::UnicodeSegmentation as _;

use self::wrap::{Piece, wrapped};
use super::render::{BAD, BOLD, DIM, GOOD, WARN, sanitize, styled};
use crate::job::hunk::{Hunk, SOURCE_CONTEXT_CHARS, Step, StepKind, TEXT_CONTEXT_CHARS};
use crate::job::report::{LinkChange, LinkChanges, PageLink, Report, TextChanges};

/// How much is shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChangesView {
    /// Columns of the terminal; `None` never breaks a line.
    pub(crate) width: Option<usize>,
    /// Every hunk of every diff, and long texts whole.
    pub(crate) all: bool,
}

/// Hunks, links and metadata of one kind that are shown unless all are asked for.
const MAX_SHOWN: usize = 20;
/// Bytes of one text that are shown unless all are asked for.
const MAX_TEXT_BYTES: usize = 300;

/// All that changed, with headings.
pub(crate) fn lines(report: &Report, view: ChangesView) -> Vec<String> {
    let mut out = Vec::new();
    let (annotation, changes) = (&report.annotation, &report.changes);
    if let Some(numbers) = &annotation.text {
        let count = (numbers.text_diff_count, Some(numbers.text_diff_length), numbers.text_diff_ratio);
        out.push(heading("text", count));
        text_lines(changes.html_text_dmp.as_ref(), TEXT_CONTEXT_CHARS, view, &mut out);
    }
    for change in changes.metadata.iter().take(shown_most(view)) {
        let [from, to] = [&change.from, &change.to].map(|value| value.as_deref().unwrap_or_default());
        let name = styled(BOLD, format!("{:<7}", sanitize(&change.name, 64)));
        out.extend(wrapped(vec![name, " ".to_owned()], change_pieces(from, to, view), view.width));
    }
    let hidden = changes.metadata.len().saturating_sub(shown_most(view)) as u64;
    more(hidden, changes.metadata_left_out, "of the metadata", &mut out);
    if let Some(numbers) = &annotation.links {
        out.push(heading("links", (numbers.links_diff_count, None, numbers.links_diff_ratio)));
        link_lines(changes.links_json.as_ref(), view, &mut out);
    }
    if let Some(numbers) = &annotation.source {
        let count = (numbers.source_diff_count, Some(numbers.source_diff_length), numbers.source_diff_ratio);
        let text_changed = annotation.text.as_ref().is_some_and(|text| text.text_diff_count > 0);
        let hidden = numbers.source_diff_count > 0 && text_changed && !view.all;
        let hint = if hidden { styled(DIM, "  (--all shows them)") } else { String::new() };
        out.push(heading("source", count) + &hint);
        if !hidden {
            let context = if text_changed { SOURCE_CONTEXT_CHARS } else { TEXT_CONTEXT_CHARS };
            text_lines(changes.html_source_dmp.as_ref(), context, view, &mut out);
        }
    }
    for missing in &report.missing {
        let (word, detail) = (styled(WARN, "missing"), sanitize(&missing.detail, 300));
        out.push(format!("{word} {}: {detail}", missing.diff));
    }
    out
}

fn shown_most(view: ChangesView) -> usize {
    if view.all { usize::MAX } else { MAX_SHOWN }
}

fn heading(name: &str, (count, characters, ratio): (u64, Option<u64>, f64)) -> String {
    let characters = characters.map_or(String::new(), |n| format!("  {n} characters"));
    format!(
        "{}{characters}  ratio {ratio:.4}",
        styled(BOLD, format!("{name:<7} {}", counted(count, "change")))
    )
}

fn counted(count: u64, what: &str) -> String {
    if count == 1 { format!("{count} {what}") } else { format!("{count} {what}s") }
}

/// How many more changes there are: `hidden` in the report, `left_out` of it.
fn more(hidden: u64, left_out: u64, what: &str, out: &mut Vec<String>) {
    let parts: Vec<String> = [
        (hidden > 0).then(|| format!("{hidden} more (--all)")),
        (left_out > 0).then(|| format!("{left_out} more that a report has no room for (--whole)")),
    ]
    .into_iter()
    .flatten()
    .collect();
    if !parts.is_empty() {
        let what = if what.is_empty() { String::new() } else { format!(" {what}") };
        out.push(styled(DIM, format!("  … {}{what}", parts.join(", and "))));
    }
}

/// The hunks of a text, those of white space alone as one line; `context_chars` is what they keep on either side.
fn text_lines(changes: Option<&TextChanges>, context_chars: usize, view: ChangesView, out: &mut Vec<String>) {
    let Some(changes) = changes else { return };
    let (mut shown, mut hidden) = (0, 0);
    let (mut blank, mut first_blank) = (0, None);
    for hunk in &changes.hunks {
        let mut parts = parts(hunk, context_chars);
        if !view.all && parts.iter().all(Part::is_blank) {
            blank += hunk.changes();
            first_blank.get_or_insert(parts);
        } else if shown < shown_most(view) {
            shown += 1;
            if !view.all && quieten(&mut parts) {
                let is_blank = |step: &&Step| step.kind != StepKind::Same && step.text.trim().is_empty();
                blank += hunk.steps.iter().filter(is_blank).count() as u64;
            }
            out.extend(hunk_lines(hunk, &parts, view));
        } else {
            hidden += hunk.changes();
        }
    }
    if blank > 0 {
        let what = styled(DIM, format!("  {} of white space only (--all)", counted(blank, "change")));
        let first = first_blank.map(|parts| pieces(&parts, view));
        let begin = if first.is_some() { what + &styled(DIM, ", the first: ") } else { what };
        out.extend(wrapped(vec![begin], first.unwrap_or_default(), view.width));
    }
    more(hidden, changes.left_out, "", out);
}

/// Shows changes of white space as white space; true if there were any.
fn quieten(parts: &mut [Part]) -> bool {
    let mut any = false;
    for part in parts {
        if let Part::Change { removed, added, .. } = part
            && [&removed, &added].iter().all(|text| text.trim().is_empty())
        {
            any = true;
            *part = Part::Same(" ".to_owned());
        }
    }
    any
}

fn hunk_lines(hunk: &Hunk, parts: &[Part], view: ChangesView) -> Vec<String> {
    let begins = if hunk.at == [0, 0] { "  " } else { "  …" };
    wrapped(vec![styled(DIM, begins)], pieces(parts, view), view.width)
}

/// Drops the words that are cut at the outer ends of a hunk, where its context has others.
fn trim_context(hunk: &Hunk, context_chars: usize, parts: &mut [Part]) {
    if let Some(Part::Same(text)) = parts.first_mut().filter(|_| hunk.at != [0, 0])
        && let Some((at, space)) = text.char_indices().find(|(_, c)| c.is_whitespace())
        && at + space.len_utf8() < text.len()
    {
        text.drain(..at + space.len_utf8());
    }
    let full = hunk.steps.last().is_some_and(|step| step.text.chars().count() == context_chars);
    if let Some(Part::Same(text)) = parts.last_mut().filter(|_| full)
        && let Some((at, _)) = text.char_indices().rev().find(|(_, c)| c.is_whitespace())
        && at > 0
    {
        text.truncate(at);
        text.push('…');
    }
}

/// A stretch of a hunk, for display.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Both texts have it.
    Same(String),
    /// It is another in each of them.
    Change {
        /// What the older text has.
        removed: String,
        /// What the newer one has.
        added: String,
        /// Code points left out at the end of each.
        left_out: [u32; 2],
    },
}

impl Part {
    /// Whether nothing but white space changes here.
    pub(crate) fn is_blank(&self) -> bool {
        match self {
            Self::Same(_) => true,
            Self::Change { removed, added, left_out } => {
                let [old, new] = [removed, added].map(|text| text.split_whitespace().collect::<String>());
                old == new && *left_out == [0, 0]
            }
        }
    }
}

/// A stretch of equal text: its place in both texts.
struct Stretch {
    old: Range<usize>,
    new: Range<usize>,
}

/// The stretches of a hunk, its changes widened to whole words, without the words that are cut at its ends;
/// `context_chars` is what it keeps on either side.
pub(crate) fn parts(hunk: &Hunk, context_chars: usize) -> Vec<Part> {
    let mut parts = widened(hunk);
    trim_context(hunk, context_chars, &mut parts);
    parts
}

/// The hunk with every change widened to whole words.
fn widened(hunk: &Hunk) -> Vec<Part> {
    let (mut old, mut new) = (String::new(), String::new());
    let mut stretches: Vec<Stretch> = Vec::new();
    // Where text was left out, and how much; nothing can be widened across that.
    let mut cuts: Vec<([usize; 2], [u32; 2])> = Vec::new();
    for step in &hunk.steps {
        let [a, b] = [old.len(), new.len()];
        let of = match step.kind {
            StepKind::Same => [true, true],
            StepKind::Removed => [true, false],
            StepKind::Added => [false, true],
        };
        old.push_str(if of[0] { &step.text } else { "" });
        new.push_str(if of[1] { &step.text } else { "" });
        match step.kind {
            StepKind::Same => stretches.push(Stretch { old: a..old.len(), new: b..new.len() }),
            StepKind::Removed => cuts.push(([old.len(), new.len()], [step.left_out, 0])),
            StepKind::Added => cuts.push(([old.len(), new.len()], [0, step.left_out])),
        }
    }
    let [old_words, new_words] = [&old, &new].map(|text| word_bounds(text));
    let whole = [old.len(), new.len()];
    for stretch in &mut stretches {
        let cut = cuts
            .iter()
            .any(|(at, left)| *left != [0, 0] && (at[0] == stretch.old.start || at[1] == stretch.new.start));
        if [stretch.old.start, stretch.new.start] != [0, 0] && !cut {
            let forward = (0..=stretch.old.len()).find(|d| {
                is_bound(&old_words, stretch.old.start + d) && is_bound(&new_words, stretch.new.start + d)
            });
            let by = forward.unwrap_or(stretch.old.len());
            (stretch.old.start, stretch.new.start) = (stretch.old.start + by, stretch.new.start + by);
        }
        if [stretch.old.end, stretch.new.end] != whole {
            let back = (0..=stretch.old.len()).find(|d| {
                is_bound(&old_words, stretch.old.end - d) && is_bound(&new_words, stretch.new.end - d)
            });
            let by = back.unwrap_or(stretch.old.len());
            (stretch.old.end, stretch.new.end) = (stretch.old.end - by, stretch.new.end - by);
        }
    }
    stretches.retain(|stretch| !stretch.old.is_empty());
    let mut parts: Vec<Part> = Vec::new();
    let [mut a, mut b] = [0, 0];
    let push_change = |parts: &mut Vec<Part>, removed: Range<usize>, added: Range<usize>| {
        if removed.is_empty() && added.is_empty() {
            return;
        }
        let inside = |(at, left): &([usize; 2], [u32; 2])| {
            let here =
                removed.start <= at[0] && at[0] <= removed.end && added.start <= at[1] && at[1] <= added.end;
            here.then_some(*left)
        };
        let left_out =
            cuts.iter().filter_map(inside).fold([0, 0], |sum, left| [sum[0] + left[0], sum[1] + left[1]]);
        parts.push(Part::Change { removed: old[removed].to_owned(), added: new[added].to_owned(), left_out });
    };
    for stretch in &stretches {
        push_change(&mut parts, a..stretch.old.start, b..stretch.new.start);
        parts.push(Part::Same(old[stretch.old.clone()].to_owned()));
        [a, b] = [stretch.old.end, stretch.new.end];
    }
    push_change(&mut parts, a..old.len(), b..new.len());
    parts
}

/// Where words of a text begin, and its end: sorted.
fn word_bounds(text: &str) -> Vec<usize> {
    text.split_word_bound_indices().map(|(at, _)| at).chain([text.len()]).collect()
}

fn is_bound(bounds: &[usize], at: usize) -> bool {
    bounds.binary_search(&at).is_ok()
}

fn pieces(parts: &[Part], view: ChangesView) -> Vec<Piece> {
    let mut out = Vec::new();
    for part in parts {
        match part {
            Part::Same(text) => out.push((DIM, shown(text, view))),
            Part::Change { removed, added, left_out } => {
                let [old, new] = change_texts(removed, added, view);
                for (style, [open, close], text, left) in
                    [(BAD, ["[-", "-]"], old, left_out[0]), (GOOD, ["{+", "+}"], new, left_out[1])]
                {
                    if !text.is_empty() {
                        let cut =
                            if left > 0 { format!("… {left} more characters") } else { String::new() };
                        out.push((style, format!("{open}{text}{cut}{close}")));
                    }
                }
            }
        }
    }
    out
}

fn change_pieces(from: &str, to: &str, view: ChangesView) -> Vec<Piece> {
    let change = Part::Change { removed: from.to_owned(), added: to.to_owned(), left_out: [0, 0] };
    pieces(&[change], view)
}

/// Both sides of a change; where they look alike, what differs is escaped.
pub(crate) fn change_texts(removed: &str, added: &str, view: ChangesView) -> [String; 2] {
    let alike = !removed.is_empty() && looks(removed) == looks(added);
    [removed, added].map(|text| {
        let escaped: String = text
            .chars()
            .map(|c| match c {
                '\n' => "↵".to_owned(),
                ' ' | '\t' => c.to_string(),
                // Unusual spaces look like ordinary ones.
                c if c.is_whitespace() || (alike && !c.is_ascii()) => format!("\\u{{{:x}}}", u32::from(c)),
                c => c.to_string(),
            })
            .collect();
        sanitize(&escaped, if view.all { usize::MAX } else { MAX_TEXT_BYTES })
    })
}

/// A text as a reader sees it: composed, and without what has no shape of its own.
fn looks(text: &str) -> String {
    text.nfkc()
        .filter(|c| !c.is_whitespace() && !matches!(c, '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}'))
        .collect()
}

fn shown(text: &str, view: ChangesView) -> String {
    let text: String = text.chars().map(|c| if c == '\n' { '↵' } else { c }).collect();
    sanitize(&text, if view.all { usize::MAX } else { MAX_TEXT_BYTES })
}

fn link_lines(changes: Option<&LinkChanges>, view: ChangesView, out: &mut Vec<String>) {
    let Some(changes) = changes else { return };
    for LinkChange { from, to } in changes.changes.iter().take(shown_most(view)) {
        let whole = |link: &PageLink| format!("{} -> {}", shown(&link.text, view), shown(&link.href, view));
        let (sign, pieces) = match (from, to) {
            (Some(from), Some(to)) => {
                let both = |a: &str, b: &str| {
                    if a == b { vec![(DIM, shown(a, view))] } else { change_pieces(a, b, view) }
                };
                let mut pieces = both(&from.text, &to.text);
                pieces.push((DIM, " -> ".to_owned()));
                pieces.extend(both(&from.href, &to.href));
                (styled(WARN, "  ~ "), pieces)
            }
            (Some(link), None) => (styled(BAD, "  - "), vec![(BAD, whole(link))]),
            (None, Some(link)) => (styled(GOOD, "  + "), vec![(GOOD, whole(link))]),
            (None, None) => continue,
        };
        out.extend(wrapped(vec![sign], pieces, view.width));
    }
    let hidden = changes.changes.len().saturating_sub(shown_most(view)) as u64;
    more(hidden, changes.left_out, "", out);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use unicode_width::UnicodeWidthStr as _;
    use uuid::Uuid;

    use super::*;
    use crate::job::report::{MetadataChange, TextNumbers};

    const PLAIN: ChangesView = ChangesView { width: None, all: false };

    fn hunk(steps: &[(i8, &str)]) -> Hunk {
        let step = |(code, text): &(i8, &str)| Step {
            kind: StepKind::from_code(*code).unwrap(),
            text: (*text).into(),
            left_out: 0,
        };
        Hunk { at: [0, 0], steps: steps.iter().map(step).collect() }
    }

    fn report(hunks: Vec<Hunk>, left_out: u64) -> Report {
        let mut report = Report::of_pair(Uuid::nil(), Uuid::nil());
        let change_count = hunks.iter().map(Hunk::changes).sum::<u64>() + left_out;
        report.annotation.text = Some(TextNumbers {
            text_diff_hash: String::new(),
            text_diff_count: change_count,
            text_diff_length: 1,
            text_diff_ratio: 0.5,
        });
        report.changes.html_text_dmp =
            Some(TextChanges { change_count, hunks, left_out, approximate: false });
        report
    }

    fn printed(report: &Report, view: ChangesView) -> Vec<String> {
        lines(report, view).iter().map(|line| anstream::adapter::strip_str(line).to_string()).collect()
    }

    fn shown(steps: &[(i8, &str)]) -> String {
        printed(&report(vec![hunk(steps)], 0), PLAIN).remove(1).trim().to_owned()
    }

    #[test]
    fn a_change_is_widened_to_whole_words_numbers_and_graphemes() {
        let cases: &[(&[(i8, &str)], &str)] = &[
            (&[(0, "January "), (-1, "1"), (0, "2"), (1, "0")], "January [-12-]{+20+}"),
            (&[(0, "$1,2"), (-1, "34.56"), (1, "99.10"), (0, " now")], "$[-1,234.56-]{+1,299.10+} now"),
            (&[(0, "caf"), (-1, "e"), (1, "e\u{301}"), (0, " x")], "[-cafe-]{+cafe\u{301}+} x"),
            (&[(0, "a "), (1, "\u{1f469}"), (0, "\u{1f680} b")], "a {+\u{1f469}+}\u{1f680} b"),
            (&[(0, "don"), (1, "'t"), (0, " go")], "[-don-]{+don't+} go"),
            (&[(-1, "one"), (1, "two"), (0, " three")], "[-one-]{+two+} three"),
            (&[(0, "un"), (-1, "known"), (0, "ing"), (1, "ly"), (0, " so")], "[-unknowning-]{+uningly+} so"),
        ];
        for (steps, expected) in cases {
            assert_eq!(&shown(steps), expected);
        }
    }

    #[test]
    fn what_looks_alike_is_told_apart() {
        assert_eq!(shown(&[(-1, "é"), (1, "e\u{301}")]), "[-\\u{e9}-]{+e\\u{301}+}");
        assert_eq!(
            shown(&[(0, "press "), (-1, "✔"), (1, "✔\u{fe0f}")]),
            "press [-\\u{2714}-]{+\\u{2714}\\u{fe0f}+}"
        );
        let blank = shown(&[(0, "a"), (-1, "\u{a0}"), (1, " "), (0, "b")]);
        assert_eq!(blank, "2 changes of white space only (--all), the first: a[-\\u{a0}-]{+ +}b");
        assert_eq!(shown(&[(0, "a "), (-1, "ü"), (1, "x")]), "a [-ü-]{+x+}", "no need to escape");
    }

    #[test]
    fn what_is_not_shown_is_counted_with_the_flag_that_shows_it() {
        let hunks: Vec<Hunk> = (0..25).map(|_| hunk(&[(-1, "a"), (1, "b")])).collect();
        let mut many = report(hunks, 7);
        many.changes.metadata =
            vec![MetadataChange { name: "title".to_owned(), from: Some("Old".to_owned()), to: None }; 23];
        many.changes.metadata_left_out = 2;
        let lines = printed(&many, PLAIN);
        let has = |line: &str| assert!(lines.iter().any(|have| have.contains(line)), "{line}: {lines:#?}");
        has("… 10 more (--all), and 7 more that a report has no room for (--whole)");
        has("title   [-Old-]");
        has("… 3 more (--all), and 2 more that a report has no room for (--whole) of the metadata");
        let all = printed(&many, ChangesView { all: true, ..PLAIN });
        assert_eq!(all.iter().filter(|line| line.contains("[-a-]{+b+}")).count(), 25);
        assert_eq!(all.iter().filter(|line| line.contains("title")).count(), 23);
    }

    proptest! {
        #[test]
        fn no_line_is_wider_than_the_terminal_and_nothing_gets_lost(
            steps in proptest::collection::vec((-1_i8..=1, "[a-z漢 é]{1,40}"), 1..16),
            width in 20_usize..100,
        ) {
            let steps: Vec<(i8, &str)> = steps.iter().map(|(code, text)| (*code, text.as_str())).collect();
            let report = report(vec![hunk(&steps)], 0);
            let [narrow, wide] = [Some(width), None].map(|width| printed(&report, ChangesView { width, all: true }));
            for line in &narrow[1..] {
                prop_assert!(line.width() <= width, "{line:?}");
            }
            let letters = |lines: &[String]| lines[1..].concat().replace(' ', "");
            prop_assert_eq!(letters(&narrow), letters(&wide));
        }
    }
}
