//! Makes fewer changes of as many: an insertion or removal that can slide up to the next change is joined
//! with it.
//!
//! Invariant: the number of equal tokens stays, and so does what holds of the changes.
//!
//! # Why
//! Of several longest common subsequences a search finds any. With equal tokens in longer runs more of them
//! survive the clean-up, which counts runs that are shorter than the changes around them as changed.

use super::TokenChange;

/// Slides and joins changes, in linear time: a change slides at most over the run before it and the run
/// behind it.
pub(super) fn compact(old: &[u32], new: &[u32], changes: Vec<TokenChange>) -> Vec<TokenChange> {
    let mut done: Vec<TokenChange> = Vec::with_capacity(changes.len());
    let mut rest = changes.into_iter().peekable();
    while let Some(change) = rest.next() {
        let side = if change.new.is_empty() {
            old
        } else if change.old.is_empty() {
            new
        } else {
            done.push(change);
            continue;
        };
        let (start, end) = match change.new.is_empty() {
            true => (change.old.start as usize, change.old.end as usize),
            false => (change.new.start as usize, change.new.end as usize),
        };
        if let Some(before) = done.last_mut() {
            let gap = (change.old.start - before.old.end) as usize;
            if side[start - gap..start] == side[end - gap..end] {
                // The run before this change becomes the run behind it.
                (before.old.end, before.new.end) = (change.old.end - gap as u32, change.new.end - gap as u32);
                continue;
            }
        }
        if let Some(behind) = rest.peek_mut() {
            let gap = (behind.old.start - change.old.end) as usize;
            if side[start..start + gap] == side[end..end + gap] {
                (behind.old.start, behind.new.start) =
                    (change.old.start + gap as u32, change.new.start + gap as u32);
                continue;
            }
        }
        done.push(change);
    }
    done
}
