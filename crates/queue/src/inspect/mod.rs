//! Inspecting a queue, and operators' changes to it: status, events, dead letters, pauses.

pub(crate) mod ceilings;
pub(crate) mod control;
pub(crate) mod dead;
pub(crate) mod events;
pub(crate) mod status;
