//! One job's way.
