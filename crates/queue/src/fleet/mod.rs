//! What workers tell each other: heartbeats, and which of them reports an outage.

pub(crate) mod outage;
pub(crate) mod presence;
