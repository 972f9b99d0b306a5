//! The model and Redis hold the same; and in the end Redis holds nothing that is of no use any more.

use std::collections::{BTreeMap, BTreeSet};

use wm_analyzer::job::JobId;

use super::Op;
use super::case::{Case, WORKERS};
use super::machine::{HOSTS, How, LEASE_MS, Mine, PAIRS, State};
use crate::invariants::Stock;
use crate::world::key;

/// What may be left when every job is gone: memories, each with an end or a cap.
#[rustfmt::skip]
const STAYS: [&str; 21] = [
    "alerts", "audit", "child_kills", "claim:", "dead_group", "done:", "done_segments", "ended:", "events", "meta", "proven_hosts", "report:", "results", "seq", "settled:", "stats:",
    "suspect:", "suspects", "wake", "worker:", "workers",
];
/// What a job may have, as `keys.rs` says.
#[rustfmt::skip]
const FIELDS: [&str; 38] = [
    "payload", "state", "score", "enqueued_ms", "expires_ms", "unique",
    "deliveries", "failures", "ambiguous_exits", "crashes", "fetch_crashes", "postponements", "postponed_ms",
    "releases", "replays",
    "token", "worker", "claimed_ms", "bytes", "content", "build", "hosts", "entered", "priority_offset",
    "suspect", "waits_for_host", "run_at_ms", "last_failure", "cancel", "died_ms", "kind", "reason", "size",
    "group", "operation", "log", "log_cut", "unedited",
];

impl Case<'_> {
    /// Both hold the same jobs in the same places with the same counts; and the key space is whole.
    pub async fn assert_agrees(&mut self) {
        let stock = Stock::of(self.world).await;
        let now = self.world.now_ms().await;
        let ours: BTreeMap<String, String> =
            self.model.jobs.iter().map(|(id, mine)| (id.to_string(), mine.state.name().to_owned())).collect();
        assert_eq!(stock.check(), ours, "states: Redis, the model");
        for (id, mine) in &self.model.jobs {
            agree_on(&stock.fields(&format!("job:{id}")), id, mine);
        }
        self.agree_on_orders(&stock, now);
        self.agree_on_suspects(&stock, now);
        let mut tallies: BTreeMap<String, u64> = BTreeMap::new();
        for day in stock.names("stats:") {
            for (name, count) in stock.pairs(&format!("stats:{day}")) {
                *tallies.entry(name.to_owned()).or_default() += count.parse::<u64>().unwrap();
            }
        }
        assert_eq!(tallies, self.model.tallies, "what is counted");
        let seq = stock.text("seq").map_or(0, |text| text.parse().unwrap());
        assert_eq!((seq, !stock.held("paused").is_empty()), (self.model.places, self.model.paused));
        let told = stock.held("wake").len();
        assert!(told <= 1 && told >= usize::from(self.model.woken), "{told} told, {}", self.model.woken);
        self.model.woken = false;
        let _: u64 = self.world.ask("DEL", key("wake")).await;
    }

    /// Who is next, for a worker and at each host; who is inside; whose time has come; and nobody's lease is over.
    fn agree_on_orders(&self, stock: &Stock, now: u64) {
        let ids = |zset: &str| -> Vec<JobId> { stock.pairs(zset).map(|(id, _)| parsed(id)).collect() };
        let over = |zset: &str| -> Vec<JobId> {
            let over = stock.pairs(zset).filter(|(_, moment)| moment.parse::<u64>().unwrap() <= now);
            let mut over: Vec<_> = over.map(|(id, _)| parsed(id)).collect();
            over.sort();
            over
        };
        assert_eq!(ids("ready"), self.model.ready());
        for host in HOSTS {
            assert_eq!(ids(&format!("host_waiters:{host}")), self.model.line(host), "the line of {host}");
            let inside = stock.held(&format!("host:{host}")).iter().map(|id| parsed(id));
            let ours = self.model.inside.get(host).cloned().unwrap_or_default();
            assert_eq!(inside.collect::<BTreeSet<_>>(), ours, "inside {host}");
        }
        assert_eq!(
            over("scheduled"),
            self.model.in_state(|state| state == State::Scheduled { due: true }),
            "due"
        );
        assert_eq!(over("lease"), [], "all are renewed");
    }

    fn agree_on_suspects(&self, stock: &Stock, now: u64) {
        let turn = self.model.turn.as_ref().map(|(who, run)| {
            let ids = run.iter().map(|id| format!("|{id}"));
            WORKERS[*who].to_owned() + &ids.collect::<String>()
        });
        assert_eq!(stock.text("exclusive_lock"), turn.as_deref(), "the turn");
        let rest =
            stock.fields("meta").get("exclusive_rest_until_ms").map(|until| until.parse::<u64>().unwrap());
        let rest = rest.filter(|until| *until > now);
        assert_eq!(rest.is_some(), self.model.rest, "the others have their time");
        assert!(rest.is_none_or(|until| until <= now + LEASE_MS), "one lease at most: {rest:?}");
        let name = |content: &usize| self.names[*content].as_deref().expect("it was asked for");
        let suspects: BTreeSet<_> = self.model.suspects.keys().map(name).collect();
        assert_eq!(stock.names("suspect:").collect::<BTreeSet<_>>(), suspects, "suspects");
    }

    /// Everything is done that can be. Then what went in is what came out, and only memories are left.
    pub async fn end(&mut self) {
        self.step(&Op::Resume).await;
        // There are no more live jobs than pairs, and with each round one leaves at least.
        for _ in 0..=PAIRS {
            for who in 0..WORKERS.len() {
                for id in self.model.held_by(who) {
                    self.settle(who, &id, How::Done).await;
                }
            }
            self.step(&Op::TurnRunsOut).await;
            self.step(&Op::Rested).await;
            self.step(&Op::Due).await;
            self.step(&Op::Claim { who: 0, most: 10 }).await;
        }
        let dead = self.model.in_state(|_| true);
        assert_eq!(self.model.in_state(|state| state == State::Dead), dead, "only the dead are left");
        for _ in dead {
            self.step(&Op::Discard(0)).await;
        }
        self.assert_agrees().await;
        let gone = ["done", "skipped", "discarded"].map(|how| self.model.tallies.get(how).copied());
        let admitted = self.model.tallies.get("admitted").copied();
        assert_eq!(gone.into_iter().flatten().sum::<u64>(), admitted.unwrap_or(0));
        for left in self.world.ask::<Vec<String>>("KEYS", "*").await {
            let name = left.strip_prefix(&key("")).expect("a key of this queue");
            assert!(STAYS.iter().any(|stays| name.starts_with(stays)), "left: {left}");
        }
    }
}

fn agree_on(job: &BTreeMap<&str, &str>, id: &JobId, mine: &Mine) {
    let strange = job.keys().find(|field| !FIELDS.contains(*field));
    assert_eq!(strange, None, "{id}: a field that nobody knows");
    let counts = &mine.counts;
    let wanted = [
        ("deliveries", counts.deliveries.into()),
        ("failures", counts.failures.into()),
        ("ambiguous_exits", counts.ambiguous_exits.into()),
        ("crashes", counts.crashes.into()),
        ("fetch_crashes", counts.fetch_crashes.into()),
        ("postponements", counts.postponements.into()),
        ("postponed_ms", counts.postponed_ms),
        ("releases", counts.releases.into()),
        ("replays", counts.replays.into()),
        ("score", mine.place),
    ];
    for (name, wanted) in wanted {
        assert_eq!(job.get(name).map_or(0, |text| text.parse().unwrap()), wanted, "{id}: {name}");
    }
    let said = ["cancel", "suspect", "priority_offset"].map(|name| job.contains_key(name));
    assert_eq!(
        said,
        [mine.cancelled, mine.suspect, mine.behind],
        "{id}: cancelled, suspect, behind fresh work"
    );
    assert_eq!(job.get("waits_for_host").copied(), mine.line, "{id}: in a line");
    if let State::Leased { by } = mine.state {
        assert_eq!(job["worker"], WORKERS[by]);
    }
}

fn parsed(id: &str) -> JobId {
    JobId::parse(id).unwrap()
}
