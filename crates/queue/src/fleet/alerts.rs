//! What is to be reported of the whole queue, by whichever worker claims it: dead letters by group, storms, outages.
//!
//! Dead letters are counted where they are buried (`lua/common.lua`), so no count is lost with a worker. One event at a
//! time is claimed, under a lease, and removed once it was accepted.
//!
//! Invariant: a letter is in one group, in the claimed event, or in events that were accepted. When the worker that
//! has claimed an event dies, another claims the same event, under the same id.
//!
//! # Why
//! Not a lock by fingerprint (`SET NX EX`): the worker that has it would hold counts that die with it.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use wm_job::duration::millis;
use wm_job::verdict::DeadLetterReason;

use crate::Queue;
use crate::error::Error;
use crate::ids::WorkerId;
use crate::inspect::parts::{Reads, UnreadableKey};
use crate::redis::scripts;
use crate::role::WorkerHandle;

/// How a worker claims alerts.
#[derive(Debug, Clone, Copy)]
pub struct AlertClaim {
    /// A group is claimed once in this time.
    pub window: Duration,
    /// How long the claim lasts: longer than one delivery may take.
    pub lease: Duration,
    /// The worker has left the queue: if it was the last one, nothing waits for its window.
    pub leaving: bool,
}

/// What a claim found.
#[derive(Debug, Clone, PartialEq)]
pub struct ClaimedAlert {
    /// Letters that no accepted event stands for yet.
    pub pending: u64,
    /// What this worker is to report now, if anything.
    pub alert: Option<SharedAlert>,
}

/// What one event is to say.
#[derive(Debug, Clone, PartialEq)]
pub struct SharedAlert {
    /// Id of the event; the same for every worker that reports it.
    pub event: Uuid,
    /// How often it was refused, by whichever worker sent it.
    pub refusals: u32,
    /// What it is about.
    pub subject: AlertSubject,
}

/// What an event is about.
#[derive(Debug, Clone, PartialEq)]
pub enum AlertSubject {
    /// Dead letters of one kind and stage.
    Letters(Box<LetterGroup>),
    /// More dead letters than one reads one by one.
    Storm(Box<Storm>),
    /// An outage.
    Outage(SharedOutage),
}

/// How many letters an event stands for, and where they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LetterCounts {
    /// All of them.
    pub count: u64,
    /// How long ago the first one was buried.
    pub since: Duration,
    /// Id of the first one.
    pub first: String,
    /// Id of the last one.
    pub last: String,
    /// Hosts with their letters, most first; at most 50.
    pub hosts: Vec<(String, u64)>,
    /// Letters at further hosts.
    pub elsewhere: u64,
}

/// Dead letters of one kind and stage.
#[derive(Debug, Clone, PartialEq)]
pub struct LetterGroup {
    /// Their kind, by its label: another build may know more kinds.
    pub kind: String,
    /// The stage that they failed in, by its label.
    pub stage: String,
    /// How many.
    pub counts: LetterCounts,
    /// The evidence of the first one, where it is not too long.
    pub reason: Option<DeadLetterReason>,
    /// The pair of the first one, `<from>..<to>`; empty when its payload was not a job.
    pub pair: String,
    /// The `traceparent` of the first one; empty when it has none.
    pub traceparent: String,
}

/// More dead letters than one reads one by one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storm {
    /// Whether it begins, lasts or is over.
    pub state: AlertState,
    /// How long ago it began.
    pub since: Duration,
    /// Letters that no event has reported before.
    pub counts: LetterCounts,
    /// The same by kind and stage, most first.
    pub kinds: Vec<(String, u64)>,
}

/// An outage that workers share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedOutage {
    /// Its label.
    pub what: String,
    /// Whether it begins, lasts or is over.
    pub state: AlertState,
    /// How long ago it began.
    pub since: Duration,
    /// What failed.
    pub detail: String,
}

/// Where something that lasts is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlertState {
    /// It was not reported before.
    Begins,
    /// It was, and lasts.
    Lasts,
    /// It is over.
    Over,
}

/// How the delivery of a claimed event ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlertOutcome {
    /// It was accepted.
    Accepted,
    /// It is refused in every form, and not sent again.
    GivenUp,
    /// The other end is away or busy: anybody tries again after this time.
    Failed(Duration),
    /// This event was refused: anybody tries again after this time, and it is counted.
    Refused(Duration),
    /// All that is sent is refused, with this HTTP status: anybody tries again after this time.
    Rejected(Duration, u16),
}

/// Since when, and with which HTTP status, everything that is reported is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertsRejected {
    /// When a worker noticed it first, in milliseconds since 1970 by the clock of Redis.
    pub since_ms: u64,
    /// The status.
    pub status: u16,
}

impl Queue {
    /// Whether everything that is reported is refused.
    pub(crate) async fn alerts_rejected(
        &self,
        unreadable: &mut Vec<UnreadableKey>,
    ) -> Result<Option<AlertsRejected>, Error> {
        let mut reads = Reads::default();
        reads.add(&["HMGET"], &self.inner.keys.alerts(), &["rejected_ms", "rejected_status"]);
        let mut replies = self.read(reads).await?;
        let fields: Vec<Option<u64>> = replies.next();
        unreadable.append(&mut replies.unreadable);
        let mut fields = fields.into_iter().flatten();
        let (since_ms, status) = (fields.next(), fields.next().and_then(|status| u16::try_from(status).ok()));
        Ok(since_ms.zip(status).map(|(since_ms, status)| AlertsRejected { since_ms, status }))
    }
}

impl WorkerHandle {
    /// Claims what is to be reported now.
    ///
    /// # Errors
    /// Those of Redis; what was claimed by then is claimed again when its lease has ended.
    pub async fn claim_alert(&self, worker: &WorkerId, claim: AlertClaim) -> Result<ClaimedAlert, Error> {
        let keys = &self.inner.keys;
        let mut reply = self
            .call(&scripts::CLAIM_ALERT)
            .key(keys.alerts())
            .key(keys.alerts_due())
            .key(keys.alerts_claimed())
            .key(keys.workers())
            .arg(worker.as_str())
            .arg(Uuid::new_v4().to_string())
            .arg(millis(claim.window))
            .arg(millis(claim.lease))
            .arg(u8::from(claim.leaving))
            .reply()
            .await?;
        let pending = reply.number()?;
        let mut fields = HashMap::new();
        while let Some(name) = reply.next() {
            fields.insert(name, reply.text()?);
        }
        let alert = match fields.is_empty() {
            true => None,
            false => Some(AlertFields(fields).alert().map_err(|what| reply.unexpected(&what))?),
        };
        Ok(ClaimedAlert { pending, alert })
    }

    /// Removes a claimed event that was accepted or given up; otherwise lets any worker claim it again later.
    ///
    /// # Errors
    /// Those of Redis; the event is then claimed again when its lease has ended.
    pub async fn settle_alert(&self, event: Uuid, outcome: AlertOutcome) -> Result<(), Error> {
        let (label, retry_after, status) = match outcome {
            AlertOutcome::Accepted => ("accepted", Duration::ZERO, String::new()),
            AlertOutcome::GivenUp => ("given_up", Duration::ZERO, String::new()),
            AlertOutcome::Failed(after) => ("failed", after, String::new()),
            AlertOutcome::Refused(after) => ("refused", after, String::new()),
            AlertOutcome::Rejected(after, status) => ("rejected", after, status.to_string()),
        };
        let keys = &self.inner.keys;
        let call = self.call(&scripts::SETTLE_ALERT).key(keys.alerts()).key(keys.alerts_claimed());
        let call = call.arg(event.to_string()).arg(label).arg(millis(retry_after)).arg(status);
        call.reply().await.map(drop)
    }
}

/// The fields of a claimed event, as `claim_alert.lua` writes them.
struct AlertFields(HashMap<String, String>);

impl AlertFields {
    fn text(&self, name: &str) -> String {
        self.0.get(name).cloned().unwrap_or_default()
    }

    fn number(&self, name: &str) -> u64 {
        self.0.get(name).and_then(|text| text.parse().ok()).unwrap_or_default()
    }

    /// Time since the field's own, by the clock of Redis when the event was claimed first.
    fn since(&self, name: &str) -> Duration {
        Duration::from_millis(self.number("now_ms").saturating_sub(self.number(name)))
    }

    /// What stands behind `prefix` and its count, most first.
    fn counts_of(&self, prefix: &str) -> Vec<(String, u64)> {
        let named = self.0.iter().filter_map(|(name, count)| Some((name.strip_prefix(prefix)?, count)));
        let mut counts: Vec<_> =
            named.filter_map(|(name, count)| Some((name.to_owned(), count.parse::<u64>().ok()?))).collect();
        counts.sort_unstable_by(|(a, most), (b, count)| count.cmp(most).then_with(|| a.cmp(b)));
        counts
    }

    fn letters(&self) -> LetterCounts {
        LetterCounts {
            count: self.number("count"),
            since: self.since("first_ms"),
            first: self.text("first"),
            last: self.text("last"),
            hosts: self.counts_of("host:"),
            elsewhere: self.number("elsewhere"),
        }
    }

    fn storm(&self, state: AlertState) -> AlertSubject {
        let (counts, kinds) = (self.letters(), self.counts_of("kind:"));
        AlertSubject::Storm(Box::new(Storm { state, since: self.since("storm_ms"), counts, kinds }))
    }

    fn outage(&self, state: AlertState) -> AlertSubject {
        let group = self.text("group");
        let what = group.strip_prefix("outage:").unwrap_or(&group).to_owned();
        let (since, detail) = (self.since("since_ms"), self.text("detail"));
        AlertSubject::Outage(SharedOutage { what, state, since, detail })
    }

    fn group(&self) -> Option<AlertSubject> {
        let group = self.text("group");
        let (kind, stage) = group.strip_prefix("letter:")?.split_once(':')?;
        Some(AlertSubject::Letters(Box::new(LetterGroup {
            kind: kind.to_owned(),
            stage: stage.to_owned(),
            counts: self.letters(),
            reason: serde_json::from_str(&self.text("reason")).ok(),
            pair: self.text("pair"),
            traceparent: self.text("trace"),
        })))
    }

    fn alert(&self) -> Result<SharedAlert, String> {
        let what = self.text("what");
        let subject = match what.as_str() {
            "letters" => self.group().ok_or_else(|| self.text("group"))?,
            "storm" => self.storm(AlertState::Begins),
            "storm_lasts" => self.storm(AlertState::Lasts),
            "storm_over" => self.storm(AlertState::Over),
            "outage" => self.outage(AlertState::Begins),
            "outage_lasts" => self.outage(AlertState::Lasts),
            "over" => self.outage(AlertState::Over),
            _ => return Err(what),
        };
        let event = self.text("event").parse().map_err(|_| self.text("event"))?;
        let refusals = u32::try_from(self.number("refusals")).unwrap_or(u32::MAX);
        Ok(SharedAlert { event, refusals, subject })
    }
}
