//! The settings of a queue: stored in its `meta` hash, where every script reads them, and changed there.
//!
//! A worker stores those that are absent, from its own configuration; from then on the stored ones hold for all
//! workers, and [`OperatorHandle::set`] changes them.
//!
//! Invariant: what is enforced is what is stored. Until a worker has stored a setting, each caller's own
//! configuration applies.

use std::time::Duration;

use bytesize::ByteSize;
use serde::Serialize;
use strum::VariantArray as _;

use crate::Queue;
use crate::config::{Config, ReportsWhenFull};
use crate::error::Error;
use crate::redis::scripts;
use crate::role::{OperatorHandle, WorkerHandle};
use wm_job::duration::millis;

/// Approximate number of operators' actions kept.
pub(crate) const AUDIT_MAX: u64 = 10_000;

/// Milliseconds of a day.
const DAY_MS: u64 = 86_400_000;

/// Results go nowhere but to Redis.
pub const REDIS_SINK: &str = "redis";

/// A setting of the queue, by the name of its configuration key (`queue.<name>`).
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    strum::IntoStaticStr,
    strum::EnumString,
    strum::VariantArray,
)]
#[strum(serialize_all = "snake_case")]
pub enum Setting {
    /// Most waiting jobs before nothing more is admitted.
    BacklogMax,
    /// Most jobs in flight over all workers; 0 is unlimited.
    InFlightMax,
    /// Most of them at one host; 0 is unlimited.
    HostInFlightMax,
    /// Most of them at one host without a success in the last five minutes; 0 is unlimited.
    NewHostInFlightMax,
    /// Failures in a row after which a host rests; 0 is never.
    HostFailuresMax,
    /// Its first rest.
    HostRest,
    /// Its longest rest.
    HostRestMax,
    /// Crashes that bury a job.
    CrashesMax,
    /// Releases after which a job runs exclusively.
    ReleasesExclusive,
    /// Most dead letters.
    DeadMaxCount,
    /// Greatest age of a dead letter.
    DeadMaxAge,
    /// Most bytes of dead letters.
    DeadMaxBytes,
    /// How long a result is kept.
    ReportTtl,
    /// Most bytes of results.
    ReportsMaxBytes,
    /// What happens when the results are at their cap: `evict` or `wait`.
    ReportsWhenFull,
    /// How long an analysed pair is remembered.
    DoneTtl,
    /// Most analysed pairs that are remembered.
    DoneMaxCount,
    /// Most suspect contents that are remembered.
    SuspectsMaxCount,
    /// Most events in the stream, roughly.
    EventsMax,
}

/// How a setting is written: by people, and in Redis.
enum Form {
    Count,
    Milliseconds,
    Bytes,
    WhenFull,
}

impl Setting {
    /// All settings, in the order in which they are shown.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// Its name.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    fn form(self) -> Form {
        match self {
            Self::BacklogMax
            | Self::InFlightMax
            | Self::HostInFlightMax
            | Self::NewHostInFlightMax
            | Self::HostFailuresMax
            | Self::CrashesMax
            | Self::ReleasesExclusive
            | Self::DeadMaxCount
            | Self::DoneMaxCount
            | Self::SuspectsMaxCount
            | Self::EventsMax => Form::Count,
            Self::HostRest | Self::HostRestMax | Self::DeadMaxAge | Self::ReportTtl | Self::DoneTtl => {
                Form::Milliseconds
            }
            Self::DeadMaxBytes | Self::ReportsMaxBytes => Form::Bytes,
            Self::ReportsWhenFull => Form::WhenFull,
        }
    }

    /// The value of `config`, as stored.
    pub(crate) fn configured(self, config: &Config, sink: &str) -> String {
        match self {
            Self::BacklogMax => config.backlog_max.to_string(),
            Self::InFlightMax => config.in_flight_max.to_string(),
            Self::HostInFlightMax => config.host_in_flight_max.to_string(),
            Self::NewHostInFlightMax => config.new_host_in_flight_max.to_string(),
            Self::HostFailuresMax => config.host_failures_max.to_string(),
            Self::HostRest => millis(config.host_rest).to_string(),
            Self::HostRestMax => millis(config.host_rest_max).to_string(),
            Self::CrashesMax => config.crashes_max.to_string(),
            Self::ReleasesExclusive => config.releases_exclusive.to_string(),
            Self::DeadMaxCount => config.dead_max_count.to_string(),
            Self::DeadMaxAge => millis(config.dead_max_age).to_string(),
            Self::DeadMaxBytes => config.dead_max_bytes.as_u64().to_string(),
            Self::ReportTtl => millis(config.report_ttl).to_string(),
            Self::ReportsMaxBytes => config.reports_max_bytes.as_u64().to_string(),
            Self::ReportsWhenFull => match (config.reports_when_full, sink) {
                (ReportsWhenFull::Wait, _) | (ReportsWhenFull::Auto, REDIS_SINK) => "wait".to_owned(),
                (ReportsWhenFull::Evict | ReportsWhenFull::Auto, _) => "evict".to_owned(),
            },
            Self::DoneTtl => millis(config.done_ttl).to_string(),
            Self::DoneMaxCount => config.done_max_count.to_string(),
            Self::SuspectsMaxCount => config.suspects_max_count.to_string(),
            Self::EventsMax => config.events_max.to_string(),
        }
    }

    /// Reads what a person writes (`500000`, `7d`, `256 MiB`, `evict`); returns it as stored.
    ///
    /// # Errors
    /// A sentence that names the setting, the value and what may be written.
    pub fn parse(self, text: &str) -> Result<String, String> {
        let text = text.trim();
        let read = match self.form() {
            Form::Count => text.replace('_', "").parse::<u64>().ok().map(|n| n.to_string()),
            Form::Milliseconds => humantime::parse_duration(text).ok().map(|time| millis(time).to_string()),
            Form::Bytes => text.parse::<ByteSize>().ok().map(|size| size.as_u64().to_string()),
            Form::WhenFull => ["evict", "wait"].contains(&text).then(|| text.to_owned()),
        };
        let least_one = matches!(self, Self::CrashesMax | Self::BacklogMax | Self::EventsMax);
        let read = read.filter(|value| !(least_one && value == "0"));
        read.ok_or_else(|| {
            let wanted = match self.form() {
                Form::Count if least_one => "a whole number, at least 1",
                Form::Count => "a whole number",
                Form::Milliseconds => "a duration like 90s, 7d",
                Form::Bytes => "a size like 256 MiB",
                Form::WhenFull => "evict or wait",
            };
            format!("{}: {text:?} is not {wanted}", self.as_str())
        })
    }

    /// A stored value as people write it.
    pub fn shown(self, stored: &str) -> String {
        match (self.form(), stored.parse::<u64>()) {
            (Form::Milliseconds, Ok(ms)) if ms > 0 && ms % DAY_MS == 0 => format!("{}d", ms / DAY_MS),
            (Form::Milliseconds, Ok(ms)) => humantime::format_duration(Duration::from_millis(ms)).to_string(),
            (Form::Bytes, Ok(bytes)) => ByteSize::b(bytes).to_string(),
            (Form::Count | Form::WhenFull, _) | (Form::Milliseconds | Form::Bytes, Err(_)) => {
                stored.to_owned()
            }
        }
    }
}

/// One setting as it holds now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SettingValue {
    /// Its name.
    #[serde(serialize_with = "as_name")]
    pub setting: Setting,
    /// The value in force, as people write it.
    pub value: String,
    /// True when it is stored in the queue; until then it is the caller's own configuration.
    pub stored: bool,
    /// The caller's own configuration, where that is different.
    pub configured: Option<String>,
}

/// A change of one setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SettingChange {
    /// Its name.
    #[serde(serialize_with = "as_name")]
    pub setting: Setting,
    /// The value before, as people write it; None when none was stored.
    pub before: Option<String>,
    /// The value now.
    pub value: String,
}

fn as_name<S: serde::Serializer>(setting: &Setting, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(setting.as_str())
}

/// ` name=value ...`: the caller's own settings, for a queue that has none stored.
pub(crate) fn fallback(config: &Config, sink: &str) -> String {
    let each = Setting::ALL.iter().map(|s| format!(" {}={}", s.as_str(), s.configured(config, sink)));
    each.collect()
}

impl Queue {
    /// The settings in force.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn settings(&self) -> Result<Vec<SettingValue>, Error> {
        let mut pipe = redis::pipe();
        pipe.cmd("HMGET").arg(self.inner.keys.meta());
        for setting in Setting::ALL {
            pipe.arg(setting.as_str());
        }
        let (stored,): (Vec<Option<String>>,) = self.ask(&pipe).await?;
        let values = Setting::ALL.iter().zip(stored).map(|(&setting, stored)| {
            let configured = setting.configured(&self.inner.config, &self.inner.sink);
            let differs = stored.as_ref().is_some_and(|stored| *stored != configured);
            SettingValue {
                setting,
                value: setting.shown(stored.as_ref().unwrap_or(&configured)),
                stored: stored.is_some(),
                configured: differs.then(|| setting.shown(&configured)),
            }
        });
        Ok(values.collect())
    }

    /// Settings that are numbers, as they hold now.
    pub(crate) async fn stored_numbers<const N: usize>(
        &self,
        wanted: [Setting; N],
    ) -> Result<[u64; N], Error> {
        let mut pipe = redis::pipe();
        pipe.cmd("HMGET").arg(self.inner.keys.meta());
        for setting in wanted {
            pipe.arg(setting.as_str());
        }
        let (stored,): (Vec<Option<String>>,) = self.ask(&pipe).await?;
        let mut stored = stored.into_iter();
        Ok(wanted.map(|setting| {
            let stored = stored.next().flatten();
            let own = setting.configured(&self.inner.config, &self.inner.sink);
            stored.unwrap_or(own).parse().unwrap_or(0)
        }))
    }

    async fn store(&self, by: &str, values: &[(Setting, String)]) -> Result<Vec<SettingChange>, Error> {
        let mut call = self.call(&scripts::SET).key(self.inner.keys.audit()).arg(by).arg(AUDIT_MAX);
        for (setting, value) in values {
            call = call.arg(setting.as_str()).arg(value);
        }
        let mut reply = call.reply().await?;
        let mut changes = Vec::new();
        for (setting, _) in values {
            reply.text()?;
            let before = Some(reply.text()?).filter(|before| !before.is_empty());
            let before = before.map(|before| setting.shown(&before));
            changes.push(SettingChange { setting: *setting, before, value: setting.shown(&reply.text()?) });
        }
        Ok(changes)
    }

    fn configured(&self) -> Vec<(Setting, String)> {
        let of = |setting: &Setting| (*setting, setting.configured(&self.inner.config, &self.inner.sink));
        Setting::ALL.iter().map(of).collect()
    }
}

impl WorkerHandle {
    /// Stores the settings that the queue does not have yet, from this worker's configuration; returns those
    /// that hold and that it is configured otherwise for.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn seed_settings(&self) -> Result<Vec<SettingValue>, Error> {
        self.store("", &self.configured()).await?;
        Ok(self.settings().await?.into_iter().filter(|value| value.configured.is_some()).collect())
    }
}

impl OperatorHandle {
    /// Stores settings, as [`Setting::parse`] returned them; every worker obeys at once.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn set(&self, by: &str, values: &[(Setting, String)]) -> Result<Vec<SettingChange>, Error> {
        self.store(by, values).await
    }

    /// Stores all settings as this process is configured: the deliberate way in for a deploy.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn set_from_config(&self, by: &str) -> Result<Vec<SettingChange>, Error> {
        self.store(by, &self.configured()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_is_a_key_of_the_configuration_and_reads_what_it_shows() {
        let config = crate::config::tests::config();
        let written = toml::to_string(&config).unwrap();
        for setting in Setting::ALL {
            assert!(written.contains(&format!("\n{} = ", setting.as_str())), "{}", setting.as_str());
            let stored = setting.configured(&config, "http://app/");
            assert_eq!(setting.parse(&setting.shown(&stored)), Ok(stored), "{}", setting.as_str());
        }
    }

    #[test]
    fn what_cannot_be_a_value_is_refused_by_name() {
        for (setting, text) in [
            (Setting::BacklogMax, "-1"),
            (Setting::CrashesMax, "0"),
            (Setting::DeadMaxAge, "soon"),
            (Setting::ReportsMaxBytes, "much"),
            (Setting::ReportsWhenFull, "auto"),
        ] {
            let error = setting.parse(text).unwrap_err();
            assert!(error.contains(setting.as_str()) && error.contains(text), "{error}");
        }
    }

    #[test]
    fn reports_wait_where_redis_has_the_only_copy() {
        let config = crate::config::tests::config();
        assert_eq!(Setting::ReportsWhenFull.configured(&config, REDIS_SINK), "wait");
        assert_eq!(Setting::ReportsWhenFull.configured(&config, "https://app/"), "evict");
    }
}
