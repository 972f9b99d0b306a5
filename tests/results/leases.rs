//! A result is written under a valid lease only.

use std::fs;
use std::time::Duration;

use tempfile::TempDir;
use url::Url;
use uuid::Uuid;
use wm_analyzer::job::failure::{Failure, FailureKind, Stage};
use wm_analyzer::job::page::{PagePair, Version};
use wm_analyzer::pipeline::{Interrupted, LeaseGate, StageTimings, store_result};
use wm_analyzer::sandbox::Meter;

use crate::{config, name, open};

/// The gate of a lease that is held, or lost.
struct Lease {
    held: bool,
}

impl LeaseGate for Lease {
    async fn start(&self, _: &PagePair) -> Result<(), Interrupted> {
        Ok(())
    }

    fn stage_started(&self, stage: Stage, _: Option<Duration>) {
        assert_eq!(stage, Stage::Store);
    }

    async fn enter_child(&self, _: Duration, _: Meter) -> Result<(), Failure> {
        Ok(())
    }

    fn may_have_posted(&self) -> bool {
        false
    }

    async fn confirm(&self) -> Result<(), Failure> {
        match self.held {
            true => Ok(()),
            false => Err(Failure::new(FailureKind::ApiUnavailable, "the lease is lost")),
        }
    }
}

#[tokio::test]
async fn a_job_whose_lease_is_lost_writes_no_result() {
    let directory = TempDir::new().unwrap();
    let store = open(&config(&format!("file://{}", directory.path().display())));
    let version = |n| Version::at(Uuid::from_u128(n), Url::parse("https://archive.test/").unwrap());
    let pair = PagePair { page: None, from: version(1), to: version(2), from_is_earliest: false };
    let mut timings = StageTimings::default();

    let lost = Lease { held: false };
    let refused = store_result(store.turn().await.unwrap(), &pair, b"x".to_vec(), &mut timings, &lost).await;
    assert_eq!(refused.unwrap_err().detail, "the lease is lost");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    assert!(timings.store.is_zero(), "the store was not asked, so it has shown nothing");

    let held = Lease { held: true };
    let stored =
        store_result(store.turn().await.unwrap(), &pair, b"x".to_vec(), &mut timings, &held).await.unwrap();
    assert!(stored.url.ends_with(&name(1)), "{}", stored.url);
    assert_eq!(fs::read(directory.path().join(name(1))).unwrap(), b"x");
    assert!(!timings.store.is_zero());

    let (mut timings, large) = (StageTimings::default(), vec![0; (16 << 20) + 1]);
    let refused = store_result(store.turn().await.unwrap(), &pair, large, &mut timings, &held).await;
    assert_eq!(refused.unwrap_err().kind, FailureKind::ReplyTooLarge);
    assert!(timings.store.is_zero(), "it was not asked");
}
