//! The db app's HTTP API.
