//! The Redis client: address, connection pool, scripts, keys, server checks.

pub(crate) mod address;
pub(crate) mod keys;
pub(crate) mod plain;
pub(crate) mod pool;
mod prelude;
pub(crate) mod scripts;
pub(crate) mod server;
pub(crate) mod wait;
