//! Status block: one page shared by a job and its fork server, which survives the death of the job.
//!
//! The job that writes it may be hostile, so its content is evidence for people and
//! no decision depends on it.
//!
//! Invariant: the reader bounds and sanitises everything it reads.
//!
//! # Why
//! A killed job cannot report its last phase, and a message per phase would cost a system call. A store to a
//! shared page of atomics is nearly free.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::kernel;
use super::protocol::to_words;

/// Length of a phase name in 64-bit words: 32 bytes.
pub(super) const PHASE_WORDS: usize = 4;

/// Layout of the shared page; all zeroes at the start of a job.
#[derive(Debug)]
#[repr(C)]
pub(super) struct StatusBlock {
    peak_heap: AtomicU64,
    self_test_bits: AtomicU64,
    has_input: AtomicU64,
    phase: [AtomicU64; PHASE_WORDS],
}

#[expect(unsafe_code, reason = "a promise about memory")]
// SAFETY: consists of atomics only, for which zero is a valid value.
unsafe impl kernel::AllZeroesAreValid for StatusBlock {}

/// Status block of this process; unset outside fork servers and jobs.
static STATUS_BLOCK: OnceLock<&'static StatusBlock> = OnceLock::new();

/// Maps the status block in the fork server, before it forks.
///
/// # Errors
/// The error of `mmap`.
pub(super) fn map() -> io::Result<&'static StatusBlock> {
    match STATUS_BLOCK.get() {
        Some(status_block) => Ok(status_block),
        None => {
            let status_block = kernel::map_shared()?;
            Ok(STATUS_BLOCK.get_or_init(|| status_block))
        }
    }
}

/// Records the current phase of the work; it appears in the measurements of a job, even of a killed one.
///
/// Only the first 32 bytes count. Outside a sandboxed job this does nothing.
pub fn set_phase(name: &'static str) {
    if let Some(status_block) = STATUS_BLOCK.get() {
        for (word, slot) in pack_phase(name).into_iter().zip(&status_block.phase) {
            slot.store(word, Relaxed);
        }
    }
}

/// Records that the job has its whole request and depends on nobody from here on.
pub(super) fn record_input() {
    if let Some(status_block) = STATUS_BLOCK.get() {
        status_block.has_input.store(1, Relaxed);
    }
}

/// Records the highest heap use so far, in bytes.
pub(super) fn record_peak_heap(bytes: u64) {
    if let Some(status_block) = STATUS_BLOCK.get() {
        status_block.peak_heap.store(bytes, Relaxed);
    }
}

impl StatusBlock {
    /// Clears the block before the next job.
    pub(super) fn reset(&self) {
        self.peak_heap.store(0, Relaxed);
        self.self_test_bits.store(0, Relaxed);
        self.has_input.store(0, Relaxed);
        self.phase.iter().for_each(|word| word.store(0, Relaxed));
    }

    /// Highest heap use in bytes, as written by the job.
    pub(super) fn peak_heap(&self) -> u64 {
        self.peak_heap.load(Relaxed)
    }

    /// Whether the job has its whole request. Until then it runs nothing but our own code.
    pub(super) fn has_input(&self) -> bool {
        self.has_input.load(Relaxed) != 0
    }

    /// Raw words of the phase, as written by the job; see [`phase_name`].
    pub(super) fn phase(&self) -> [u64; PHASE_WORDS] {
        std::array::from_fn(|i| self.phase[i].load(Relaxed))
    }

    /// [`IsolationLayers`](super::isolation_layers::IsolationLayers) bits recorded by the self-test's probe.
    pub(super) fn self_test_bits(&self) -> u64 {
        self.self_test_bits.load(Relaxed)
    }

    /// Records the result of the self-test's probe.
    pub(super) fn record_self_test(&self, bits: u64) {
        self.self_test_bits.store(bits, Relaxed);
    }
}

fn pack_phase(name: &str) -> [u64; PHASE_WORDS] {
    let mut bytes = [0; PHASE_WORDS * 8];
    let len = name.len().min(bytes.len());
    bytes[..len].copy_from_slice(&name.as_bytes()[..len]);
    to_words(bytes)
}

/// Decodes a phase name, which a hostile job may have forged: the name ends at the first byte that is not a
/// lower-case letter, a digit, `_` or `-`.
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
