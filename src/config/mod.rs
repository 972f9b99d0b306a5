//! The whole configuration: each room's own, composed, checked against each other, and shown with its origin.
//!
//! It reads no file but those it is given, and nobody below this floor names it: rooms get their part by value.
//! Invariant: a `Config` that exists has passed every check that can be made without touching the outside.

pub mod assemble;
mod layers;

use bytesize::ByteSize;
use figment::Figment;
use figment::value::{Dict, Value};
use serde::Deserialize;
use serde::de::DeserializeOwned;

pub use self::layers::{ALIASES, ConfigSources, DEFAULT};
use crate::{analysis, api, fetch, filter, policy, queue, sandbox, telemetry, web, worker};

/// Keys whose values are never shown.
const SECRETS: [&str; 3] = ["sentry.dsn", "api.password", "api.token"];
/// Keys that hold a URL whose user part is never shown.
const SECRET_URLS: [&str; 2] = ["queue.url", "api.url"];

/// The least heap that a child needs for a page at all.
const MIN_HEAP: ByteSize = ByteSize::mib(16);
/// The least stack that a parser at its bounded depth needs, with room.
const MIN_STACK: ByteSize = ByteSize::kib(256);

/// Everything that can be set.
#[derive(Debug, Clone, Deserialize)]
pub struct Config {
    /// The queue in Redis.
    pub queue: queue::Config,
    /// The worker's own rhythm.
    pub worker: worker::Config,
    /// Attempts and delays.
    pub policy: policy::Config,
    /// Skips before fetching.
    pub filter: filter::Config,
    /// Fetching bodies.
    pub fetch: fetch::Config,
    /// The db app.
    pub api: api::Config,
    /// What reports quote.
    pub analysis: analysis::Config,
    /// The child's limits.
    pub sandbox: sandbox::Config,
    /// Logs.
    pub log: telemetry::logs::Config,
    /// Alerts.
    pub sentry: telemetry::sentry::Config,
    /// Health and metrics.
    pub web: web::health::Config,
}

/// A configuration with where each value came from.
pub struct LoadedConfig {
    /// The values.
    pub config: Config,
    figment: Figment,
}

impl LoadedConfig {
    /// Layers, reads and checks everything, and reports all that is wrong at once.
    ///
    /// # Errors
    /// One sentence for each mistake, naming its source.
    pub fn load(sources: &ConfigSources) -> Result<Self, Vec<String>> {
        let mut errors = Vec::new();
        let figment = layers::layer(sources, &mut errors);
        match read(&figment, &mut errors) {
            Some(config) if errors.is_empty() => {
                check(&config, &mut errors);
                if errors.is_empty() { Ok(Self { config, figment }) } else { Err(errors) }
            }
            _ => Err(errors),
        }
    }

    /// Every key with its value, secrets left out, each with its origin where asked: TOML that can be read back.
    pub fn show(&self, with_origin: bool) -> String {
        let values: Dict = self.figment.extract().unwrap_or_default();
        let mut text = String::new();
        for (section, value) in &values {
            text.push_str(&format!("[{section}]\n"));
            for key in value.as_dict().map(layers::keys).unwrap_or_default() {
                let full = format!("{section}.{key}");
                let shown = self.figment.find_value(&full).map(|v| redacted(&full, &v)).unwrap_or_default();
                let origin =
                    self.figment.find_metadata(&full).map(|m| m.name.to_string()).unwrap_or_default();
                match with_origin {
                    true => text.push_str(&format!("{key} = {shown}  # {origin}\n")),
                    false => text.push_str(&format!("{key} = {shown}\n")),
                }
            }
            text.push('\n');
        }
        text
    }

    /// The same as JSON, secrets left out.
    pub fn to_json(&self) -> serde_json::Value {
        let mut all = serde_json::Map::new();
        let values: Dict = self.figment.extract().unwrap_or_default();
        for full in layers::keys(&values) {
            let value = self.figment.find_value(&full).ok();
            let origin = self.figment.find_metadata(&full).map(|m| m.name.to_string());
            let shown = value.map(|v| redacted(&full, &v));
            all.insert(full, serde_json::json!({ "value": shown, "origin": origin }));
        }
        all.into()
    }
}

fn read(figment: &Figment, errors: &mut Vec<String>) -> Option<Config> {
    let queue = section(figment, "queue", errors);
    let worker = section(figment, "worker", errors);
    let policy = section(figment, "policy", errors);
    let filter = section(figment, "filter", errors);
    let fetch = section(figment, "fetch", errors);
    let api = section(figment, "api", errors);
    let analysis = section(figment, "analysis", errors);
    let sandbox = section(figment, "sandbox", errors);
    let log = section(figment, "log", errors);
    let sentry = section(figment, "sentry", errors);
    let web = section(figment, "web", errors);
    Some(Config {
        queue: queue?,
        worker: worker?,
        policy: policy?,
        filter: filter?,
        fetch: fetch?,
        api: api?,
        analysis: analysis?,
        sandbox: sandbox?,
        log: log?,
        sentry: sentry?,
        web: web?,
    })
}

fn section<T: DeserializeOwned>(figment: &Figment, name: &str, errors: &mut Vec<String>) -> Option<T> {
    match figment.extract_inner::<T>(name) {
        Ok(section) => Some(section),
        Err(wrong) => {
            for error in wrong {
                // figment puts the section's name behind the key's.
                let within = error.path.iter().filter(|part| *part != name).map(String::as_str);
                let key = std::iter::once(name).chain(within).collect::<Vec<_>>().join(".");
                let origin = figment.find_metadata(&key).map_or_else(String::new, |m| m.name.to_string());
                // A secret's value must not come back in the message about it.
                let what = match SECRETS.iter().chain(&SECRET_URLS).any(|secret| *secret == key) {
                    true => "this value cannot be read (not shown, it is a secret)".to_owned(),
                    false => error.kind.to_string(),
                };
                errors.push(format!("{origin}: {key}: {what}"));
            }
            None
        }
    }
}

/// What the sections mean together.
fn check(config: &Config, errors: &mut Vec<String>) {
    let mut require = |holds: bool, what: String| {
        if !holds {
            errors.push(what);
        }
    };
    let (queue, worker, sandbox) = (&config.queue, &config.worker, &config.sandbox);
    let heartbeats = queue.lease.as_secs_f64() / worker.heartbeat.as_secs_f64().max(0.001);
    require(
        heartbeats >= 3.0,
        format!(
            "queue.lease {:?} must be at least three times worker.heartbeat {:?}",
            queue.lease, worker.heartbeat
        ),
    );
    require(config.policy.attempts > 0, "policy.attempts must be at least 1".to_owned());
    require(
        sandbox.wall <= sandbox.max_wall,
        format!("sandbox.wall {:?} is above sandbox.max_wall {:?}", sandbox.wall, sandbox.max_wall),
    );
    require(
        sandbox.heap <= sandbox.max_heap,
        format!("sandbox.heap {} is above sandbox.max_heap {}", sandbox.heap, sandbox.max_heap),
    );
    // Below these a child cannot even start: it would die of every job, and the jobs would be blamed.
    require(
        sandbox.heap >= MIN_HEAP,
        format!("sandbox.heap {} is below the least, {MIN_HEAP}", sandbox.heap),
    );
    require(
        sandbox.stack >= MIN_STACK,
        format!("sandbox.stack {} is below the least, {MIN_STACK}", sandbox.stack),
    );
    require(
        worker.drain > sandbox.wall,
        format!("worker.drain {:?} must be longer than sandbox.wall {:?}", worker.drain, sandbox.wall),
    );
}

fn redacted(key: &str, value: &Value) -> String {
    let text = match value {
        Value::String(_, text) => text.clone(),
        other => return toml_literal(other),
    };
    if text.is_empty() {
        return "\"\"".to_owned();
    }
    if SECRETS.contains(&key) {
        return "\"[redacted]\"".to_owned();
    }
    if SECRET_URLS.contains(&key) {
        return format!("{:?}", without_credentials(&text));
    }
    toml_literal(value)
}

/// A URL with `***` for its password, or for a name without one; nothing at all of what is not a URL.
pub fn without_credentials(url: &str) -> String {
    match url::Url::parse(url) {
        Ok(mut url) => {
            if url.password().is_some() {
                // Cannot fail for a URL that has a password.
                let _ = url.set_password(Some("***"));
            } else if !url.username().is_empty() {
                // A name alone may be a token.
                let _ = url.set_username("***");
            }
            url.set_query(None);
            url.to_string()
        }
        // Several hosts in one address are more than a URL.
        Err(_) if url.starts_with("redis+sentinel://") => queue::redacted(url),
        Err(_) => "[not a URL]".to_owned(),
    }
}

fn toml_literal(value: &Value) -> String {
    match value {
        Value::String(_, text) => toml::Value::String(text.clone()).to_string(),
        Value::Char(_, c) => toml::Value::String(c.to_string()).to_string(),
        Value::Bool(_, flag) => flag.to_string(),
        Value::Num(_, num) => {
            num.to_i128().map_or_else(|| num.to_f64().unwrap_or_default().to_string(), |n| n.to_string())
        }
        Value::Empty(..) => "\"\"".to_owned(),
        Value::Array(_, items) => {
            format!("[{}]", items.iter().map(toml_literal).collect::<Vec<_>>().join(", "))
        }
        Value::Dict(..) => "{}".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> ConfigSources {
        let env = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        ConfigSources { env, ..ConfigSources::default() }
    }

    fn load_errors(pairs: &[(&str, &str)]) -> Vec<String> {
        LoadedConfig::load(&env(pairs)).err().expect("must be refused")
    }

    #[test]
    fn the_built_in_default_passes_its_own_checks() {
        match LoadedConfig::load(&ConfigSources::default()) {
            Ok(loaded) => assert_eq!(loaded.config.queue.name, crate::queue::DEFAULT_NAME),
            Err(errors) => panic!("{errors:#?}"),
        }
    }

    #[test]
    fn the_configuration_for_the_db_app_is_sound_and_posts() {
        let text = include_str!("../../config/web-monitoring-db.toml").to_owned();
        let mut sources = env(&[("WEB_MONITORING_DB_URL", "https://db.example.org")]);
        sources.texts = vec![("web-monitoring-db.toml".to_owned(), text)];
        let loaded = LoadedConfig::load(&sources).unwrap_or_else(|errors| panic!("{errors:#?}"));
        assert!(
            loaded.show(true).contains("post = \"post\"  # web-monitoring-db.toml"),
            "{}",
            loaded.show(true)
        );
    }

    #[test]
    fn every_key_of_the_default_is_explained() {
        let mut previous = "";
        for line in DEFAULT.lines() {
            let key = line.split_once(" = ").map(|(key, _)| key).filter(|key| !key.starts_with('#'));
            if let Some(key) = key {
                assert!(previous.starts_with('#'), "{key} has no comment above it");
            }
            previous = line;
        }
    }

    #[test]
    fn a_stronger_source_wins_and_is_named_as_the_origin() {
        let loaded =
            LoadedConfig::load(&env(&[("WM__SANDBOX__WALL", " 7s\n"), ("REDIS_URL", "redis://:pw@h/0\n")]))
                .unwrap();
        assert_eq!(loaded.config.sandbox.wall.as_secs(), 7);
        let shown = loaded.show(true);
        assert!(shown.contains("wall = \"7s\"  # environment WM__SANDBOX__WALL"), "{shown}");
        assert!(shown.contains("redis://:***@h/0") && !shown.contains("pw"), "{shown}");
    }

    #[test]
    fn all_mistakes_come_at_once_each_with_its_source_and_the_nearest_key() {
        let errors = load_errors(&[
            ("WM__SANDBOX__WAL", "7s"),
            ("WM__FETCH__TOTAL_TIMEOUT", "soon"),
            ("WM__POLICY__ATTEMPTS", "many"),
            ("ANALYSIS_REQUIRE_MEDIA_TYPE", "perhaps"),
        ])
        .join("\n");
        for needle in ["did you mean sandbox.wall?", "fetch.total_timeout", "policy.attempts", "perhaps"] {
            assert!(errors.contains(needle), "{needle} is not in:\n{errors}");
        }
    }

    #[test]
    fn values_that_do_not_fit_each_other_are_refused() {
        let errors = load_errors(&[("WM__QUEUE__LEASE", "9s"), ("WM__WORKER__DRAIN", "1s")]).join("\n");
        assert!(errors.contains("queue.lease") && errors.contains("worker.drain"), "{errors}");
    }

    #[test]
    fn a_file_that_is_no_toml_is_named_with_its_line_and_without_what_stands_there() {
        let text = "[api]\npassword = \"hunter2\n".to_owned();
        let sources =
            ConfigSources { texts: vec![("worker.toml".to_owned(), text)], ..ConfigSources::default() };
        let errors = LoadedConfig::load(&sources).err().expect("must be refused").join("\n");
        assert!(errors.contains("worker.toml") && errors.contains("line 2"), "{errors}");
        assert!(!errors.contains("hunter2"), "{errors}");
    }

    #[test]
    fn a_secret_is_never_shown_not_even_when_it_cannot_be_read() {
        let loaded = LoadedConfig::load(&env(&[("WM__API__PASSWORD", "hunter2")])).unwrap();
        let text = format!("{}{}", loaded.show(true), loaded.to_json());
        assert!(!text.contains("hunter2"), "{text}");
    }
}
