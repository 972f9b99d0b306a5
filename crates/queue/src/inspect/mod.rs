//! Inspecting a queue, and operators' changes to it: status, memory, results, events, dead letters, pauses.

pub(crate) mod ceilings;
pub(crate) mod control;
pub(crate) mod dead;
pub(crate) mod events;
pub(crate) mod hosts;
pub(crate) mod memory;
pub(crate) mod parts;
pub(crate) mod results;
pub(crate) mod status;
pub(crate) mod workers;
