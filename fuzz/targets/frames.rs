//! What a hostile process may write to the worker: see `wm_analyzer_fuzz::frames`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wm_analyzer_fuzz::frames(bytes));
