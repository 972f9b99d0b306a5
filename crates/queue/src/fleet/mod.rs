//! State that workers share: heartbeats, and what is to be reported of them all by one.

pub(crate) mod alerts;
pub(crate) mod outage_reports;
pub(crate) mod presence;
pub(crate) mod progress;
