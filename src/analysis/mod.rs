//! Two pages in, a report out.
mod cleanup;
mod decode;
mod diff;
mod tokens;
