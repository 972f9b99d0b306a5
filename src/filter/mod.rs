//! What is not worth analysing, decided early.

pub mod address;
pub mod sniff;
