//! Waiting for a moment that a test expects.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// A moment that has not come by then does not come; generous, for a machine that does other things too.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Between two looks.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Waits until `reached` holds.
///
/// # Panics
/// Where it does not hold within a minute; the message names `what`.
pub async fn until(what: &str, mut reached: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + TIMEOUT;
    while !reached().await {
        assert!(Instant::now() < end, "never reached: {what}");
        sleep(POLL_INTERVAL).await;
    }
}
