//! What is not worth analysing, decided early: first by what is known before a byte is fetched, then by the bytes.

pub mod address;
pub mod sniff;
