//! One alert for each limit of the queue that is nearly reached, and for hosts that rest.

use std::sync::atomic::{AtomicBool, Ordering};

use tracing::{info, warn};

use super::Observer;
use crate::queue::{Memory, NEARLY_FULL, RestingHost, Status};
use crate::telemetry::sentry::OutageKind;
use crate::worker::threshold::Crossing;

impl Observer {
    /// Reports what is nearly full, and the hosts that rest.
    pub(super) fn look_at_limits(&self, status: &Status) {
        // Where the annotation was posted, being at the cap is how results are meant to go.
        let filled = if status.memory.reports_evict { 0.0 } else { status.memory.reports_filled() };
        self.crossed(OutageKind::Results, self.results.crossing(filled), || {
            let [used, cap] = [status.memory.reports_bytes, status.memory.reports_cap_bytes].map(bytesize::ByteSize::b);
            let free = self.queue.command("results free");
            format!("{used} of {cap}; at the cap nothing is claimed: fetch and free some ({free}), or raise reports_max_bytes")
        });
        let Memory { suspects_count, suspects_max_count, .. } = status.memory;
        self.crossed(OutageKind::Suspects, self.suspects.crossing(status.memory.suspects_filled()), || {
            format!(
                "{suspects_count} of {suspects_max_count}: workers vanish with children that run; at the cap the oldest \
                 are forgotten and may make a worker vanish again ({})",
                self.queue.command("status")
            )
        });
        self.near_a_cap_as_usual(&status.memory);
        // A host that an operator made rest is no news.
        self.crossed(OutageKind::Hosts, self.resting_hosts.crossing(status.resting.breakers as f64), || {
            let failing = status.resting.most_waited_for.iter().filter(|host| host.failures > 0);
            let named: Vec<_> = failing.map(RestingHost::to_string).collect();
            let more = status.resting.breakers.saturating_sub(named.len() as u64);
            let more = if more > 0 { format!("; and {more} more") } else { String::new() };
            format!("{}{more} ({})", named.join("; "), self.queue.command("status"))
        });
        self.crossed(OutageKind::DeadLetters, self.dead_letters.crossing(status.dead_filled()), || {
            let Status { dead, dead_max_count, dead_bytes, dead_max_bytes, .. } = status;
            let look = self.queue.command("dead ls");
            format!(
                "{dead} letters of {dead_max_count}, {dead_bytes} bytes of {dead_max_bytes}; at a cap the oldest are \
                 evicted: replay or discard some ({look})"
            )
        });
        self.crossed(OutageKind::Backlog, self.backlog.crossing(status.backlog_filled()), || {
            format!(
                "{} jobs wait of {}: payloads stay in the inbox and enqueue refuses ({})",
                status.backlog(),
                status.backlog_max,
                self.queue.command("status")
            )
        });
    }

    /// Says once what a busy queue stays at: its oldest results and marks go, and that is no trouble.
    fn near_a_cap_as_usual(&self, memory: &Memory) {
        let first = |near: bool, reported: &AtomicBool| near && !reported.swap(true, Ordering::Relaxed);
        if first(memory.done_filled() >= NEARLY_FULL, &self.done_reported) {
            let (pairs, cap) = (memory.done_count, memory.done_max_count);
            info!(pairs, cap, "pairs remembered as done near their cap: the oldest will be forgotten");
        }
        let evicts = memory.reports_evict && memory.reports_filled() >= NEARLY_FULL;
        if first(evicts, &self.evicting_reported) {
            let (bytes, cap) = (memory.reports_bytes, memory.reports_cap_bytes);
            info!(bytes, cap, "results near their cap: the oldest will be evicted");
        }
    }

    fn crossed(&self, what: OutageKind, crossing: Option<Crossing>, detail: impl FnOnce() -> String) {
        match crossing {
            Some(Crossing::Above) => {
                let detail = detail();
                warn!(what = what.as_str(), detail, "nearly no room left");
                self.outages.begins(what, detail);
            }
            Some(Crossing::Below) => {
                self.outages.ends(what);
                info!(what = what.as_str(), "there is room again");
            }
            None => {}
        }
    }
}
