//! What any bytes are taken for: see `wm_analyzer_fuzz::sniff`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wm_analyzer_fuzz::sniff(bytes));
