//! What must hold of any bytes that a hostile child writes to the worker.
//!
//! Apart from `lib.rs`, so that the targets of the analysis build without the sandbox and its runtime.

/// Whatever a hostile process writes, the worker reads it or refuses it, and reads back what it would have written.
pub(crate) fn frames(bytes: &[u8]) {
    wm_sandbox::hooks::read_frames(bytes);
    if let Ok(answer) = serde_json::from_slice::<wm_job::analysis_request::AnalysisReply>(bytes) {
        let written = serde_json::to_vec(&answer).expect("what was read can be written");
        serde_json::from_slice::<wm_job::analysis_request::AnalysisReply>(&written).expect("and read again");
    }
}
