//! Sends what is due of this process's outages, and what the worker reports for the whole queue: one envelope per event,
//! with timeouts, in a separate thread.
//!
//! It does not decide what is reported, and determines for each envelope whether Sentry accepted it.
//!
//! Invariant: the owner of what was not accepted learns it; no request outlives its timeout, and at most
//! [`MAX_CONCURRENT_DELIVERIES`] run at once.
//!
//! # Why
//! A delivery that timed out may have arrived: it is sent again, because a duplicate alert is better than
//! none.

use std::time::{Duration, Instant, SystemTime};

use ::sentry::protocol::Envelope;
use ::sentry::types::Dsn;
use ::sentry::{Client, ClientOptions};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Response, StatusCode};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::check_in::Monitor;
use super::event::{self, Alert};
use super::outages::OutageEvent;
use super::state::SharedAlerts;
use super::{AlertSource, Error};
use crate::job::duration::retry_after;
use crate::job::text::innermost_cause;

/// A healthy ingest completes a TCP and TLS handshake in well under a second.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Limit on a whole request: an event has a few kilobytes, so a slower server is hanging.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Concurrent deliveries: the outages of one process at one time are fewer.
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
    environment: String,
    source: AlertSource,
}

/// How the delivery of an event ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Sentry has it.
    Accepted,
    /// It has to be sent again, after this time at the earliest.
    Failed {
        /// What Sentry's rate limit asks for; zero without one.
        retry_after: Duration,
    },
    /// Sentry, or what is in front of it, does not take this event, or none of ours.
    Refused {
        /// The HTTP status: no 5xx and neither 408 nor 429.
        status: u16,
    },
}

impl Delivery {
    /// The status by which an event was refused.
    pub fn status(self) -> Option<u16> {
        match self {
            Self::Refused { status } => Some(status),
            Self::Accepted | Self::Failed { .. } => None,
        }
    }

    /// True for a status that speaks of our credentials, and so of every event.
    pub fn is_of_credentials(status: u16) -> bool {
        status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN
    }
}

/// An envelope to send, and the channel for how its delivery ended.
#[derive(Debug)]
pub(super) struct DeliveryRequest {
    pub(super) envelope: Payload,
    pub(super) ended: oneshot::Sender<Delivery>,
}

/// What an envelope has in it.
#[derive(Debug)]
pub(super) enum Payload {
    Alert(Box<Alert>),
    CheckIn { monitor: Monitor, queue: String },
}

impl Payload {
    /// How many occurrences an event stands for; `None` for a check-in, which is no event.
    fn count(&self) -> Option<u64> {
        match self {
            Self::Alert(alert) => Some(alert.count),
            Self::CheckIn { .. } => None,
        }
    }
}

/// Who owns a delivery.
enum Owner {
    Outage(OutageEvent),
    Caller(DeliveryRequest),
}

/// How one delivery ended.
struct DeliveryResult {
    owner: Owner,
    response: IngestResponse,
}

enum IngestResponse {
    Accepted,
    Failed(String),
    RateLimited(Duration),
    Refused(StatusCode),
}

impl Sender {
    pub(super) fn new(
        dsn: Dsn,
        release: &str,
        environment: &str,
        source: AlertSource,
    ) -> Result<Self, Error> {
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
        let (url, environment) = (dsn.envelope_api_url().to_string(), environment.to_owned());
        Ok(Self { http: http.build()?, url, auth, client, environment, source })
    }

    /// The request for one owner's envelope; `None` if it cannot be serialized.
    fn request(&self, owner: &Owner) -> Option<reqwest::RequestBuilder> {
        match owner {
            Owner::Outage(outage) => self.alert_request(&outage.to_alert(&self.source)),
            Owner::Caller(DeliveryRequest { envelope: Payload::Alert(alert), .. }) => {
                self.alert_request(alert)
            }
            Owner::Caller(DeliveryRequest { envelope: Payload::CheckIn { monitor, queue }, .. }) => {
                let mut envelope = Envelope::new();
                envelope.add_item(monitor.check_in(queue, &self.environment));
                self.post(&envelope)
            }
        }
    }

    /// The request for one alert; `None` if it cannot be serialized.
    pub(super) fn alert_request(&self, alert: &Alert) -> Option<reqwest::RequestBuilder> {
        self.post(&Envelope::from(self.client.prepare_event(event::build(alert), None)?))
    }

    fn post(&self, envelope: &Envelope) -> Option<reqwest::RequestBuilder> {
        let mut body = Vec::new();
        envelope.to_writer(&mut body).ok()?;
        let request = self.http.post(&self.url).header("X-Sentry-Auth", &self.auth);
        Some(request.header("Content-Type", "application/x-sentry-envelope").body(body))
    }

    /// Starts one delivery.
    fn send(&self, owner: Owner, deliveries: &mut JoinSet<DeliveryResult>) {
        let request = self.request(&owner);
        deliveries.spawn(async move {
            let response = match request {
                None => IngestResponse::Failed("the event cannot be serialized".to_owned()),
                Some(request) => match request.send().await {
                    Ok(response) => classify(&response),
                    Err(e) => IngestResponse::Failed(innermost_cause(&e.without_url())),
                },
            };
            DeliveryResult { owner, response }
        });
    }
}

fn classify(response: &Response) -> IngestResponse {
    let status = response.status();
    if status.is_success() {
        IngestResponse::Accepted
    } else if status == StatusCode::TOO_MANY_REQUESTS {
        IngestResponse::RateLimited(rate_limit_duration(response.headers()))
    } else if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT {
        IngestResponse::Failed(format!("Sentry answered {status}"))
    } else {
        IngestResponse::Refused(status)
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

/// Sends what is due and what is requested until `stop`, then once everything pending; ends when the last response is
/// in. The duration is not limited here: the caller abandons the sender at its deadline.
pub(super) async fn run(
    sender: Sender,
    shared: &SharedAlerts,
    mut requests: mpsc::Receiver<DeliveryRequest>,
    stop: CancellationToken,
) {
    let mut deliveries = JoinSet::new();
    let mut limited_until = Instant::now();
    while !stop.is_cancelled() {
        let pause = send_due(&sender, shared, &mut deliveries, limited_until);
        tokio::select! {
            () = stop.cancelled() => {}
            () = shared.noted.notified() => {}
            () = sleep(pause) => {}
            // A limit on errors does not apply to check-ins.
            Some(request) = requests.recv() => match request.held_back(limited_until) {
                Duration::ZERO => sender.send(Owner::Caller(request), &mut deliveries),
                retry_after => request.end(Delivery::Failed { retry_after }),
            },
            Some(Ok(result)) = deliveries.join_next() => limited_until = limited_until.max(record_result(result, shared)),
        }
    }
    // The end of an outage follows its beginning, so each answer may make another event due; after a failure none is.
    let failed_before = shared.counts().failed;
    loop {
        let refused = limited_until > Instant::now() || shared.counts().failed > failed_before;
        let may_send = !refused && deliveries.len() < MAX_CONCURRENT_DELIVERIES;
        if let Some(event) = may_send.then(|| shared.take_any(Instant::now())).flatten() {
            sender.send(Owner::Outage(event), &mut deliveries);
            continue;
        }
        match deliveries.join_next().await {
            Some(Ok(result)) => limited_until = limited_until.max(record_result(result, shared)),
            Some(Err(_)) => {} // it panicked: what it stood for stays pending
            None => break,
        }
    }
}

/// Starts every delivery that is due, up to the concurrency limit; returns how long until the next is due.
fn send_due(
    sender: &Sender,
    shared: &SharedAlerts,
    deliveries: &mut JoinSet<DeliveryResult>,
    limited_until: Instant,
) -> Duration {
    let now = Instant::now();
    if limited_until > now {
        return limited_until - now;
    }
    while deliveries.len() < MAX_CONCURRENT_DELIVERIES {
        match shared.take_due(now) {
            Ok(event) => sender.send(Owner::Outage(event), deliveries),
            Err(pause) => return pause.unwrap_or(IDLE),
        }
    }
    IDLE // until one of them ends
}

/// Records how a delivery ended; returns until when Sentry asked us to wait.
fn record_result(result: DeliveryResult, shared: &SharedAlerts) -> Instant {
    let DeliveryResult { owner, response } = result;
    let (why, retry_after) = match response {
        IngestResponse::Accepted => {
            owner.end(shared, Delivery::Accepted);
            return Instant::now();
        }
        IngestResponse::Failed(why) => (why, Duration::ZERO),
        IngestResponse::RateLimited(time) => {
            (format!("Sentry's rate limit asks us to wait {} s", time.as_secs()), time)
        }
        IngestResponse::Refused(status) => {
            match owner.count() {
                // Said once, by who found that all are rejected.
                Some(stands_for) if !shared.is_rejected() => {
                    tracing::warn!(%status, stands_for, "an alert was refused");
                }
                Some(_) | None => {}
            }
            owner.end(shared, Delivery::Refused { status: status.as_u16() });
            return Instant::now();
        }
    };
    let Some(stands_for) = owner.count() else {
        // The next one follows within the minute, and a limit on check-ins does not apply to events.
        tracing::debug!(why, "a check-in was not delivered");
        return Instant::now();
    };
    tracing::warn!(why, stands_for, "an alert was not delivered; retrying later");
    owner.end(shared, Delivery::Failed { retry_after });
    Instant::now() + retry_after
}

impl Owner {
    fn count(&self) -> Option<u64> {
        match self {
            Self::Outage(event) => Some(event.count),
            Self::Caller(request) => request.envelope.count(),
        }
    }

    fn end(self, shared: &SharedAlerts, delivery: Delivery) {
        match self {
            Self::Outage(event) => shared.record_outage_event(&event, delivery),
            Self::Caller(request) => {
                if let Some(count) = request.envelope.count() {
                    shared.record_delivery(count, delivery == Delivery::Accepted);
                }
                request.end(delivery);
            }
        }
    }
}

impl DeliveryRequest {
    /// How long Sentry still asks for no more of these.
    fn held_back(&self, limited_until: Instant) -> Duration {
        match self.envelope.count() {
            Some(_) => limited_until.saturating_duration_since(Instant::now()),
            None => Duration::ZERO,
        }
    }

    fn end(self, delivery: Delivery) {
        let _ = self.ended.send(delivery); // a caller that gave up waiting sends it again
    }
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
