//! A delivery from claim to settle, and what upkeep does for those that no worker settles.

pub(crate) mod delivery;
pub(crate) mod entry;
pub(crate) mod finish;
pub(crate) mod fit;
pub(crate) mod settle;
pub(crate) mod settled;
pub(crate) mod upkeep;
