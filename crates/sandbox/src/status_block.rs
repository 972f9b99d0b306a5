//! Status shared by a job and its fork-server: one shared page that outlives a killed job.
//!
//! What is in it was written by a process that may be hostile: it is evidence for people, and decides nothing.
//!
//! Invariant: the reader bounds and cleans all it reads.
//!
//! # Why
//! A killed job cannot say what it was doing, and a message for each phase would cost a system call. A shared page of
//! atomics costs a store.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::kernel;

/// Words of a phase's name: 32 bytes.
pub(super) const PHASE_WORDS: usize = 4;

/// The page.
#[derive(Debug)]
#[repr(C)]
pub(super) struct StatusBlock {
    peak_heap: AtomicU64,
    self_test_bits: AtomicU64,
    phase: [AtomicU64; PHASE_WORDS],
}

#[expect(unsafe_code, reason = "a promise about memory")]
// SAFETY: atomics only.
unsafe impl kernel::AllZeroesAreValid for StatusBlock {}

/// This process's status block, once it has one.
static STATUS_BLOCK: OnceLock<&'static StatusBlock> = OnceLock::new();

/// Maps it, in the fork-server, before that forks.
///
/// # Errors
/// The kernel's, for want of a page.
pub(super) fn map() -> io::Result<&'static StatusBlock> {
    match STATUS_BLOCK.get() {
        Some(status_block) => Ok(status_block),
        None => {
            let status_block = kernel::map_shared()?;
            Ok(STATUS_BLOCK.get_or_init(|| status_block))
        }
    }
}

/// Says what the work is doing now: shown in what is measured of a job, even of a killed one.
///
/// Only the first 32 bytes count. Outside a sandboxed job this does nothing.
pub fn set_phase(name: &'static str) {
    if let Some(status_block) = STATUS_BLOCK.get() {
        for (word, slot) in pack_phase(name).into_iter().zip(&status_block.phase) {
            slot.store(word, Relaxed);
        }
    }
}

/// Notes the highest heap use so far, in bytes.
pub(super) fn record_peak_heap(bytes: u64) {
    if let Some(status_block) = STATUS_BLOCK.get() {
        status_block.peak_heap.store(bytes, Relaxed);
    }
}

impl StatusBlock {
    /// Resets it, before the next job.
    pub(super) fn reset(&self) {
        self.peak_heap.store(0, Relaxed);
        self.self_test_bits.store(0, Relaxed);
        self.phase.iter().for_each(|word| word.store(0, Relaxed));
    }

    /// The highest heap use, as the job said.
    pub(super) fn peak_heap(&self) -> u64 {
        self.peak_heap.load(Relaxed)
    }

    /// The phase, as the job said: raw words, see [`phase_name`].
    pub(super) fn phase(&self) -> [u64; PHASE_WORDS] {
        std::array::from_fn(|i| self.phase[i].load(Relaxed))
    }

    /// What the self-test's probe found out.
    pub(super) fn self_test_bits(&self) -> u64 {
        self.self_test_bits.load(Relaxed)
    }

    /// Notes what the self-test's probe found out.
    pub(super) fn record_self_test(&self, bits: u64) {
        self.self_test_bits.store(bits, Relaxed);
    }
}

fn pack_phase(name: &str) -> [u64; PHASE_WORDS] {
    let mut bytes = [0; PHASE_WORDS * 8];
    let len = name.len().min(bytes.len());
    bytes[..len].copy_from_slice(&name.as_bytes()[..len]);
    std::array::from_fn(|i| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[i * 8..i * 8 + 8]);
        u64::from_le_bytes(word)
    })
}

/// The name in a phase's words: a hostile job may have written anything, so whatever is not `a-z 0-9 _ -` ends it.
pub(super) fn phase_name(words: [u64; PHASE_WORDS]) -> Option<String> {
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-');
    let name: String = words.iter().flat_map(|w| w.to_le_bytes()).take_while(plain).map(char::from).collect();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_comes_back_as_it_was_said() {
        for (said, read) in [
            ("diff", Some("diff")),
            ("", None),
            ("a_name_of_more_than_thirty_two_bytes_is_cut", Some("a_name_of_more_than_thirty_two_b")),
            ("text\u{1b}[31m", Some("text")),
            ("\u{0}diff", None),
        ] {
            assert_eq!(phase_name(pack_phase(said)).as_deref(), read, "{said:?}");
        }
    }
}
