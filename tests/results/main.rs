//! The results store: against directories, a real server that speaks S3, and servers that misbehave.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod buckets;
mod directories;
mod faults;
mod leases;

use uuid::Uuid;
use wm_analyzer::job::report::ANALYSIS_VERSION;
use wm_analyzer::results::{Config, ResultKey, ResultStore};

/// As in `config/default.toml`.
const DEFAULTS: &str = r#"
store = "none"
endpoint = ""
region = "us-east-1"
access_key_id = ""
secret_access_key = ""
instance_credentials = false
max_bytes = "16 MiB"
"#;
/// Of no server.
const SECRET: &str = "geheimgeheimgeheim";

fn config(store: &str) -> Config {
    Config { store: store.parse().unwrap(), ..toml::from_str(DEFAULTS).unwrap() }
}

/// A store in the bucket `results` of the server at this address.
fn bucket_at(endpoint: &str) -> ResultStore {
    let config = Config {
        endpoint: Some(endpoint.parse().unwrap()),
        access_key_id: "worker".to_owned(),
        secret_access_key: SECRET.into(),
        ..config("s3://results/wm")
    };
    open(&config)
}

fn open(config: &Config) -> ResultStore {
    assert_eq!(config.problems(), []);
    ResultStore::open(config).unwrap().unwrap()
}

fn key(n: u128) -> ResultKey {
    ResultKey { from: Uuid::from_u128(n), to: Uuid::from_u128(n + 1), analysis_version: ANALYSIS_VERSION }
}

/// The name that a key has in every store.
fn name(n: u128) -> String {
    format!("v{ANALYSIS_VERSION}/{}..{}.json.gz", Uuid::from_u128(n), Uuid::from_u128(n + 1))
}

#[test]
fn without_a_store_there_is_none() {
    assert!(ResultStore::open(&config("none")).unwrap().is_none());
}
