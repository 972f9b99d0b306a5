//! Visible text of any two pages: see `wm_analyzer_fuzz::text`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wm_analyzer_fuzz::text(bytes));
