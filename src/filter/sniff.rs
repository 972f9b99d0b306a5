//! Skips by what the bytes show.
