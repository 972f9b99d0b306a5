//! The whole configuration: each room's own section, parsed, checked against each other, and shown with its
//! origin.
//!
//! It reads no file but those it is given and `queue.tls_ca`; rooms get their section by value. Invariant: a
//! `Config` that exists has passed every check that needs neither the network nor this machine's memory;
//! [`LoadedConfig::load_for_work`] checks the memory too.

pub mod assemble;
mod check;
mod layers;
mod read;
mod shown;

use figment::Figment;
use figment::value::Dict;
use serde::Deserialize;

pub use self::layers::{ALIASES, ConfigSources, DEFAULT};
use self::read::Reader;
use self::shown::shown;
use crate::{api, fetch, filter, policy, queue, results, sandbox, telemetry, web, worker};

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
    /// Whole results outside Redis.
    pub results: results::Config,
    /// The child's limits.
    pub sandbox: sandbox::Config,
    /// Logs.
    pub log: telemetry::logs::Config,
    /// Alerts.
    pub sentry: telemetry::sentry::Config,
    /// Health and metrics.
    pub web: web::health::Config,
    /// The dashboard.
    pub dash: web::dash::Config,
}

/// A configuration with where each value came from.
pub struct LoadedConfig {
    /// The values.
    pub config: Config,
    figment: Figment,
}

impl LoadedConfig {
    /// Layers, parses and checks everything, and reports all mistakes at once.
    ///
    /// # Errors
    /// One sentence for each mistake: key, value, origin and way out. No secret is shown.
    pub fn load(sources: &ConfigSources) -> Result<Self, Vec<String>> {
        Self::load_checked(sources, |_| Ok(0))
    }

    /// The same for a worker on this machine, whose memory must have room for the slots.
    ///
    /// # Errors
    /// Those of [`LoadedConfig::load`].
    pub fn load_for_work(sources: &ConfigSources) -> Result<Self, Vec<String>> {
        Self::load_checked(sources, Config::slots)
    }

    fn load_checked(
        sources: &ConfigSources,
        slots: impl FnOnce(&Config) -> Result<u32, String>,
    ) -> Result<Self, Vec<String>> {
        let mut reader = Reader::new(sources);
        let config = reader.config();
        if let Some(config) = &config {
            check::check(config, slots, &mut reader);
        }
        let (figment, errors) = reader.finish();
        match config {
            Some(config) if errors.is_empty() => Ok(Self { config, figment }),
            _ => Err(errors),
        }
    }

    /// Every key with its value, secrets hidden, each with its origin where asked: TOML that can be read
    /// back.
    pub fn show(&self, with_origin: bool) -> String {
        let values: Dict = self.figment.extract().unwrap_or_default();
        let mut text = String::new();
        for (section, value) in &values {
            text.push_str(&format!("[{section}]\n"));
            for key in value.as_dict().map(layers::keys).unwrap_or_default() {
                let full = format!("{section}.{key}");
                let shown = self.figment.find_value(&full).map(|v| shown(&full, &v)).unwrap_or_default();
                match with_origin {
                    true => text.push_str(&format!("{key} = {shown}  # {}\n", self.origin(&full))),
                    false => text.push_str(&format!("{key} = {shown}\n")),
                }
            }
            text.push('\n');
        }
        text
    }

    /// The same as JSON, secrets hidden.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        let mut all = serde_json::Map::new();
        let values: Dict = self.figment.extract().unwrap_or_default();
        for full in layers::keys(&values) {
            let value = self.figment.find_value(&full).ok();
            let shown = value.map(|v| shown(&full, &v));
            let origin = self.origin(&full);
            all.insert(full, serde_json::json!({ "value": shown, "origin": origin }));
        }
        all.into()
    }

    fn origin(&self, key: &str) -> String {
        self.figment.find_metadata(key).map(|m| m.name.to_string()).unwrap_or_default()
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
            Ok(loaded) => assert_eq!(loaded.config.queue.name.as_str(), crate::queue::DEFAULT_NAME),
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
        assert!(shown.contains("redis://***@h/0") && !shown.contains("pw"), "{shown}");
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
        let loaded =
            LoadedConfig::load(&env(&[("WM__API__PASSWORD", "hunter2"), ("WM__API__EMAIL", "a@b")])).unwrap();
        let text = format!("{}{}", loaded.show(true), loaded.to_json());
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn a_mistake_is_named_with_key_value_origin_and_way_out() {
        for (name, value, needles) in [
            ("WM__QUEUE__NAME", "Bad Name", ["queue.name = \"Bad Name\"", "1 to 63 of a-z 0-9 _ -"]),
            ("WM__QUEUE__NAME", "", ["queue.name = \"\"", "1 to 63"]),
            ("WM__QUEUE__NAME", "a:b", ["queue.name = \"a:b\"", "1 to 63"]),
            ("WM__QUEUE__NAME", "-a", ["queue.name = \"-a\"", "1 to 63"]),
            ("WM__QUEUE__NAME", "{x}", ["queue.name = \"{x}\"", "1 to 63"]),
            ("WM__API__URL", "ftp://x", ["api.url = \"ftp://x\"", "write an http or https address"]),
            ("WEB_MONITORING_DB_URL", "db.example.org", ["api.url = \"***\"", "https://db.example.org"]),
            (
                "WEB_MONITORING_DB_URL",
                "https://u:pw@db.test",
                ["https://***@db.test", "api.email and api.password"],
            ),
            ("WEB_MONITORING_DB_URL", "https://db.test?pw", ["https://db.test?***", "without credentials"]),
            ("WM__API__URL", "https://", ["api.url = \"https://\"", "write an http or https address"]),
            ("RUST_LOG", "wm=!!!", ["log.filter = \"wm=!!!\"", "write e.g. info"]),
            ("RUST_LOG", "a=b=c", ["log.filter = \"a=b=c\"", "write e.g. info"]),
            ("SENTRY_DSN", "nonsense", ["sentry.dsn = \"***\"", "https://<key>@<host>/<project>"]),
            ("SENTRY_DSN", "https://sentry.test/1", ["sentry.dsn = \"***\"", "leave it blank"]),
            ("REDIS_URL", "not a url", ["queue.url = \"***\"", "write redis://"]),
            ("REDIS_URL", "", ["queue.url = \"\"", "is empty; write redis://"]),
            (
                "REDIS_URL",
                "redis://:p@ss/w#rd@host",
                ["queue.url = \"redis://***@host\"", "percent-encode it"],
            ),
            (
                "REDIS_URL",
                "redis+unix:///s?password=x",
                ["queue.url = \"redis+unix:///s?***\"", "password= of the query"],
            ),
            ("WM__SANDBOX__WALL", "soon", ["sandbox.wall = \"soon\"", "write 500ms, 30s, 5m or 24h"]),
            ("WM__SANDBOX__HEAP", "lots", ["sandbox.heap = \"lots\"", "write a size such as 64 KiB"]),
            ("WM__SANDBOX__HEAP", "1 MiB", ["sandbox.heap = \"1 MiB\"", "below the least, 16"]),
            ("WM__SANDBOX__STACK", "1 KiB", ["sandbox.stack = \"1 KiB\"", "below the least, 256"]),
            ("WM__SANDBOX__SLOTS", "-1", ["sandbox.slots = -1", "write a whole number"]),
            ("WM__SANDBOX__SLOTS", "two", ["sandbox.slots = \"two\"", "write a whole number"]),
            ("WM__SANDBOX__ISOLATION", "none", ["sandbox.isolation = \"none\"", "best_effort"]),
            ("WM__POLICY__ATTEMPTS", "0", ["policy.attempts = 0", "at least 1"]),
            ("WM__QUEUE__CONNECTIONS", "0", ["queue.connections = 0", "at least 1"]),
            ("WM__QUEUE__ADOPT", "celery:x", ["queue.adopt = [\"celery:x\"]", "sidekiq:queue:<name>"]),
            ("WM__QUEUE__TLS_CA", "/ca.pem", ["queue.tls_ca = \"/ca.pem\"", "is for rediss://"]),
            (
                "WM__FETCH__ALLOW_NETWORKS",
                "10.0.0.0",
                ["fetch.allow_networks = [\"10.0.0.0\"]", "10.0.0.0/8"],
            ),
            ("WM__FETCH__ALLOW_NETWORKS", "[10.0.0.0/8]", ["allow_networks = \"[10.0.0.0/8]\"", "write ["]),
            ("WM__FETCH__ALLOW_NETWORKS", "10.0.0.0/99", ["10.0.0.0/99", "write ["]),
            ("WM__FETCH__ALLOW_NETWORKS", "[1]", ["allow_networks = [1]", "write ["]),
            ("WM__FETCH__USER_AGENT", "a\u{7f}b", ["fetch.user_agent = ", "visible ASCII"]),
            ("WM__FETCH__USER_AGENT", "wm\nx", ["fetch.user_agent = ", "visible ASCII"]),
            ("WEB_MONITORING_DB_TOKEN", "to\nken", ["api.token = \"***\"", "visible ASCII"]),
            ("WEB_MONITORING_DB_EMAIL", "a@b.test", ["api.email = \"a@b.test\"", "set both, or neither"]),
            ("WEB_MONITORING_DB_PASSWORD", "geheim", ["api.password = \"***\"", "set both, or neither"]),
            ("WM__API__LOGIN", "cookie", ["api.login = \"cookie\"", "basic"]),
            ("WM__API__HEADERS", "geheim", ["api.headers = [\"***\"]", "is not \"Name: value\""]),
            (
                "WM__API__HEADERS",
                "Authorization: x",
                ["api.headers = [\"***\"]", "Authorization is that of api.token"],
            ),
            ("WM__WEB__BIND", "localhost", ["web.bind = \"localhost\"", "write 127.0.0.1:9464, or off"]),
            ("WM__WEB__BIND", "127.0.0.1:99999", ["web.bind = \"127.0.0.1:99999\"", "or off"]),
            ("WM__API__POST", "publish", ["api.post = \"publish\"", "dry_run"]),
            ("WM__RESULTS__STORE", "/var/lib/wm", ["results.store = \"***\"", "write none, file:///"]),
            ("WM__RESULTS__STORE", "s3://key:geheim@b", ["s3://***@b", "3 to 63 of a-z 0-9"]),
            ("WM__RESULTS__STORE", "s3://bucket", ["results.access_key_id = \"\"", "needs credentials"]),
            ("WM__RESULTS__ENDPOINT", "s3.test", ["results.endpoint = \"***\"", "write an http or https"]),
            ("WM__RESULTS__REGION", "", ["results.region = \"\"", "us-east-1"]),
            ("WM__RESULTS__MAX_BYTES", "1 KiB", ["max_bytes = \"1 KiB\"", "write 64.0 KiB to 64.0 MiB"]),
            ("WM__API__POST_PARTIAL", "perhaps", ["api.post_partial = \"perhaps\"", "always"]),
        ] {
            let errors = load_errors(&[(name, value)]);
            assert_eq!(errors.len(), 1, "{name}={value}: {errors:#?}");
            for needle in [needles[0], needles[1], &format!("(environment {name})")] {
                assert!(errors[0].contains(needle), "{name}={value}: {needle} is not in {}", errors[0]);
            }
        }
    }

    #[test]
    fn one_mistake_does_not_hide_another_one_in_the_same_section_or_elsewhere() {
        let errors = load_errors(&[
            ("WM__SANDBOX__WALL", "soon"),
            ("WM__SANDBOX__HEAP", "lots"),
            ("WM__SANDBOX__STACK", "1 KiB"),
            ("WM__POLICY__ATTEMPTS", "0"),
            ("WM__QUEUE__LEASE", "9s"),
            ("WM__QUEUE__NAME", "Bad Name"),
            ("REDIS_URL", ""),
        ]);
        for key in [
            "sandbox.wall",
            "sandbox.heap",
            "sandbox.stack",
            "policy.attempts",
            "queue.lease",
            "queue.name",
            "queue.url",
        ] {
            let about = errors.iter().filter(|error| error.starts_with(key)).count();
            assert_eq!(about, 1, "{key}: {errors:#?}");
        }
        assert_eq!(errors.len(), 7, "{errors:#?}");
    }

    #[test]
    fn a_check_of_two_keys_names_both_and_is_left_out_where_one_cannot_be_read() {
        let errors = load_errors(&[("WM__SANDBOX__WALL", "90s")]).join("\n");
        assert!(
            errors.contains("sandbox.wall = \"90s\" (environment WM__SANDBOX__WALL) and sandbox.max_wall = \"60s\" (built-in default): "),
            "{errors}"
        );
        let errors = load_errors(&[
            ("WM__SANDBOX__WALL", "90s"),
            ("WM__SANDBOX__MAX_WALL", "x"),
            ("WM__WORKER__DRAIN", "x"),
        ]);
        assert_eq!(errors.len(), 2, "{errors:#?}");
        let errors = load_errors(&[("REDIS_URL", "rediss//h"), ("WM__QUEUE__TLS_CA", "/ca.pem")]);
        assert_eq!(errors.len(), 1, "whether tls_ca fits depends on the address: {errors:#?}");
    }

    #[test]
    fn a_list_in_the_environment_is_written_as_in_a_file_or_with_commas() {
        for text in [
            r#"["10.0.0.0/8"]"#,
            r#" [ "10.0.0.0/8" , ] "#,
            "['10.0.0.0/8']",
            "10.0.0.0/8",
            "10.0.0.0/8,",
            "[\n\"10.0.0.0/8\", # the office\n]",
        ] {
            let loaded = LoadedConfig::load(&env(&[("WM__FETCH__ALLOW_NETWORKS", text)]));
            let loaded = loaded.unwrap_or_else(|errors| panic!("{text}: {errors:#?}"));
            assert_eq!(loaded.config.fetch.allow_networks, ["10.0.0.0/8".parse().unwrap()], "{text}");
        }
        for text in ["[]", "", "[ ]", ","] {
            let loaded =
                LoadedConfig::load(&env(&[("WM__QUEUE__ADOPT", text)])).unwrap_or_else(|e| panic!("{e:?}"));
            assert!(loaded.config.queue.adopt.is_empty(), "{text:?}");
        }
    }

    #[test]
    fn a_secret_of_the_wrong_type_in_a_file_is_not_repeated() {
        let text = "[api]\npassword = 73571\ntoken = [73571]\n[sentry]\ndsn = 73571\n[queue]\nurl = 73571\n";
        let sources = ConfigSources {
            texts: vec![("worker.toml".to_owned(), text.to_owned())],
            ..ConfigSources::default()
        };
        let errors = LoadedConfig::load(&sources).err().expect("must be refused");
        assert_eq!(errors.len(), 4, "{errors:#?}");
        for error in errors {
            assert!(error.contains("(worker.toml): must be a text") && !error.contains("73571"), "{error}");
        }
    }

    #[test]
    fn no_form_of_a_loaded_configuration_shows_a_secret() {
        let loaded = LoadedConfig::load(&env(&[
            ("REDIS_URL", "redis://worker:hunter2@h/0"),
            ("SENTRY_DSN", "https://hunter2@sentry.test/1"),
            ("WEB_MONITORING_DB_URL", "https://db.test"),
            ("WEB_MONITORING_DB_EMAIL", "a@db.test"),
            ("WEB_MONITORING_DB_PASSWORD", "hunter2"),
            ("WM__RESULTS__SECRET_ACCESS_KEY", "hunter2"),
            ("WM__RESULTS__ENDPOINT", "https://s3.test"),
        ]))
        .unwrap();
        let text = format!("{}{}{:?}", loaded.show(true), loaded.to_json(), loaded.config);
        assert!(!text.contains("hunter2") && !text.to_lowercase().contains("redacted"), "{text}");
    }
}
