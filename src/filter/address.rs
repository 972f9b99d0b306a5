//! Skips by what is known before a byte is fetched.
