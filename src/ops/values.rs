//! Values as people type them: limits, times and rates.

use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use crate::job::LimitsRequest;
use crate::job::duration::millis;
use crate::queue::Setting;

/// Reads `wall=2s,heap=64MiB`.
pub(crate) fn limits(text: &str) -> Result<LimitsRequest, String> {
    let mut limits = LimitsRequest::default();
    for word in text.split(',').filter(|word| !word.is_empty()) {
        let (name, value) =
            word.split_once('=').ok_or_else(|| format!("{word:?}: write wall=2s or heap=64MiB"))?;
        match name.trim() {
            "wall" => limits.wall_ms = Some(wall_ms(value).map_err(|e| format!("{word:?}: {e}"))?),
            "heap" => limits.heap_bytes = Some(heap_bytes(value).map_err(|e| format!("{word:?}: {e}"))?),
            other => return Err(format!("no limit {other:?}: there are wall and heap")),
        }
    }
    Ok(limits)
}

/// Reads `<uuid>..<uuid>`.
pub(crate) fn pair(text: &str) -> Result<(Uuid, Uuid), String> {
    let (from, to) = text.split_once("..").ok_or("write the uuids of both versions, as FROM..TO")?;
    let uuid = |text: &str| text.trim().parse::<Uuid>().map_err(|e| format!("{text:?} is no uuid: {e}"));
    Ok((uuid(from)?, uuid(to)?))
}

/// Reads a SHA-256 in hex.
pub(crate) fn sha256(text: &str) -> Result<String, String> {
    let is_hash = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hash { Ok(text.to_owned()) } else { Err("a SHA-256 has 64 hex digits".to_owned()) }
}

/// Reads `2s`.
pub(crate) fn wall_ms(text: &str) -> Result<u64, String> {
    let wall = humantime::parse_duration(text).map_err(|e| e.to_string())?;
    match millis(wall) {
        0 => Err("nothing is done in no time".to_owned()),
        ms => Ok(ms),
    }
}

/// The longest that a host rests by hand, and that a pause lasts that ends by itself: what is to last longer is for the
/// producer to stop, or for a person to lift.
const PAUSE_MAX: Duration = Duration::from_secs(30 * 86_400);

/// Reads `15m`, the rest of a host or the time of a pause.
pub(crate) fn pause_time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text).map_err(|e| e.to_string())? {
        Duration::ZERO => Err("there is no pause of no time".to_owned()),
        time if time > PAUSE_MAX => Err("at most 30 days".to_owned()),
        time => Ok(time),
    }
}

/// Reads `64MiB`.
pub(crate) fn heap_bytes(text: &str) -> Result<u64, String> {
    match text.parse::<bytesize::ByteSize>()?.as_u64() {
        0 => Err("nothing is done with no memory".to_owned()),
        bytes => Ok(bytes),
    }
}

/// Reads a day, which begins at midnight UTC, or a timestamp.
pub(crate) fn timestamp(text: &str) -> Result<OffsetDateTime, String> {
    let day = format!("{text}T00:00:00Z");
    let read = |text: &str| OffsetDateTime::parse(text, &Rfc3339).ok();
    read(text).or_else(|| read(&day)).ok_or_else(|| "write 2018-10-01, or 2018-10-01T12:00:00Z".to_owned())
}

/// Reads `20`, `20/s` or `0.5/s`.
pub(crate) fn per_second(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix("/s").unwrap_or(text);
    match number.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err("write a rate such as 20/s".to_owned()),
    }
}

/// `NAME=VALUE` of a setting of the queue; the value as it is stored.
pub(crate) fn setting(text: &str) -> Result<(Setting, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not NAME=VALUE"))?;
    let setting = Setting::ALL.iter().copied().find(|setting| setting.as_str() == name).ok_or_else(|| {
        let names: Vec<_> = Setting::ALL.iter().map(|setting| setting.as_str()).collect();
        format!("{name:?} is not a setting of the queue: {}", names.join(", "))
    })?;
    Ok((setting, setting.parse(value)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_people_write_them() {
        let both = LimitsRequest { wall_ms: Some(2000), heap_bytes: Some(64 << 20) };
        assert_eq!(limits("wall=2s,heap=64MiB"), Ok(both));
        assert_eq!(
            limits("wall=1500ms,heap=123"),
            Ok(LimitsRequest { wall_ms: Some(1500), heap_bytes: Some(123) })
        );
        for bad in ["wall", "wall=fast", "cpu=1s", "wall=0s", "heap=0"] {
            assert!(limits(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_moment_is_a_day_or_a_time_of_it() {
        assert_eq!(timestamp("2018-10-01"), Ok(time::macros::datetime!(2018-10-01 0:00 UTC)));
        assert_eq!(timestamp("2018-10-01T02:00:00+02:00"), Ok(time::macros::datetime!(2018-10-01 0:00 UTC)));
        for bad in ["", "yesterday", "2018-13-01", "1538352000"] {
            assert!(timestamp(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_rate_is_a_positive_number_a_second() {
        assert_eq!(per_second("20/s"), Ok(20.0));
        for bad in ["0", "-1/s", "fast", "inf"] {
            assert!(per_second(bad).is_err(), "{bad}");
        }
    }
}
