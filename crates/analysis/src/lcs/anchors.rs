//! Tokens that stand once on each side, in the same order on both: where a comparison can be split in linear
//! work.
//!
//! Invariant: the anchors ascend on both sides.

/// Marks a token that stands more than once.
const TWICE: u32 = u32::MAX;

/// Buffers of the search, used again by the next one.
#[derive(Debug, Default)]
pub(super) struct AnchorSearch {
    /// Position of each token of either side plus one; 0 for none.
    old_at: Vec<u32>,
    new_at: Vec<u32>,
}

impl AnchorSearch {
    /// The longest chain of anchors, as positions of the old and the new side.
    pub(super) fn search(&mut self, old: &[u32], new: &[u32]) -> Vec<(u32, u32)> {
        note_positions(&mut self.old_at, old);
        note_positions(&mut self.new_at, new);
        let mut pairs = Vec::new();
        for (at, token) in old.iter().enumerate() {
            let once = self.old_at[*token as usize] != TWICE;
            let other = self.new_at.get(*token as usize).copied().unwrap_or(0);
            if once && other != 0 && other != TWICE {
                pairs.push((at as u32, other - 1));
            }
        }
        old.iter().for_each(|token| self.old_at[*token as usize] = 0);
        new.iter().for_each(|token| self.new_at[*token as usize] = 0);
        longest_ascending(&pairs)
    }
}

fn note_positions(at: &mut Vec<u32>, tokens: &[u32]) {
    let most = tokens.iter().copied().max().map_or(0, |most| most as usize + 1);
    if at.len() < most {
        at.resize(most, 0);
    }
    for (position, token) in tokens.iter().enumerate() {
        let entry = &mut at[*token as usize];
        *entry = if *entry == 0 { position as u32 + 1 } else { TWICE };
    }
}

/// The longest part of the pairs, which ascend on the old side, that ascends on the new side too.
fn longest_ascending(pairs: &[(u32, u32)]) -> Vec<(u32, u32)> {
    // Last pair of the best chain of each length, and the pair before each in its chain.
    let mut last: Vec<u32> = Vec::new();
    let mut before: Vec<u32> = Vec::with_capacity(pairs.len());
    for (at, (_, new)) in pairs.iter().enumerate() {
        let length = last.partition_point(|pair| pairs[*pair as usize].1 < *new);
        before.push(length.checked_sub(1).map_or(u32::MAX, |shorter| last[shorter]));
        match last.get_mut(length) {
            Some(pair) => *pair = at as u32,
            None => last.push(at as u32),
        }
    }
    let mut chain = Vec::with_capacity(last.len());
    let mut next = last.last().copied();
    while let Some(at) = next {
        chain.push(pairs[at as usize]);
        next = Some(before[at as usize]).filter(|at| *at != u32::MAX);
    }
    chain.reverse();
    chain
}
