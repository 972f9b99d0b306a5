//! The dashboard in a real browser: Debian's Chromium, driven through its chromedriver.
//!
//! Rules for writing a test here, beside those of `tests/it/main.rs`:
//! - It begins with `let Some(browser) = Browser::start().await else { return };`: without a Chromium it is skipped, and
//!   says so. Every test has a browser of its own, because focus, emulation and logs belong to a whole browser.
//! - It acts as a person does: by a role and a visible name, by keys. A CSS selector is for reading.
//! - It ends with `browser.evidence().await.assert_clean(&url)`, unless what is not clean is its subject.
//! - Nothing of the harness is trusted unproven: `self_test.rs` shows each part of it something bad once.

#![expect(clippy::unwrap_used, reason = "in a test a surprise is a failure")]

#[path = "../it/harness/mod.rs"]
#[expect(dead_code, unused_imports, reason = "shared with the tests of it/, which use more of it")]
mod harness;

mod axe;
mod browser;
mod client;
mod evidence;
mod gate;
mod hostile;
mod incident;
mod load;
mod looks;
mod page;
mod payloads;
mod self_test;

mod troubles;
mod world;
