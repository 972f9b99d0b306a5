//! Sends the batches that the throttle releases: one envelope per event, with timeouts, in a separate thread.
//!
//! It does not decide what is reported, and determines for each envelope whether Sentry accepted it.
//!
//! Invariant: what was not accepted is returned to the throttle; no request outlives its timeout, and at most
//! [`MAX_CONCURRENT_DELIVERIES`] run at once.
//!
//! # Why
//! A delivery that timed out may have arrived: it is sent again, because a duplicate alert is better than
//! none.

use std::time::{Duration, Instant, SystemTime};

use ::sentry::protocol::{Envelope, Event};
use ::sentry::types::Dsn;
use ::sentry::{Client, ClientOptions};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Response, StatusCode};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Error;
use super::event::{self, AlertSample};
use super::state::{AlertKey, SharedAlerts};
use super::throttle::AlertBatch;
use crate::job::duration::retry_after;
use crate::job::text::innermost_cause;

/// A healthy ingest completes a TCP and TLS handshake in well under a second.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Limit on a whole request: an event has a few kilobytes, so a slower server is hanging.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Concurrent deliveries: dead letters of one minute rarely have more fingerprints than this.
const MAX_CONCURRENT_DELIVERIES: usize = 8;
/// Wait after a 429 without a time, and the upper bound for one with a time.
const RATE_LIMIT_DEFAULT_AND_MAX: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));

/// How long the sender sleeps when nothing is pending; a new alert or a finished delivery wakes it sooner.
const IDLE: Duration = Duration::from_secs(3600);

/// Client and event builder for one DSN.
pub(super) struct Sender {
    http: reqwest::Client,
    url: String,
    auth: String,
    /// Completes events (id, release, environment, host name, contexts). Has no transport and is bound to no
    /// hub.
    client: Client,
}

/// How one delivery ended.
struct DeliveryResult {
    batch: AlertBatch<AlertKey, AlertSample>,
    response: IngestResponse,
}

enum IngestResponse {
    Accepted,
    Failed(String),
    RateLimited(Duration),
}

impl Sender {
    pub(super) fn new(dsn: Dsn, release: &str, environment: &str) -> Result<Self, Error> {
        // The first installation wins; ring is the only provider in this program.
        rustls::crypto::ring::default_provider().install_default().unwrap_or_default();
        let mut http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TOTAL_TIMEOUT)
            .redirect(Policy::none())
            .no_proxy();
        if dsn.scheme() == ::sentry::types::Scheme::Http {
            // TLS is not used here: a machine without root certificates can still send alerts.
            http = http.tls_certs_only([]);
        }
        let options = ClientOptions::new()
            .release(release.to_owned())
            .environment(environment.to_owned())
            .default_integrations(false)
            .add_integration(::sentry::integrations::contexts::ContextIntegration::new())
            .send_default_pii(false);
        let client = Client::from(options);
        let auth = dsn.to_auth(Some(&client.options().user_agent)).to_string();
        Ok(Self { http: http.build()?, url: dsn.envelope_api_url().to_string(), auth, client })
    }

    /// The request for one batch; `None` if the event cannot be serialized.
    fn request(&self, batch: &AlertBatch<AlertKey, AlertSample>) -> Option<reqwest::RequestBuilder> {
        self.post(event::build(&batch.latest, batch.count, batch.since.elapsed().as_secs()))
    }

    /// The request for one event; `None` if it cannot be serialized.
    pub(super) fn post(&self, event: Event<'static>) -> Option<reqwest::RequestBuilder> {
        let envelope = Envelope::from(self.client.prepare_event(event, None)?);
        let mut body = Vec::new();
        envelope.to_writer(&mut body).ok()?;
        let request = self.http.post(&self.url).header("X-Sentry-Auth", &self.auth);
        Some(request.header("Content-Type", "application/x-sentry-envelope").body(body))
    }

    /// Starts the delivery of one batch.
    fn send(&self, batch: AlertBatch<AlertKey, AlertSample>, deliveries: &mut JoinSet<DeliveryResult>) {
        let request = self.request(&batch);
        deliveries.spawn(async move {
            let response = match request {
                None => IngestResponse::Failed("the event cannot be serialized".to_owned()),
                Some(request) => match request.send().await {
                    Ok(response) => classify(&response),
                    Err(e) => IngestResponse::Failed(innermost_cause(&e.without_url())),
                },
            };
            DeliveryResult { batch, response }
        });
    }
}

fn classify(response: &Response) -> IngestResponse {
    let status = response.status();
    if status.is_success() {
        IngestResponse::Accepted
    } else if status == StatusCode::TOO_MANY_REQUESTS {
        IngestResponse::RateLimited(rate_limit_duration(response.headers()))
    } else {
        IngestResponse::Failed(format!("Sentry answered {status}"))
    }
}

/// How long a 429 asks us to wait: the longest limit that applies to errors, else `Retry-After`, bounded.
fn rate_limit_duration(headers: &HeaderMap) -> Duration {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    // `<seconds>:<category>;<category>:<scope>, …`; no category means all of them.
    let limit = |group: &str| {
        let (seconds, rest) = group.trim().split_once(':')?;
        let categories = rest.split(':').next()?;
        let ours = categories.is_empty() || categories.split(';').any(|c| c == "error");
        if ours { seconds.parse::<u64>().ok() } else { None }
    };
    let limits = text("x-sentry-rate-limits").and_then(|all| all.split(',').filter_map(limit).max());
    let wait = limits
        .map(Duration::from_secs)
        .or_else(|| retry_after(text(RETRY_AFTER.as_str())?, SystemTime::now()));
    wait.unwrap_or(RATE_LIMIT_DEFAULT_AND_MAX.0).clamp(Duration::from_secs(1), RATE_LIMIT_DEFAULT_AND_MAX.1)
}

/// Sends what is due until `stop`, then once everything pending; ends when the last response is in. The
/// duration is not limited here: the caller abandons the sender at its deadline.
pub(super) async fn run(sender: Sender, shared: &SharedAlerts, stop: CancellationToken) {
    let mut deliveries = JoinSet::new();
    let mut rate_limited_until = Instant::now();
    while !stop.is_cancelled() {
        let pause = send_due(&sender, shared, &mut deliveries, rate_limited_until);
        tokio::select! {
            () = stop.cancelled() => {}
            () = shared.noted.notified() => {}
            () = sleep(pause) => {}
            Some(Ok(result)) = deliveries.join_next() => rate_limited_until = rate_limited_until.max(record_result(result, shared)),
        }
    }
    let last = if rate_limited_until > Instant::now() { Vec::new() } else { shared.take_all() };
    for batch in last {
        if deliveries.len() >= MAX_CONCURRENT_DELIVERIES
            && let Some(Ok(result)) = deliveries.join_next().await
        {
            record_result(result, shared);
        }
        sender.send(batch, &mut deliveries);
    }
    while let Some(result) = deliveries.join_next().await {
        if let Ok(result) = result {
            record_result(result, shared);
        }
    }
}

/// Starts every delivery that is due, up to the concurrency limit; returns how long until the next is due.
fn send_due(
    sender: &Sender,
    shared: &SharedAlerts,
    deliveries: &mut JoinSet<DeliveryResult>,
    rate_limited_until: Instant,
) -> Duration {
    let now = Instant::now();
    if rate_limited_until > now {
        return rate_limited_until - now;
    }
    while deliveries.len() < MAX_CONCURRENT_DELIVERIES {
        match shared.take_due(now) {
            Ok(batch) => sender.send(batch, deliveries),
            Err(pause) => return pause.unwrap_or(IDLE),
        }
    }
    IDLE // until one of them ends
}

/// Records how a delivery ended; returns until when Sentry asked us to wait.
fn record_result(result: DeliveryResult, shared: &SharedAlerts) -> Instant {
    let DeliveryResult { batch, response } = result;
    let (why, quiet) = match response {
        IngestResponse::Accepted => {
            shared.record_delivered(&batch);
            return Instant::now();
        }
        IngestResponse::Failed(why) => (why, Duration::ZERO),
        IngestResponse::RateLimited(time) => {
            (format!("Sentry's rate limit asks us to wait {} s", time.as_secs()), time)
        }
    };
    tracing::warn!(why, stands_for = batch.count, "an alert was not delivered; retrying later");
    shared.record_failed(batch);
    Instant::now() + quiet
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn a_limit_is_believed_within_bounds() {
        let cases = [
            (None, None, 60),
            (None, Some("7"), 7),
            (None, Some("soon"), 60),
            (None, Some("99999999999"), 3600),
            (None, Some("0"), 1),
            (Some("20:error:organization"), Some("7"), 20),
            (Some("20:transaction;error:key:quota, 30::project"), None, 30),
            (Some("20:transaction:key"), Some("7"), 7),
            (Some("nonsense"), None, 60),
        ];
        for (limits, after, want) in cases {
            let mut headers = HeaderMap::new();
            for (name, value) in [("x-sentry-rate-limits", limits), ("retry-after", after)] {
                value.and_then(|value| headers.insert(name, HeaderValue::from_static(value)));
            }
            assert_eq!(rate_limit_duration(&headers), Duration::from_secs(want), "{limits:?} {after:?}");
        }
    }
}
