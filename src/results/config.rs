//! The section `results` of the configuration.

use bytesize::ByteSize;
use serde::Deserialize;

use super::{MAX_WRITES, StoreEndpoint, StorePlace};
use crate::job::redact::Secret;

/// The least `max_bytes`: below it even the results of small pages would be left out.
const MIN_RESULT: ByteSize = ByteSize::kib(64);
/// The most `max_bytes`: more cannot be written in the time that one call has.
const MAX_RESULT: ByteSize = ByteSize::mib(64);

/// Place, credentials and limits of the results store.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where whole results are kept.
    pub store: StorePlace,
    /// Server that speaks S3; empty for that of AWS in `region`.
    #[serde(with = "crate::job::blank")]
    pub endpoint: Option<StoreEndpoint>,
    /// Region of the bucket, part of each signature.
    pub region: String,
    /// Name of the key that requests are signed with; empty for none.
    pub access_key_id: String,
    /// The key's secret; empty for none.
    pub secret_access_key: Secret,
    /// Whether the instance metadata service is asked for credentials.
    pub instance_credentials: bool,
    /// Limit on one whole result, compressed, in bytes.
    pub max_bytes: ByteSize,
}

impl Config {
    /// Most memory that results take which are being written.
    pub fn memory_bytes(&self) -> u64 {
        match self.store {
            StorePlace::None => 0,
            StorePlace::Directory(_) | StorePlace::Bucket { .. } => {
                self.max_bytes.as_u64().saturating_mul(MAX_WRITES as u64)
            }
        }
    }

    /// Checks values that parsed but are invalid together; returns each key with a sentence.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        let mut wrong = |key, what: &str| problems.push((key, what.to_owned()));
        if self.max_bytes < MIN_RESULT || self.max_bytes > MAX_RESULT {
            wrong("max_bytes", &format!("is out of bounds: write {MIN_RESULT} to {MAX_RESULT}"));
        }
        if self.region.is_empty() || !self.region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            wrong("region", "is no region: write one such as us-east-1, which most other servers take too");
        }
        if !matches!(self.store, StorePlace::Bucket { .. }) {
            return problems;
        }
        let has = [!self.access_key_id.is_empty(), !self.secret_access_key.expose().is_empty()];
        match (has, self.instance_credentials) {
            ([true, true], false) | ([false, false], true) => {}
            ([false, false], false) => wrong(
                "access_key_id",
                "is empty, and a bucket needs credentials: set it and results.secret_access_key, or \
                 results.instance_credentials where the machine has a role",
            ),
            ([true, false], _) => {
                wrong("access_key_id", "is set and results.secret_access_key is not: set both, or neither");
            }
            ([false, true], _) => {
                wrong("secret_access_key", "is set and results.access_key_id is not: set both, or neither");
            }
            ([true, true], true) => {
                wrong("instance_credentials", "is set and so is results.access_key_id: set one of the two")
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong_keys(store: &str, id: &str, secret: &str, instance_credentials: bool) -> Vec<&'static str> {
        let config = Config {
            store: store.parse().unwrap(),
            endpoint: None,
            region: "eu-central-1".to_owned(),
            access_key_id: id.to_owned(),
            secret_access_key: secret.into(),
            instance_credentials,
            max_bytes: ByteSize::mib(16),
        };
        config.problems().into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn a_bucket_needs_one_kind_of_credentials_and_nothing_else_does() {
        for (id, secret, instance_credentials, expected) in [
            ("id", "secret", false, None),
            ("", "", true, None),
            ("", "", false, Some("access_key_id")),
            ("id", "", false, Some("access_key_id")),
            ("id", "", true, Some("access_key_id")),
            ("", "secret", false, Some("secret_access_key")),
            ("id", "secret", true, Some("instance_credentials")),
        ] {
            let wrong = wrong_keys("s3://results", id, secret, instance_credentials);
            assert_eq!(wrong, Vec::from_iter(expected), "{id:?} {secret:?} {instance_credentials}");
            for store in ["none", "file:///results"] {
                assert!(wrong_keys(store, id, secret, instance_credentials).is_empty(), "{store}");
            }
        }
    }
}
