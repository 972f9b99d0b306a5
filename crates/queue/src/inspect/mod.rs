//! Inspecting a queue, and operators' changes to it: status, memory, results, events, dead letters, pauses.

pub(crate) mod acts;
pub(crate) mod audit;
pub(crate) mod ceilings;
pub(crate) mod control;
pub(crate) mod events;
pub(crate) mod groups;
pub(crate) mod host_loads;
pub(crate) mod hosts;
pub(crate) mod index_pages;
pub(crate) mod jobs;
pub(crate) mod memory;
pub(crate) mod operations;
pub(crate) mod parts;
pub(crate) mod rates;
pub(crate) mod results;
pub(crate) mod selection;
pub(crate) mod status;
pub(crate) mod transfer;
pub(crate) mod workers;
