//! Makes a list of changes readable, in linear time.
//!
//! Four passes: changes separated by an equality no longer than themselves are joined; common ends are
//! trimmed; a pure insertion or removal slides to the nearest boundary of a line, sentence or word; an
//! overlap between the end of a removal and the start of an insertion is split off as unchanged.
//!
//! Invariant: the changes stay ordered and disjoint, and the text between them stays equal in both texts.
//!
//! # Why
//! These are the ideas of diff-match-patch's semantic clean-up, so that counts and lengths stay
//! comparable with the old service. Its own passes restart from the beginning after each merge,
//! and slide without a bound.

use super::change::{Change, slice, trim};

/// How far a change may slide, in bytes each way; the end of a line is rarely farther away.
const MAX_SLIDE_BYTES: usize = 512;
/// Longest overlap to search for, in bytes.
const MAX_OVERLAP_BYTES: usize = 64 * 1024;

/// Runs all four passes.
pub(super) fn semantic(old: &str, new: &str, changes: Vec<Change>) -> Vec<Change> {
    let changes = join_over_small_equalities(old, new, changes, u32::MAX);
    let mut cleaned = Vec::with_capacity(changes.len());
    let mut rest = changes.into_iter().map(|change| trim(old, new, change)).peekable();
    while let Some(change) = rest.next() {
        let slack = rest.peek().map_or(old.len() as u32, |next| next.old.start) - change.old.end;
        let change = slide(old, new, cleaned.last(), change, slack as usize);
        push_merged(&mut cleaned, change);
    }
    split_overlaps(old, new, cleaned)
}

/// Appends a change, merging it with the last one if they are adjacent.
fn push_merged(changes: &mut Vec<Change>, change: Change) {
    match changes.last_mut() {
        Some(last) if (last.old.end, last.new.end) == (change.old.start, change.new.start) => {
            last.old.end = change.old.end;
            last.new.end = change.new.end;
        }
        Some(_) | None => changes.push(change),
    }
}

/// A change with its length on both sides and the length of the equality before it, in characters.
struct SizedChange {
    change: Change,
    gap: u32,
    removed: u32,
    added: u32,
}

impl SizedChange {
    /// Length of the larger side, in characters.
    fn size(&self) -> u32 {
        self.removed.max(self.added)
    }

    /// Whether this change and the next can be joined: the equality between them is no longer than either,
    /// and the result is at most `longest` characters.
    fn can_join(&self, next: &Self, longest: u32) -> bool {
        let small = next.gap <= self.size().min(next.size());
        small && self.size().saturating_add(next.gap).saturating_add(next.size()) <= longest
    }
}

/// Joins changes around small equalities, up to `longest` characters.
///
/// Uses a stack: the newest change is joined with its predecessor as long as possible. Every change is pushed
/// and joined at most once, and no equality is counted twice.
pub(super) fn join_over_small_equalities(
    old: &str,
    new: &str,
    changes: Vec<Change>,
    longest: u32,
) -> Vec<Change> {
    let count = |text: &str, range| slice(text, range).chars().count() as u32;
    let mut stack: Vec<SizedChange> = Vec::with_capacity(changes.len());
    let mut end = changes.first().map_or(0, |first| first.old.start);
    for change in changes {
        let mut top = SizedChange {
            gap: count(old, end..change.old.start),
            removed: count(old, change.old.clone()),
            added: count(new, change.new.clone()),
            change,
        };
        end = top.change.old.end;
        while let Some(before) = stack.pop_if(|before| before.can_join(&top, longest)) {
            top = SizedChange {
                change: Change {
                    old: before.change.old.start..top.change.old.end,
                    new: before.change.new.start..top.change.new.end,
                },
                gap: before.gap,
                removed: before.removed + top.gap + top.removed,
                added: before.added + top.gap + top.added,
            };
        }
        stack.push(top);
    }
    stack.into_iter().map(|sized| sized.change).collect()
}

/// Slides a pure insertion or removal along the surrounding equalities to the position with the best score.
/// `slack` is the number of equal bytes after it.
fn slide(old: &str, new: &str, before: Option<&Change>, change: Change, slack: usize) -> Change {
    let (text, edit, floor) = match (change.old.is_empty(), change.new.is_empty()) {
        (false, true) => (old, change.old.clone(), before.map_or(0, |before| before.old.end)),
        (true, false) => (new, change.new.clone(), before.map_or(0, |before| before.new.end)),
        (false, false) | (true, true) => return change,
    };
    let (start, end) = (edit.start as usize, edit.end as usize);
    let floor = (floor as usize).max(start.saturating_sub(MAX_SLIDE_BYTES));
    let ceiling = end + slack.min(MAX_SLIDE_BYTES);

    let mut left = (start, end);
    while left.0 > floor {
        let (Some(a), Some(b)) = (text[..left.0].chars().next_back(), text[..left.1].chars().next_back())
        else {
            break;
        };
        if a != b || left.0 - a.len_utf8() < floor {
            break;
        }
        left = (left.0 - a.len_utf8(), left.1 - a.len_utf8());
    }
    let (mut at, mut best, mut best_score) = (left, left, 0);
    loop {
        let score = boundary_score(text, at.0) + boundary_score(text, at.1);
        // On a tie the later position wins, so that blanks trail a change rather than lead it.
        if score >= best_score {
            (best, best_score) = (at, score);
        }
        let (Some(a), Some(b)) = (text[at.0..].chars().next(), text[at.1..].chars().next()) else { break };
        if a != b || at.1 + a.len_utf8() > ceiling {
            break;
        }
        at = (at.0 + a.len_utf8(), at.1 + a.len_utf8());
    }
    let shift = |position: u32| (i64::from(position) + best.0 as i64 - start as i64) as u32;
    Change {
        old: shift(change.old.start)..shift(change.old.end),
        new: shift(change.new.start)..shift(change.new.end),
    }
}

/// Score of a position as a boundary of a change, from 0 (inside a word) to 6 (start or end of the text).
fn boundary_score(text: &str, at: usize) -> u8 {
    let (before, after) = (&text[..at], &text[at..]);
    let (Some(left), Some(right)) = (before.chars().next_back(), after.chars().next()) else { return 6 };
    let breaks = |c: char| matches!(c, '\n' | '\r');
    let blank_before = before.ends_with("\n\n") || before.ends_with("\n\r\n");
    let blank_after = ["\n\n", "\r\n\n", "\n\r\n", "\r\n\r\n"].iter().any(|blank| after.starts_with(blank));
    if blank_before || blank_after {
        5
    } else if breaks(left) || breaks(right) {
        4
    } else if !left.is_alphanumeric() && !left.is_whitespace() && right.is_whitespace() {
        3
    } else if left.is_whitespace() || right.is_whitespace() {
        2
    } else if !left.is_alphanumeric() || !right.is_alphanumeric() {
        1
    } else {
        0
    }
}

/// Splits overlaps: `abcxxx` replaced by `xxxdef` becomes a removal of `abc`, an unchanged `xxx` and an
/// insertion of `def`, if the overlap is at least half of the shorter side.
fn split_overlaps(old: &str, new: &str, changes: Vec<Change>) -> Vec<Change> {
    let mut split = Vec::with_capacity(changes.len());
    for change in changes {
        let removed = slice(old, change.old.clone()).as_bytes();
        let added = slice(new, change.new.clone()).as_bytes();
        let worth = |overlap: usize| overlap > 0 && 2 * overlap >= removed.len().min(added.len());
        let ahead = overlap(removed, added);
        let behind = overlap(added, removed);
        let (old_start, old_end) = (change.old.start, change.old.end);
        let (new_start, new_end) = (change.new.start, change.new.end);
        if worth(ahead) && ahead >= behind {
            let ahead = ahead as u32;
            push_merged(&mut split, Change { old: old_start..old_end - ahead, new: new_start..new_start });
            push_merged(&mut split, Change { old: old_end..old_end, new: new_start + ahead..new_end });
        } else if worth(behind) {
            let behind = behind as u32;
            push_merged(&mut split, Change { old: old_start..old_start, new: new_start..new_end - behind });
            push_merged(&mut split, Change { old: old_start + behind..old_end, new: new_end..new_end });
        } else {
            push_merged(&mut split, change);
        }
    }
    split.retain(|change| !change.old.is_empty() || !change.new.is_empty());
    split
}

/// Longest suffix of `a` that is a prefix of `b` (Knuth-Morris-Pratt), up to [`MAX_OVERLAP_BYTES`]. Both
/// consist of whole characters, so the overlap does too.
fn overlap(a: &[u8], b: &[u8]) -> usize {
    let longest = a.len().min(b.len()).min(MAX_OVERLAP_BYTES);
    if longest == 0 {
        return 0;
    }
    let (end, beginning) = (&a[a.len() - longest..], &b[..longest]);
    // Fast path: without the first byte of the prefix there is no overlap. This covers most calls.
    let Some(first) = memchr::memchr(beginning[0], end) else { return 0 };
    let end = &end[first..];
    let mut fallback = vec![0_u32; end.len()];
    let mut matched = 0;
    for at in 1..end.len() {
        while matched > 0 && beginning[at] != beginning[matched] {
            matched = fallback[matched - 1] as usize;
        }
        matched += usize::from(beginning[at] == beginning[matched]);
        fallback[at] = matched as u32;
    }
    let mut matched = 0;
    for &byte in end {
        while matched > 0 && (matched == end.len() || byte != beginning[matched]) {
            matched = fallback[matched - 1] as usize;
        }
        matched += usize::from(byte == beginning[matched]);
    }
    matched
}
