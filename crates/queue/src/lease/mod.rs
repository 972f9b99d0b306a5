//! A delivery from claim to settle, and the upkeep of deliveries that no worker settles.

pub(crate) mod batch;
pub(crate) mod delivery;
pub(crate) mod host_failure;
pub(crate) mod orphans;
pub(crate) mod result;
pub(crate) mod settle;
pub(crate) mod settled;
pub(crate) mod slot;
pub(crate) mod start;
pub(crate) mod truncate;
pub(crate) mod upkeep;
