//! The db app's API, against a fake of it on a real socket.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod calls;
mod config;
mod login;
mod posting;
mod resolving;

use std::time::Duration;

use url::Url;
use uuid::Uuid;
use wm_analyzer::api::{Api, Config};
use wm_analyzer::job::failure::Failure;
use wm_analyzer::job::outcome::EarlyExit;
use wm_analyzer::job::page::{PagePair, Version};
use wm_analyzer::job::report::Annotation;
use wm_analyzer::job::skip::Skip;
use wm_testbed::db_app::{DbState, FakeDb, version};

const PAGE: Uuid = Uuid::from_u128(0x0009_a6e0);

/// As in `config/default.toml`.
const DEFAULTS: &str = r#"
url = ""
email = ""
password = ""
token = ""
login = "token"
headers = []
post = "post"
post_partial = "text"
timeout = "30s"
max_concurrent = 4
max_response = "1 MiB"
cache_entries = 2000
cache_ttl = "10m"
max_retry_after = "1h"
"#;

fn uuid(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

/// The default configuration, pointing at this fake.
fn config(fake: &FakeDb) -> Config {
    let url = format!("http://{}/", fake.address()).parse().unwrap();
    Config { url: Some(url), timeout: Duration::from_secs(10), ..toml::from_str(DEFAULTS).unwrap() }
}

fn api(config: &Config) -> Api {
    Api::new(config).unwrap().unwrap()
}

/// A fake that knows versions 1, 2 and 3 of one page, in this order.
async fn three_versions() -> FakeDb {
    FakeDb::with(DbState { versions: [1, 2, 3].map(|n| version(uuid(n), PAGE)).into(), ..DbState::default() })
        .await
}

fn pair() -> PagePair {
    let version = |n| Version::at(uuid(n), Url::parse("https://archive.test/").unwrap());
    PagePair { page: Some(PAGE), from: version(1), to: version(2), from_is_earliest: false }
}

fn annotation(priority: f64) -> Annotation {
    Annotation { text: None, source: None, links: None, priority }
}

fn failed<T: std::fmt::Debug>(ended: Result<T, EarlyExit>) -> Failure {
    match ended {
        Err(EarlyExit::Fail(failure)) => failure,
        other => panic!("{other:?} is no failure"),
    }
}

fn skipped<T: std::fmt::Debug>(ended: Result<T, EarlyExit>) -> Skip {
    match ended {
        Err(EarlyExit::Skip(skip)) => skip,
        other => panic!("{other:?} is no skip"),
    }
}
