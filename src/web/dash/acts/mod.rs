//! `/acts/...`: what operators do here. Each is shown as a plan first, and done by the functions that the commands call.
//!
//! A form is answered twice: GET shows what it would touch, POST does it. What was shown is what is done: the plan is kept,
//! and where it gave way to others its selection is read again as of its moment.

pub(super) mod bulk;
pub(super) mod operation;
pub(super) mod plans;
pub(super) mod running;
pub(super) mod single;

use maud::{Markup, html};

use super::page;

/// Longest reason that is sent.
const REASON_MAX_CHARS: usize = 500;

/// Why it is done; the audit keeps it.
fn reason_field(value: &str) -> Markup {
    html! {
        label.wide { "Why, for the audit"
            input name="reason" value=(value) maxlength=(REASON_MAX_CHARS) autocomplete="off"; }
    }
}

/// What stands where something was refused; nothing has changed.
fn refused(what: &str) -> Markup {
    html! { p.banner.bad role="alert" { (page::text(what)) "; nothing changed" } }
}
