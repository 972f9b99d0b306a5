//! Sends what the gate lets out: one envelope per event, with deadlines, in a thread of its own.
//!
//! It decides nothing about what is told, and learns of each envelope whether Sentry took it.
//!
//! Invariant: what was not taken goes back into the gate; no request outlives its timeout, and at most
//! [`MAX_IN_FLIGHT`] run at once.
//!
//! # Why
//! A delivery that timed out may have arrived: it is told again, because an alert twice is better than none.

use std::time::{Duration, Instant, SystemTime};

use ::sentry::protocol::Envelope;
use ::sentry::types::Dsn;
use ::sentry::{Client, ClientOptions};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Response, StatusCode};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Error;
use super::event::{self, Sample};
use super::gate::Telling;
use super::state::{Key, Shared};
use crate::job::duration::retry_after;
use crate::job::text::innermost_cause;

/// A healthy ingest answers a TCP and TLS handshake in well under a second.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The whole request: an event has a few kilobytes; who needs longer is hanging.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Envelopes on their way at once: dead letters of one minute rarely have more fingerprints than this.
const MAX_IN_FLIGHT: usize = 8;
/// How long a 429 without a time means, and the longest that one with a time is believed.
const LIMITED: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));

/// How long the sender sleeps when nothing waits; whatever is noted or lands wakes it sooner.
const IDLE: Duration = Duration::from_secs(3600);

/// What it takes to send one event.
pub(super) struct Sender {
    http: reqwest::Client,
    url: String,
    auth: String,
    /// Completes events (id, release, environment, host name, contexts). Has no transport and is bound to no hub.
    client: Client,
}

/// How one delivery ended.
struct Landed {
    telling: Telling<Key, Sample>,
    answer: Answer,
}

enum Answer {
    Taken,
    Failed(String),
    Limited(Duration),
}

impl Sender {
    pub(super) fn new(dsn: Dsn, release: &str, environment: &str) -> Result<Self, Error> {
        // Whoever comes first installs it; ring is the only provider in the house.
        rustls::crypto::ring::default_provider().install_default().unwrap_or_default();
        let mut http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TOTAL_TIMEOUT)
            .redirect(Policy::none())
            .no_proxy();
        if dsn.scheme() == ::sentry::types::Scheme::Http {
            // No TLS will happen: a machine without root certificates can still alert.
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

    /// The request for one telling; `None` where the event could not be written down.
    fn request(&self, telling: &Telling<Key, Sample>) -> Option<reqwest::RequestBuilder> {
        let event = event::build(&telling.latest, telling.count, telling.since.elapsed().as_secs());
        let envelope = Envelope::from(self.client.prepare_event(event, None)?);
        let mut body = Vec::new();
        envelope.to_writer(&mut body).ok()?;
        let request = self.http.post(&self.url).header("X-Sentry-Auth", &self.auth);
        Some(request.header("Content-Type", "application/x-sentry-envelope").body(body))
    }

    /// Starts one delivery.
    fn send(&self, telling: Telling<Key, Sample>, flights: &mut JoinSet<Landed>) {
        let request = self.request(&telling);
        flights.spawn(async move {
            let answer = match request {
                None => Answer::Failed("the event cannot be written down".to_owned()),
                Some(request) => match request.send().await {
                    Ok(response) => judge(&response),
                    Err(e) => Answer::Failed(innermost_cause(&e.without_url())),
                },
            };
            Landed { telling, answer }
        });
    }
}

/// What Sentry's answer means.
fn judge(response: &Response) -> Answer {
    let status = response.status();
    if status.is_success() {
        Answer::Taken
    } else if status == StatusCode::TOO_MANY_REQUESTS {
        Answer::Limited(limited_for(response.headers()))
    } else {
        Answer::Failed(format!("Sentry answered {status}"))
    }
}

/// How long a 429 asks to be left alone: the longest limit that touches errors, else `Retry-After`, bounded.
fn limited_for(headers: &HeaderMap) -> Duration {
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
    wait.unwrap_or(LIMITED.0).clamp(Duration::from_secs(1), LIMITED.1)
}

/// Sends what is due until `stop`, then once everything that waits; ends when the last answer is in. How long that
/// may take is not decided here: whoever stops it leaves it behind at the deadline.
pub(super) async fn run(sender: Sender, shared: &Shared, stop: CancellationToken) {
    let mut flights = JoinSet::new();
    let mut quiet_until = Instant::now();
    while !stop.is_cancelled() {
        let pause = send_due(&sender, shared, &mut flights, quiet_until);
        tokio::select! {
            () = stop.cancelled() => {}
            () = shared.noted.notified() => {}
            () = sleep(pause) => {}
            Some(Ok(landed)) = flights.join_next() => quiet_until = quiet_until.max(land(landed, shared)),
        }
    }
    let last = if quiet_until > Instant::now() { Vec::new() } else { shared.take_all() };
    for telling in last {
        if flights.len() >= MAX_IN_FLIGHT
            && let Some(Ok(landed)) = flights.join_next().await
        {
            land(landed, shared);
        }
        sender.send(telling, &mut flights);
    }
    while let Some(landed) = flights.join_next().await {
        if let Ok(landed) = landed {
            land(landed, shared);
        }
    }
}

/// Starts every delivery that is due and has room; returns how long nothing else will be due.
fn send_due(
    sender: &Sender,
    shared: &Shared,
    flights: &mut JoinSet<Landed>,
    quiet_until: Instant,
) -> Duration {
    let now = Instant::now();
    if quiet_until > now {
        return quiet_until - now;
    }
    while flights.len() < MAX_IN_FLIGHT {
        match shared.take_due(now) {
            Ok(telling) => sender.send(telling, flights),
            Err(pause) => return pause.unwrap_or(IDLE),
        }
    }
    IDLE // until one of them lands
}

/// Books how a delivery ended; returns until when Sentry wants to be left alone.
fn land(landed: Landed, shared: &Shared) -> Instant {
    let Landed { telling, answer } = landed;
    let (why, quiet) = match answer {
        Answer::Taken => {
            shared.taken(&telling);
            return Instant::now();
        }
        Answer::Failed(why) => (why, Duration::ZERO),
        Answer::Limited(time) => (format!("Sentry asks for {} s of silence", time.as_secs()), time),
    };
    tracing::warn!(why, stands_for = telling.count, "an alert was not delivered: it is told again later");
    shared.given_back(telling);
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
            assert_eq!(limited_for(&headers), Duration::from_secs(want), "{limits:?} {after:?}");
        }
    }
}
