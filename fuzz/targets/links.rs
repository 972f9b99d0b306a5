//! Links of any two pages: see `wm_analyzer_fuzz::links`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wm_analyzer_fuzz::links(bytes));
