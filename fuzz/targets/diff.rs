//! Diffs of any two texts: see `wm_analyzer_fuzz::diff`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wm_analyzer_fuzz::diff(bytes));
