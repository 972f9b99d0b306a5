//! Fetching bodies from hostile places.
