//! Quotes the changed passages of a page, for human readers.
//!
//! A passage is a group of neighbouring changes with some surrounding text. Long quotations are truncated,
//! and the number of passages is limited.
//!
//! Invariant: a passage has at most [`MAX_QUOTED_BYTES`] bytes on each side and [`MAX_CONTEXT_BYTES`] before
//! and after, plus ellipses.

use super::change::{Change, slice};
use super::diff::EditScript;
use wm_job::report::Passage;
use wm_job::text::floor_char_boundary;

/// Longest quotation of one side, in bytes: about a paragraph.
const MAX_QUOTED_BYTES: usize = 500;
/// Longest context on either end, in bytes: about half a line.
const MAX_CONTEXT_BYTES: usize = 60;
/// Changes separated by at most this many bytes, a few words, form one passage.
const MAX_GAP_BYTES: u32 = 24;
/// Marks where a quotation was truncated.
const ELLIPSIS: &str = "…";

/// Returns the first `most` passages, and whether there are more.
pub(super) fn passages(script: &EditScript<'_>, most: usize) -> (Vec<Passage>, bool) {
    let mut joined: Vec<Change> = Vec::new();
    for change in &script.changes {
        if let Some(last) = joined.last_mut().filter(|last| change.old.start - last.old.end <= MAX_GAP_BYTES)
        {
            (last.old.end, last.new.end) = (change.old.end, change.new.end);
        } else if joined.len() == most {
            return (to_passages(script, &joined), true);
        } else {
            joined.push(change.clone());
        }
    }
    (to_passages(script, &joined), false)
}

fn to_passages(script: &EditScript<'_>, changes: &[Change]) -> Vec<Passage> {
    let (old, new) = (script.old, script.new);
    let quote = |change: &Change| Passage {
        before: tail(slice(new, 0..change.new.start)),
        removed: head(slice(old, change.old.clone()), MAX_QUOTED_BYTES),
        added: head(slice(new, change.new.clone()), MAX_QUOTED_BYTES),
        after: head(slice(new, change.new.end..new.len() as u32), MAX_CONTEXT_BYTES),
    };
    changes.iter().map(quote).collect()
}

/// Start of a text; an ellipsis marks a truncated end.
fn head(text: &str, most: usize) -> String {
    match floor_char_boundary(text, most) {
        end if end < text.len() => format!("{}{ELLIPSIS}", &text[..end]),
        _ => text.to_owned(),
    }
}

/// End of a text; an ellipsis marks a truncated start.
fn tail(text: &str) -> String {
    let least = text.len().saturating_sub(MAX_CONTEXT_BYTES);
    match (least..=text.len()).find(|at| text.is_char_boundary(*at)) {
        Some(from) if from > 0 => format!("{ELLIPSIS}{}", &text[from..]),
        Some(_) | None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diff::diff;
    use std::time::{Duration, Instant};

    fn passage_texts(old: &str, new: &str, most: usize) -> (Vec<[String; 4]>, bool) {
        let script = diff(old, new, Instant::now() + Duration::from_secs(60));
        let (passages, more) = passages(&script, most);
        let parts = |p: Passage| [p.before, p.removed, p.added, p.after];
        (passages.into_iter().map(parts).collect(), more)
    }

    #[test]
    fn changes_that_stand_together_are_one_passage_with_what_is_around_it() {
        let filler = "the same words as they were before, and nothing new among them at all. ".repeat(3);
        let old = format!("The cat sat on a mat. {filler}The end.");
        let new = format!("The dog sat on a rug. {filler}The beginning.");
        let (passages, more) = passage_texts(&old, &new, 9);
        let [first, last] = &passages[..] else { panic!("{passages:?}") };
        assert_eq!((first[1].as_str(), first[2].as_str()), ("cat sat on a mat", "dog sat on a rug"));
        assert_eq!(first[0], "The ");
        assert!(first[3].starts_with(". the same words") && first[3].ends_with(ELLIPSIS), "{first:?}");
        assert!(last[0].starts_with(ELLIPSIS) && last[0].ends_with("The "), "{last:?}");
        assert_eq!((last[1].as_str(), last[2].as_str(), last[3].as_str()), ("end", "beginning", "."));
        assert!(!more);
    }

    #[test]
    fn there_are_no_more_and_none_longer_than_asked_for() {
        let page =
            |word: &str| format!("{word} {}", "é filler between them that stays. ".repeat(4)).repeat(10);
        let (passages, more) = passage_texts(&page("old"), &page("new"), 3);
        assert_eq!((passages.len(), more), (3, true));
        assert!(!passage_texts(&page("old"), &page("new"), 10).1);
        assert_eq!(passage_texts("a", "b", 0), (Vec::new(), true));
        assert_eq!(passage_texts("a", "a", 0), (Vec::new(), false));
        let (passages, _) = passage_texts("x", &"é".repeat(5000), 3);
        let longest = passages.iter().flatten().map(String::len).max().unwrap();
        assert!(longest <= MAX_QUOTED_BYTES + ELLIPSIS.len(), "{longest}");
    }
}
