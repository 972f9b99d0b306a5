//! Intake of jobs: admission, the inbox, lists of other job systems.

pub(crate) mod admission;
pub(crate) mod adopt;
pub(crate) mod foreign_list;
pub(crate) mod identity;
pub(crate) mod inbox;
