//! Collects the changes of a diff as hunks, within a budget: the first ones whole, the others counted.
//!
//! Invariant: the JSON of the hunks is within the budget, and the changes in them and those left out add up to all.
//!
//! # Why
//! Changes closer than twice the context share a hunk, so no unchanged text is quoted twice. A hunk with too many
//! steps is continued by another one that begins where it ends. Once a hunk does not fit, later ones are left out too:
//! a reader can then say "the first 40 of 120".

use wm_job::hunk::{Hunk, MAX_HUNKS, MAX_STEPS, STEP_MAX_BYTES, Step, StepKind};
use wm_job::text::floor_char_boundary;

/// The hunks of one diff, step by step.
pub struct HunkBuilder<'t> {
    hunks: Vec<Hunk>,
    open: Option<Hunk>,
    /// Equal text since the last change.
    gap: &'t str,
    gap_chars: usize,
    /// Code points of both texts before `gap`.
    at: [u64; 2],
    /// Equal text kept on either side of a hunk, in code points.
    context_chars: usize,
    budget_bytes: usize,
    hunks_max: usize,
    left_out: u64,
}

impl<'t> HunkBuilder<'t> {
    /// Without hunks; their JSON may take `budget_bytes`, and there may be [`MAX_HUNKS`].
    pub fn new(context_chars: usize, budget_bytes: usize) -> Self {
        Self {
            hunks: Vec::new(),
            open: None,
            gap: "",
            gap_chars: 0,
            at: [0; 2],
            context_chars,
            budget_bytes,
            hunks_max: MAX_HUNKS,
            left_out: 0,
        }
    }

    /// The same with another limit on the number of hunks.
    #[must_use]
    pub fn at_most(self, hunks_max: usize) -> Self {
        Self { hunks_max, ..self }
    }

    /// Adds the next step, of `chars` code points.
    pub fn add(&mut self, kind: StepKind, text: &'t str, chars: usize) {
        let [old, new] = match kind {
            StepKind::Same => {
                (self.gap, self.gap_chars) = (text, chars);
                return;
            }
            StepKind::Removed => [chars as u64, 0],
            StepKind::Added => [0, chars as u64],
        };
        self.pass_gap();
        let hunk = self.open.get_or_insert_with(|| Hunk { at: self.at, steps: Vec::new() });
        hunk.steps.push(step(kind, text, chars));
        self.at[0] += old;
        self.at[1] += new;
    }

    /// Puts the gap before a change into the open hunk, or the end of it into a new one.
    fn pass_gap(&mut self) {
        let (gap, chars) = (std::mem::take(&mut self.gap), std::mem::take(&mut self.gap_chars));
        let joins = chars <= 2 * self.context_chars;
        if let Some(mut hunk) = self.open.take() {
            // Room for the gap, both halves of a replacement, and what is behind it.
            let full = hunk.steps.len() + 4 > MAX_STEPS && !gap.is_empty();
            let quoted = if joins { gap } else { head(gap, self.context_chars) };
            hunk.steps.extend((!quoted.is_empty()).then(|| context(quoted)));
            if joins && !full {
                self.open = Some(hunk);
            } else {
                self.close(hunk);
            }
            self.advance(chars);
            if joins {
                return;
            }
        } else {
            self.advance(chars);
        }
        let before = tail(gap, self.context_chars);
        if !before.is_empty() {
            let back = before.chars().count() as u64;
            let at = [self.at[0] - back, self.at[1] - back];
            self.open = Some(Hunk { at, steps: vec![context(before)] });
        }
    }

    fn advance(&mut self, chars: usize) {
        self.at[0] += chars as u64;
        self.at[1] += chars as u64;
    }

    /// Keeps a hunk if it fits.
    fn close(&mut self, hunk: Hunk) {
        let bytes = serde_json::to_vec(&hunk).map_or(usize::MAX, |json| json.len() + 1);
        if self.left_out == 0 && self.hunks.len() < self.hunks_max && bytes <= self.budget_bytes {
            self.budget_bytes -= bytes;
            self.hunks.push(hunk);
        } else {
            self.left_out += hunk.changes();
        }
    }

    /// The hunks, and the number of changes that are in none of them.
    pub fn finish(mut self) -> (Vec<Hunk>, u64) {
        if let Some(mut hunk) = self.open.take() {
            let after = head(self.gap, self.context_chars);
            hunk.steps.extend((!after.is_empty()).then(|| context(after)));
            self.close(hunk);
        }
        (self.hunks, self.left_out)
    }
}

fn context(text: &str) -> Step {
    step(StepKind::Same, text, 0)
}

/// A step with its text cut to [`STEP_MAX_BYTES`].
fn step(kind: StepKind, text: &str, chars: usize) -> Step {
    let end = floor_char_boundary(text, STEP_MAX_BYTES);
    let cut = if end < text.len() { chars - text[..end].chars().count() } else { 0 };
    Step { kind, text: text[..end].into(), left_out: u32::try_from(cut).unwrap_or(u32::MAX) }
}

/// The first `most` code points.
fn head(text: &str, most: usize) -> &str {
    text.char_indices().nth(most).map_or(text, |(end, _)| &text[..end])
}

/// The last `most` code points.
fn tail(text: &str, most: usize) -> &str {
    match most.checked_sub(1).and_then(|last| text.char_indices().nth_back(last)) {
        Some((start, _)) => &text[start..],
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hunks_of(steps: &[(StepKind, &str)], budget: usize) -> (Vec<Hunk>, u64) {
        let mut builder = HunkBuilder::new(30, budget);
        steps.iter().for_each(|(kind, text)| builder.add(*kind, text, text.chars().count()));
        builder.finish()
    }

    fn shown(hunk: &Hunk) -> String {
        hunk.steps
            .iter()
            .map(|step| format!("{}{}|", ["-", "=", "+"][(step.kind.code() + 1) as usize], step.text))
            .collect()
    }

    use StepKind::{Added, Removed, Same};

    #[test]
    fn changes_that_stand_together_share_a_hunk_and_others_have_their_own() {
        let far = "é".repeat(61);
        let near = "ü".repeat(60);
        let steps = [
            (Same, far.as_str()),
            (Removed, "a"),
            (Added, "b"),
            (Same, &near),
            (Added, "c"),
            (Same, &far),
            (Removed, "d"),
        ];
        let (hunks, left_out) = hunks_of(&steps, 10_000);
        assert_eq!(left_out, 0);
        let [first, second] = &hunks[..] else { panic!("{hunks:?}") };
        let context = "é".repeat(30);
        assert_eq!(shown(first), format!("={context}|-a|+b|={near}|+c|={context}|"));
        assert_eq!(first.at, [31, 31]);
        assert_eq!(shown(second), format!("={context}|-d|"));
        // Before it: 61 + a + 60 + 61 - 30 code points of the older text, and b and c of the newer one.
        assert_eq!(second.at, [153, 154]);
    }

    #[test]
    fn a_long_text_is_cut_with_its_count_and_a_long_hunk_goes_on_in_the_next() {
        let long = "ö".repeat(STEP_MAX_BYTES);
        let (hunks, _) = hunks_of(&[(Added, &long)], 10_000);
        assert_eq!(hunks[0].steps[0].left_out, (STEP_MAX_BYTES / 2) as u32);
        let many: Vec<_> = (0..40).flat_map(|_| [(Same, " "), (Removed, "x"), (Added, "y")]).collect();
        let (hunks, left_out) = hunks_of(&many, 10_000);
        assert_eq!((hunks.iter().map(Hunk::changes).sum::<u64>(), left_out), (80, 0));
        assert!(hunks.iter().all(|hunk| hunk.steps.len() <= MAX_STEPS), "{hunks:?}");
    }

    #[test]
    fn what_does_not_fit_is_counted_and_nothing_behind_it_is_kept() {
        let far = "=".repeat(200);
        let long = "x".repeat(300);
        let steps =
            [(Added, "a"), (Same, far.as_str()), (Added, &long), (Same, &far), (Removed, "b"), (Added, "c")];
        let (hunks, left_out) = hunks_of(&steps, 100);
        assert_eq!((hunks.len(), left_out), (1, 3));
        assert_eq!(hunks_of(&steps, 0).1, 4);
    }

    proptest! {
        /// Every step of a hunk is found where it says, in the text that it names.
        #[test]
        fn hunks_stand_where_they_say_and_miss_no_change(
            parts in proptest::collection::vec(("[a-c]{0,90}", "[d-fé]{0,3}", "[g-i\u{1f389}]{0,3}"), 0..60),
            budget in 0_usize..3000,
        ) {
            let mut steps: Vec<(StepKind, &str)> = Vec::new();
            let (mut old, mut new) = (String::new(), String::new());
            for (same, removed, added) in &parts {
                if removed.is_empty() && added.is_empty() || (same.is_empty() && !steps.is_empty()) {
                    continue;
                }
                steps.extend([(Same, same.as_str()), (Removed, removed), (Added, added)].into_iter().filter(|s| !s.1.is_empty()));
                old += &format!("{same}{removed}");
                new += &format!("{same}{added}");
            }
            let changes = steps.iter().filter(|(kind, _)| *kind != Same).count() as u64;
            let (hunks, left_out) = hunks_of(&steps, budget);
            prop_assert_eq!(hunks.iter().map(Hunk::changes).sum::<u64>() + left_out, changes);
            prop_assert!(serde_json::to_string(&hunks).unwrap().len() <= budget + 2);
            let [old, new] = [old, new].map(|text| text.chars().collect::<Vec<_>>());
            for hunk in &hunks {
                prop_assert!(hunk.steps.len() <= MAX_STEPS);
                let [mut a, mut b] = hunk.at.map(|at| at as usize);
                for step in &hunk.steps {
                    let chars: Vec<char> = step.text.chars().collect();
                    if step.kind != Added {
                        prop_assert_eq!(&old[a..a + chars.len()], &chars[..]);
                        a += chars.len();
                    }
                    if step.kind != Removed {
                        prop_assert_eq!(&new[b..b + chars.len()], &chars[..]);
                        b += chars.len();
                    }
                }
            }
        }
    }
}
