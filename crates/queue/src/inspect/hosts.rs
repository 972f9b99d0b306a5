//! Hosts that rest: after failures, by their circuit breaker, or because an operator said so.
//!
//! Invariant: making a host rest and ending its rest are scripts that begin with a write that Redis allows at
//! `maxmemory`; only the hosts with the most waiters are read one by one.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;

use crate::Queue;
use crate::error::Error;
use crate::inspect::control::REASON_MAX_CHARS;
use crate::inspect::parts::{Reads, UnreadableKey};
use crate::redis::scripts;
use crate::role::OperatorHandle;
use crate::settings::AUDIT_MAX;
use wm_job::duration::millis;

/// Most hosts listed in a status.
const SHOWN_MAX: usize = 5;
/// Most open breakers whose waiters are counted for that, those that rest longest.
const LOOK_MAX: usize = 100;
/// Most hosts that operators make rest at a time: as many as people can look after.
const RESTS_MAX: u64 = 100;
/// The longest DNS name.
const NAME_MAX_BYTES: usize = 253;

/// The name of a host as it stands in addresses: lower case, without port; international names in ASCII.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostName(String);

impl HostName {
    /// Parses a name as a person writes it.
    ///
    /// # Errors
    /// A sentence with what a name is.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is not a host: a name or an address like web.example.gov or [::1], without port"
            )
        };
        let is_v6 = text.starts_with('[') && text.ends_with(']');
        if text.contains(['/', '@', '?', '#', '\\', '~'])
            || text.trim() != text
            || (text.contains(':') && !is_v6)
        {
            return Err(wrong());
        }
        let url = Url::parse(&format!("http://{text}/")).map_err(|_| wrong())?;
        let host = url.host_str().filter(|host| !host.is_empty() && host.len() <= NAME_MAX_BYTES);
        Ok(Self(host.ok_or_else(wrong)?.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A rest that an operator ordered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RestByHand {
    /// The operator.
    pub by: String,
    /// The reason, as given.
    pub reason: String,
    /// Since when, in milliseconds since 1970 by the clock of Redis.
    pub since_ms: u64,
    /// Until when.
    pub until_ms: u64,
}

/// What the breaker of a host knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Breaker {
    failures: u64,
    kind: String,
}

/// A host that rests, or that is visited by one job at a time until one succeeds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RestingHost {
    /// Host name without port.
    pub host: String,
    /// How long it still rests, in milliseconds; 0 while it is probed.
    pub left_ms: u64,
    /// Jobs that wait for it.
    pub waiting: u64,
    /// Failures in a row, and the kind of the last one; 0 where only an operator made it rest.
    pub failures: u64,
    /// The kind of the last failure; `quarantine` where its pages kill children, which are what is counted then.
    pub kind: String,
    /// The operator's rest, where there is one.
    pub by_hand: Option<RestByHand>,
}

/// The hosts that rest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RestingHosts {
    /// Hosts whose circuit breaker is open.
    pub breakers: u64,
    /// Hosts that an operator made rest.
    pub by_hand: u64,
    /// Five of all of them, those with the most waiters first.
    pub most_waited_for: Vec<RestingHost>,
}

/// What ending a rest found.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostResumed {
    /// It rested: by an operator's rest, or by its breaker.
    Resumed(Option<RestByHand>),
    /// It did not rest.
    NotResting,
}

impl RestingHosts {
    /// Those that rest by either; one that rests by both counts once where it is listed.
    pub fn count(&self) -> u64 {
        let both = self.most_waited_for.iter().filter(|one| one.by_hand.is_some() && one.failures > 0);
        (self.breakers + self.by_hand).saturating_sub(both.count() as u64)
    }
}

/// `web.example.gov rests 4 min more, 302 wait, after 5 failures in a row (upstream)`.
impl fmt::Display for RestingHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}, {} wait", self.host, self.state(), self.waiting)?;
        self.cause().map_or(Ok(()), |cause| write!(f, ", {cause}"))
    }
}

/// To the second below two minutes, then to the minute, which is as precise as a probe comes.
fn rounded(time: Duration) -> String {
    match time.as_millis().div_ceil(1000) {
        seconds @ ..120 => format!("{seconds} s"),
        seconds @ ..7200 => format!("{} min", seconds.div_ceil(60)),
        seconds => format!("{} h", seconds.div_ceil(3600)),
    }
}

/// The kind of a breaker that opened because the pages of a host kill children, as in `common.lua`.
const QUARANTINE: &str = "quarantine";

impl RestingHost {
    /// True where it is held because its pages kill children.
    pub fn is_held(&self) -> bool {
        self.kind == QUARANTINE
    }

    /// `rests 4 min more`, or `is probed`.
    pub fn state(&self) -> String {
        self.left().map_or_else(|| "is probed".to_owned(), |left| format!("rests {} more", rounded(left)))
    }

    /// `after 5 failures in a row (upstream)`; None where only an operator made it rest.
    pub fn cause(&self) -> Option<String> {
        let Self { failures, kind, .. } = self;
        match failures {
            0 => None,
            kills if self.is_held() => Some(format!("held: its pages killed {kills} children")),
            _ => Some(format!("after {failures} failures in a row ({kind})")),
        }
    }

    /// How long it still rests; None while it is probed.
    pub fn left(&self) -> Option<Duration> {
        (self.left_ms > 0).then_some(Duration::from_millis(self.left_ms))
    }
}

impl Queue {
    /// Reads which hosts rest at `now`.
    pub(crate) async fn resting_hosts(
        &self,
        now: u64,
        unreadable: &mut Vec<UnreadableKey>,
    ) -> Result<RestingHosts, Error> {
        let keys = &self.inner.keys;
        let mut reads = Reads::default();
        reads.add(&["ZCARD"], &keys.resting_hosts(), &[]);
        reads.add(&["ZREVRANGE"], &keys.resting_hosts(), &["0", &(LOOK_MAX - 1).to_string(), "WITHSCORES"]);
        reads.add(&["HGETALL"], &keys.host_rests(), &[]);
        let mut replies = self.read(reads).await?;
        let breakers: u64 = replies.next();
        let open: Vec<(String, u64)> = replies.next();
        let by_hand: Vec<(String, String)> = replies.next();
        unreadable.append(&mut replies.unreadable);
        let read =
            |(host, text): (String, String)| Some((host, serde_json::from_str::<RestByHand>(&text).ok()?));
        let by_hand: Vec<_> =
            by_hand.into_iter().filter_map(read).filter(|(_, rest)| rest.until_ms > now).collect();
        let mut hosts: Vec<RestingHost> =
            open.into_iter().map(|(host, until)| resting(host, until, now)).collect();
        let by_hand_count = by_hand.len() as u64;
        for (host, rest) in by_hand {
            let at = hosts.iter().position(|one| one.host == host).unwrap_or_else(|| {
                hosts.push(resting(host, 0, now));
                hosts.len() - 1
            });
            hosts[at].left_ms = hosts[at].left_ms.max(rest.until_ms - now);
            hosts[at].by_hand = Some(rest);
        }
        let mut most_waited_for = self.with_waiters(hosts, unreadable).await?;
        most_waited_for.truncate(SHOWN_MAX);
        Ok(RestingHosts { breakers, by_hand: by_hand_count, most_waited_for })
    }

    /// The hosts that are held because their pages kill children, those with the most waiters first: of the hundred
    /// that rest longest.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn held_hosts(&self) -> Result<Vec<RestingHost>, Error> {
        let mut reads = Reads::default();
        let last = (LOOK_MAX - 1).to_string();
        reads.add_plain("TIME");
        reads.add(&["ZREVRANGE"], &self.inner.keys.resting_hosts(), &["0", &last, "WITHSCORES"]);
        let mut replies = self.read(reads).await?;
        let (seconds, micros): (u64, u64) = replies.next();
        let open: Vec<(String, u64)> = replies.next();
        let now = seconds * 1000 + micros / 1000;
        let hosts = open.into_iter().map(|(host, until)| resting(host, until, now)).collect();
        let mut hosts = self.with_waiters(hosts, &mut Vec::new()).await?;
        hosts.retain(RestingHost::is_held);
        Ok(hosts)
    }

    /// The same with their waiters and failures, those with the most waiters first.
    async fn with_waiters(
        &self,
        mut hosts: Vec<RestingHost>,
        unreadable: &mut Vec<UnreadableKey>,
    ) -> Result<Vec<RestingHost>, Error> {
        let keys = &self.inner.keys;
        let mut reads = Reads::default();
        for one in &hosts {
            reads.add(&["ZCARD"], &keys.host_waiters(&one.host), &[]);
            reads.add(&["HGET"], &keys.host_breakers(), &[&one.host]);
        }
        let mut replies = self.read(reads).await?;
        for one in &mut hosts {
            one.waiting = replies.next();
            let breaker: Option<String> = replies.next();
            let breaker: Breaker =
                breaker.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
            (one.failures, one.kind) = (breaker.failures, breaker.kind);
        }
        unreadable.append(&mut replies.unreadable);
        hosts.sort_by(|a, b| (b.waiting, b.left_ms, &a.host).cmp(&(a.waiting, a.left_ms, &b.host)));
        Ok(hosts)
    }
}

fn resting(host: String, until_ms: u64, now: u64) -> RestingHost {
    RestingHost { host, left_ms: until_ms.saturating_sub(now), ..RestingHost::default() }
}

impl OperatorHandle {
    /// Makes a host rest: no job visits it that does not visit it now, for `time`. Replaces its rest by hand, if it
    /// has one. False when too many rest by hand already.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn rest_host(
        &self,
        host: &HostName,
        time: Duration,
        by: &str,
        reason: &str,
    ) -> Result<bool, Error> {
        let reason: String = reason.chars().take(REASON_MAX_CHARS).collect();
        let call = self.call(&scripts::REST_HOST).key(self.inner.keys.audit()).arg(host.as_str());
        let call = call.arg(millis(time)).arg(&[by, &reason]).arg(RESTS_MAX).arg(AUDIT_MAX);
        Ok(call.reply().await?.text()? == "rests")
    }

    /// Ends the rest of a host, by hand or by its breaker; the jobs that wait for it are claimable at once.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn resume_host(&self, host: &HostName, by: &str) -> Result<HostResumed, Error> {
        let call = self.call(&scripts::RESUME_HOST).key(self.inner.keys.audit());
        let mut reply = call.arg(&[host.as_str(), by]).arg(AUDIT_MAX).reply().await?;
        match reply.text()?.as_str() {
            "resumed" => Ok(HostResumed::Resumed(serde_json::from_str(&reply.text()?).ok())),
            "not_resting" => Ok(HostResumed::NotResting),
            other => Err(reply.unexpected(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_named_as_it_stands_in_addresses() {
        for (text, name) in [
            ("Web.Example.GOV", "web.example.gov"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("127.0.0.1", "127.0.0.1"),
            ("[::1]", "[::1]"),
        ] {
            assert_eq!(HostName::parse(text).as_ref().map(HostName::as_str), Ok(name));
        }
        let long = "x".repeat(254);
        for text in [
            "",
            "a b",
            "a.test:80",
            "a.test:8080",
            "http://a.test",
            "a.test/",
            "u@a.test",
            "~new:w:1",
            "a?b",
            &long,
        ] {
            assert!(HostName::parse(text).is_err(), "{text}");
        }
    }
}
