//! Talking to Redis: where it is, the pool, the scripts, the keys, what kind of server answers.

pub(crate) mod address;
pub(crate) mod keys;
pub(crate) mod pool;
pub(crate) mod scripts;
pub(crate) mod server;
