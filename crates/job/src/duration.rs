//! Durations as written in configuration (`10s`, `500ms`, `24h`), in Redis keys (milliseconds) and in HTTP
//! (`Retry-After`).

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serializer, de::Error};

/// Serializes a duration in human-readable form, e.g. `1m 30s`.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_duration(*duration))
}

/// Deserializes a human-readable duration; a bare number is refused because it has no unit.
///
/// # Errors
/// A sentence with examples of valid durations.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let value = String::deserialize(deserializer)?;
    humantime::parse_duration(&value).map_err(|e| {
        D::Error::custom(format!("{value:?} is not a duration ({e}): write 500ms, 30s, 5m or 24h"))
    })
}

/// Whole milliseconds, capped at `u64::MAX`.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Parses a `Retry-After` header, in seconds or as an HTTP date; `None` for anything else.
///
/// A date in the past is a zero delay. The result is not bounded here: the caller must do that.
pub fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    match value.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => Some(httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or(Duration::ZERO)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_after_is_read_as_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Wed, 21 Oct 2015 07:28:00 GMT").unwrap();
        for (value, seconds) in [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("18446744073709551615", Some(u64::MAX)),
            ("Wed, 21 Oct 2015 07:28:30 GMT", Some(30)),
            ("Wed, 21 Oct 2015 07:27:30 GMT", Some(0)),
            ("-1", None),
            ("18446744073709551616", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(retry_after(value, now), seconds.map(Duration::from_secs), "{value:?}");
        }
    }
}
