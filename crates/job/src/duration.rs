//! Durations in configuration: written `10s`, `500ms`, `24h`, read into [`Duration`].

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer, de::Error};

/// Writes a duration as people do.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_duration(*duration))
}

/// Reads a duration as people write it; a bare number is refused, because it does not say of what.
///
/// # Errors
/// A sentence that says how to write one.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let value = String::deserialize(deserializer)?;
    humantime::parse_duration(&value).map_err(|e| {
        D::Error::custom(format!("{value:?} is not a duration ({e}): write 500ms, 30s, 5m or 24h"))
    })
}
