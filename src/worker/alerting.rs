//! Reports to Sentry what one worker reports for all: dead letters by group, storms, outages.
//!
//! A worker claims one event at a time from Redis, sends it, and removes it there once Sentry has accepted it. What an
//! event says is in `alert_words.rs`.
//!
//! Invariant: a claimed event is settled by the task that sends it, also where the loop around it is stopped; so an
//! event is sent twice only where its worker died, or lost Redis, after Sentry had accepted it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, warn};

use super::Shared;
use super::alert_words;
use crate::queue::{AlertClaim, AlertOutcome};
use crate::telemetry::sentry::Delivery;

/// How long a claim lasts: a request to Sentry takes 5 s at most.
const CLAIM_LEASE: Duration = Duration::from_secs(10);
/// Most events that are reported without a pause; there are fewer groups.
const ROUND_MAX: usize = 100;
/// How much rarer a worker asks that is not the looker and has buried nothing: the looker asks for all.
const ASKS_RARELY: u32 = 6;
/// The longest time that an event waits after Sentry has refused it, and the part of a window that it waits.
const RETRY_MAX: Duration = Duration::from_secs(60);
const RETRY_IN_WINDOW: u32 = 4;
/// The shortest time between two questions, however much is buried.
const ASKS_AFTER: Duration = Duration::from_secs(1);

/// Reports what is due, as long as the worker runs.
pub(super) async fn report_for_all(shared: Arc<Shared>) {
    if !shared.worker.alerts.is_enabled() {
        return std::future::pending().await;
    }
    let every = shared.worker.config.heartbeat;
    loop {
        let asked = Instant::now();
        let wait = report_due(Arc::clone(&shared), false).await;
        sleep(wait).await;
        let pause = if shared.looker.is_looker() { every } else { every * ASKS_RARELY };
        tokio::select! {
            () = sleep(pause) => {}
            () = shared.observer.something_to_report() => sleep_until(asked + ASKS_AFTER.min(every)).await,
        }
    }
}

/// Reports what is due; returns how long Sentry asks to be left alone. `leaving`: this worker has left the queue, and
/// where it was the last one everything is due.
pub(super) async fn report_due(shared: Arc<Shared>, leaving: bool) -> Duration {
    // A task of its own: it is not cancelled between Sentry's answer and the call that removes the event.
    let reporting = tokio::spawn(async move { shared.report_round(leaving).await });
    reporting.await.unwrap_or_default()
}

impl Shared {
    async fn report_round(&self, leaving: bool) -> Duration {
        let _one_at_a_time = self.reporting.lock().await;
        for _ in 0..ROUND_MAX {
            match self.report_one(leaving).await {
                Reported::Nothing => break,
                Reported::Settled => {}
                Reported::Later(wait) => return wait,
            }
        }
        Duration::ZERO
    }

    async fn report_one(&self, leaving: bool) -> Reported {
        let (queue, alerts) = (&self.worker.queue, &self.worker.alerts);
        let claim = AlertClaim { window: alerts.window(), lease: CLAIM_LEASE, leaving };
        let claimed = match queue.claim_alert(&self.worker.id, claim).await {
            Ok(claimed) => claimed,
            Err(e) => {
                debug!(error = %e, "no alert was claimed: asking again");
                return Reported::Nothing;
            }
        };
        alerts.set_queue_pending(claimed.pending);
        let Some(alert) = claimed.alert else { return Reported::Nothing };
        let form = Form::after(alert.refusals);
        let event = alert_words::of(&alert, queue);
        let sent = match form {
            Form::Whole => event.clone(),
            Form::Reduced => event.clone().reduced(),
            Form::Bare => alert_words::bare(&event, queue),
        };
        let delivery = alerts.deliver(sent).await;
        let outcome = outcome(delivery, form, alerts.counts().rejected, alerts.window() / RETRY_IN_WINDOW);
        match (form, outcome) {
            (_, AlertOutcome::GivenUp) => alerts.give_up(&event, delivery.status()),
            (Form::Bare, AlertOutcome::Accepted) => alerts.give_up(&event, None),
            (_, AlertOutcome::Rejected(_, status)) => alerts.reject(status),
            (_, AlertOutcome::Accepted | AlertOutcome::Failed(_) | AlertOutcome::Refused(_)) => {}
        }
        // Repeated by the worker that claims it next, where this fails: Sentry takes one event of an id.
        if let Err(e) = queue.settle_alert(alert.event, outcome).await {
            warn!(error = %e, event = %alert.event, "Redis was not told that an alert was sent: it may be sent again");
        }
        match (outcome, delivery) {
            (AlertOutcome::Accepted | AlertOutcome::GivenUp, _) => Reported::Settled,
            (_, Delivery::Failed { retry_after }) => Reported::Later(retry_after),
            (_, Delivery::Accepted | Delivery::Refused { .. }) => Reported::Later(Duration::ZERO),
        }
    }
}

enum Reported {
    Nothing,
    Settled,
    /// Not accepted: tried again after this time at the earliest.
    Later(Duration),
}

/// How often an event is sent in one form before it is sent in the next one: a proxy may refuse one that it passes a
/// moment later.
const TRIES_PER_FORM: u32 = 3;

/// How much of an event is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Whole,
    /// Without what comes from jobs and pages.
    Reduced,
    /// A sentence of ours that says that there is one which is refused. Who refuses this refuses all.
    Bare,
}

impl Form {
    fn after(refusals: u32) -> Self {
        match refusals / TRIES_PER_FORM {
            0 => Self::Whole,
            1 => Self::Reduced,
            _more => Self::Bare,
        }
    }
}

/// What a delivery means for its event, which is tried again after a part of the window.
///
/// # Why
/// An event that is refused for what is in it would hold back all others for ever. One that is refused for our
/// credentials is as good as any other, and is kept; whole, once it is known that `all_rejected` are.
fn outcome(delivery: Delivery, form: Form, all_rejected: bool, retry: Duration) -> AlertOutcome {
    let retry = retry.min(RETRY_MAX);
    match delivery {
        Delivery::Accepted => AlertOutcome::Accepted,
        Delivery::Failed { retry_after } => AlertOutcome::Failed(retry.max(retry_after).min(RETRY_MAX)),
        Delivery::Refused { status } => match (form, Delivery::is_of_credentials(status)) {
            (_, true) if all_rejected => AlertOutcome::Rejected(retry, status),
            (Form::Whole | Form::Reduced, _) => AlertOutcome::Refused(retry),
            (Form::Bare, true) => AlertOutcome::Rejected(retry, status),
            (Form::Bare, false) => AlertOutcome::GivenUp,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_gets_shorter_and_is_given_up_and_what_is_not_its_fault_is_kept() {
        const RETRY: Duration = Duration::from_secs(15);
        let refused = |status, form| outcome(Delivery::Refused { status }, form, false, RETRY);
        assert_eq!([0, 2, 3, 5, 6, 99].map(Form::after), {
            use Form::{Bare, Reduced, Whole};
            [Whole, Whole, Reduced, Reduced, Bare, Bare]
        });
        for status in [400, 401, 403, 413, 301] {
            for form in [Form::Whole, Form::Reduced] {
                assert_eq!(refused(status, form), AlertOutcome::Refused(RETRY));
            }
        }
        assert_eq!(refused(413, Form::Bare), AlertOutcome::GivenUp);
        assert_eq!(refused(403, Form::Bare), AlertOutcome::Rejected(RETRY, 403));
        let known = outcome(Delivery::Refused { status: 403 }, Form::Whole, true, RETRY);
        assert_eq!(known, AlertOutcome::Rejected(RETRY, 403), "it stays whole until the DSN is mended");
        let busy = Delivery::Failed { retry_after: Duration::from_secs(3600) };
        for form in [Form::Whole, Form::Reduced, Form::Bare] {
            assert_eq!(outcome(busy, form, true, RETRY), AlertOutcome::Failed(RETRY_MAX));
        }
    }
}
