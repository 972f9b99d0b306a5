//! Faults from outside, at random and in bulk: whole workers as processes, a real Redis, a site, and a fake db app.
//!
//! `cargo test --test chaos` runs both subjects in a short form; `cargo test --test chaos -- --ignored --nocapture` runs
//! them long. What was chosen at random follows from a seed that is printed; `WM_SEED=...` chooses it again.

#![expect(clippy::unwrap_used, reason = "in a test a surprise is a failure")]
#![expect(clippy::print_stdout, reason = "the seed and what was counted are for whoever runs it")]

#[path = "../it/harness/mod.rs"]
#[expect(dead_code, unused_imports, reason = "shared with the tests of it/, which use more of it")]
mod harness;

mod incident;
mod random_faults;
mod results;

/// Two small pages that differ: what a job costs is then the way it goes, not the comparing.
fn small_pair(n: u64) -> (Vec<u8>, Vec<u8>) {
    let page = |words: &str| {
        format!("<!DOCTYPE html><title>Notice {n}</title><p>{words} of notice {n}.</p><a href=/{n}>more</a>")
            .into_bytes()
    };
    (page("The first version"), page("A later version, with more to read,"))
}
