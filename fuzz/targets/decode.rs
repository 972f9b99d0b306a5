//! Encoded bodies of any kind: see `wm_analyzer_fuzz::decode`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wm_analyzer_fuzz::decode(bytes));
