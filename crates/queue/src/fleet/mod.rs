//! State that workers share: heartbeats, and the alert leader of an outage.

pub(crate) mod outage_reports;
pub(crate) mod presence;
