//! The queue's state machine in plain Rust: what may happen. One method per script, which answers what the script must
//! answer and moves the jobs as it must. No server, no clock: what time does is an operation too.

use std::collections::BTreeMap;

use wm_analyzer::job::counts::DeliveryCounts;
use wm_analyzer::job::skip::SkipReason;
use wm_analyzer::job::{JobId, Priority};
use wm_analyzer::queue::{Admission, Replayed, StartPermit};

use super::machine::*;

impl Machine {
    fn tally(&mut self, what: &str) {
        *self.tallies.entry(what.to_owned()).or_default() += 1;
    }

    fn backlog_full(&self) -> bool {
        let waits = |state| matches!(state, State::Ready | State::Scheduled { .. } | State::Exclusive);
        self.in_state(waits).len() >= self.limits.backlog
    }

    pub fn enqueue(&mut self, id: &JobId, ask: Ask) -> Admission {
        if self.backlog_full() {
            return Admission::Full;
        }
        if self.jobs.contains_key(id) {
            self.tally("same_id");
            return Admission::SameId;
        }
        if self.done[ask.pair] && !ask.again {
            self.tally("already_done");
            return Admission::AlreadyDone;
        }
        if let Some(holder) = self.holder(ask.pair) {
            self.tally("duplicate");
            return Admission::Duplicate { holder };
        }
        self.tally("admitted");
        self.places += 1;
        let set_back = match ask.priority {
            Priority::High => 0,
            Priority::Normal => 10_000,
            Priority::Low => 100_000,
        };
        let mine = Mine {
            pair: ask.pair,
            state: if ask.run_at == When::Later { State::Scheduled { due: false } } else { State::Ready },
            counts: DeliveryCounts::default(),
            cancelled: false,
            expired: ask.expires_at == When::Past,
            suspect: false,
            line: None,
            place: self.places + set_back,
            set_back,
            behind: false,
            known: false,
            hosts: &[],
            entered: false,
        };
        self.woken |= mine.state == State::Ready;
        self.jobs.insert(id.clone(), mine);
        Admission::Admitted { id: id.clone() }
    }

    /// Suspects wait in no order that a test may rely on: which one it was is for the caller to say, to `took`.
    pub fn claim(&mut self, who: usize, most: usize) -> Expected {
        if self.paused {
            return Expected::Paused;
        }
        let leased = self.in_state(|state| matches!(state, State::Leased { .. })).len();
        let most = match self.limits.in_flight {
            0 => most,
            max => most.min(max.saturating_sub(leased)),
        };
        if most == 0 {
            return Expected::Full;
        }
        let none_suspect = self.in_state(|state| state == State::Exclusive).is_empty();
        match &self.turn {
            Some((holder, run)) if *holder == who && !run.is_empty() => return Expected::Exclusive,
            Some((holder, _)) if *holder != who => {}
            _ if none_suspect => {}
            None if self.rest => {}
            _ if self.held_by(who).is_empty() => return Expected::Group { most },
            _ => {
                self.turn = Some((who, Vec::new()));
                return Expected::Exclusive;
            }
        }
        let mut ids = self.ready();
        ids.truncate(most);
        for id in &ids {
            self.took(id, who);
        }
        self.woken |= !ids.is_empty() && !self.ready().is_empty();
        if ids.is_empty() { Expected::Empty } else { Expected::Jobs(ids) }
    }

    pub fn took(&mut self, id: &JobId, who: usize) {
        if self.jobs[id].state == State::Exclusive {
            match &mut self.turn {
                Some((_, run)) => run.push(id.clone()),
                None => self.turn = Some((who, vec![id.clone()])),
            }
        }
        let mine = self.mine(id);
        mine.state = State::Leased { by: who };
        mine.counts.deliveries += 1;
        mine.entered = false;
    }

    fn has_room(&self, host: &str, id: &JobId) -> bool {
        self.has_room_beside(host, id, 0)
    }

    /// The same where so many others were called, and are not inside yet.
    fn has_room_beside(&self, host: &str, id: &JobId, called: usize) -> bool {
        let others = self.inside.get(host).into_iter().flatten().filter(|other| *other != id).count();
        self.limits.at_host == 0 || others + called < self.limits.at_host
    }

    pub fn start(&mut self, id: &JobId) -> StartPermit {
        let content = self.jobs[id].pair % CONTENTS.len();
        let alone = self.turn.as_ref().is_some_and(|(_, run)| run[..] == [id.clone()]);
        let hosts = if self.limits.at_host == 0 { &[] } else { CONTENTS[content] };
        (self.mine(id).hosts, self.mine(id).known) = (hosts, true);
        match self.suspects.get(&content) {
            Some(true) => drop(self.suspects.remove(&content)),
            Some(false) if !alone => {
                self.mine(id).suspect = true;
                return StartPermit::Suspect;
            }
            Some(false) | None => {}
        }
        if let Some(host) = hosts.iter().find(|host| !self.has_room(host, id)) {
            return StartPermit::HostFull { host: (*host).to_owned() };
        }
        for host in hosts {
            self.inside.entry(host).or_default().insert(id.clone());
        }
        StartPermit::Granted
    }

    /// It was fetched whole: that kills nobody.
    pub fn enter_child(&mut self, id: &JobId) {
        let mine = self.mine(id);
        mine.entered = true;
        mine.counts.fetch_crashes = 0;
    }

    /// What every way out of a lease begins with: the permits come free, whoever is next is called, the turn is over.
    fn leave(&mut self, id: &JobId) {
        for host in self.jobs[id].hosts {
            self.inside.entry(host).or_default().remove(id);
            if self.inside[host].len() < self.limits.at_host
                && let Some(next) = self.line(host).first()
            {
                self.park(next);
            }
        }
        if let Some((_, run)) = &mut self.turn
            && let Some(at) = run.iter().position(|one| one == id)
        {
            run.remove(at);
            if run.is_empty() {
                self.turn = None;
                self.rest = true;
            }
        }
    }

    /// Where a job waits: a suspect for its turn, everything else at its old place, or at a new one where it had its
    /// chance.
    fn park(&mut self, id: &JobId) {
        let behind = std::mem::take(&mut self.mine(id).behind);
        self.places += u64::from(behind);
        let places = self.places;
        let mine = self.mine(id);
        if behind {
            mine.place = places + mine.set_back;
        }
        mine.state = if mine.group_max().is_some() { State::Exclusive } else { State::Ready };
        mine.line = None;
        self.woken = true;
    }

    pub fn settle(&mut self, id: &JobId, how: How) {
        let full = matches!(how, How::WaitFor(host) if !self.has_room(host, id));
        self.leave(id);
        match how {
            How::Done => {
                self.done[self.jobs[id].pair] = true;
                self.end(id, "done", true);
            }
            How::Skip(reason) => {
                self.tally(&format!("skipped:{}", reason.as_str()));
                self.done[self.jobs[id].pair] |= reason.is_permanent();
                self.end(id, "skipped", reason != SkipReason::Cancelled);
            }
            How::Retry => self.put_off(id, "retried").failures += 1,
            How::Doubt => self.put_off(id, "retried").ambiguous_exits += 1,
            How::Postpone => {
                let counts = self.put_off(id, "postponed");
                counts.postponements += 1;
                counts.postponed_ms += LATER_MS;
            }
            How::BreakerOpen | How::Starved => _ = self.put_off(id, "postponed"),
            How::WaitAlone => self.release(id, "suspect"),
            How::WaitFor(host) if full => {
                self.put_off(id, "host_full").deliveries -= 1;
                let mine = self.mine(id);
                (mine.line, mine.behind) = (Some(host), false);
            }
            How::WaitFor(_) => self.release(id, "host_full"),
            How::Die => self.bury(id, "gone"),
            How::Release => {
                self.mine(id).counts.releases += 1;
                self.release(id, "released");
            }
            How::ReleaseWhileFetching => self.release(id, "released"),
        }
    }

    /// A job is gone; where its delivery went all the way in, its content has survived.
    fn end(&mut self, id: &JobId, how: &str, survived: bool) {
        self.tally(how);
        let Some(mine) = self.jobs.remove(id) else { return };
        if mine.entered && mine.known && survived {
            self.suspects.remove(&(mine.pair % CONTENTS.len()));
        }
    }

    fn put_off(&mut self, id: &JobId, why: &str) -> &mut DeliveryCounts {
        self.tally(why);
        let mine = self.mine(id);
        (mine.state, mine.behind) = (State::Scheduled { due: false }, true);
        &mut mine.counts
    }

    /// As if it had never been handed out.
    fn release(&mut self, id: &JobId, why: &str) {
        self.tally(why);
        self.mine(id).counts.deliveries -= 1;
        self.park(id);
    }

    fn bury(&mut self, id: &JobId, kind: &str) {
        self.tally("dead");
        self.tally(&format!("dead:{kind}"));
        self.mine(id).state = State::Dead;
    }

    /// A lease ran out. Answers whether that buried the job.
    pub fn reclaim(&mut self, id: &JobId) -> bool {
        self.tally("reclaimed");
        self.leave(id);
        let mine = self.mine(id);
        let (content, entered, known) = (mine.pair % CONTENTS.len(), mine.entered, mine.known);
        let buried = if entered {
            mine.counts.crashes += 1;
            mine.counts.crashes >= CRASHES_MAX
        } else {
            mine.counts.fetch_crashes += 1;
            mine.counts.fetch_crashes > FETCH_CRASHES_ALONE
        };
        if entered && known {
            self.suspects.insert(content, false);
        }
        if buried {
            self.bury(id, "crash_loop");
        } else {
            self.park(id);
        }
        buried
    }

    /// Answers how many are back from where they waited for their time.
    pub fn promote(&mut self) -> u64 {
        let mut promoted = 0;
        let mut called: BTreeMap<&str, usize> = BTreeMap::new();
        for id in self.in_state(|state| state == State::Scheduled { due: true }) {
            let mine = &self.jobs[&id];
            let unwanted = mine.cancelled || mine.expired;
            let taken = mine.line.and_then(|host| called.get(host)).copied().unwrap_or(0);
            if mine.line.is_some_and(|host| !unwanted && !self.has_room_beside(host, &id, taken)) {
                self.mine(&id).state = State::Scheduled { due: false };
            } else {
                if let Some(host) = mine.line {
                    *called.entry(host).or_default() += 1;
                }
                self.park(&id);
                promoted += 1;
            }
        }
        promoted
    }

    pub fn cancel(&mut self, id: &JobId) -> bool {
        let mine = self.mine(id);
        if mine.state == State::Dead {
            return false;
        }
        mine.cancelled = true;
        if matches!(mine.state, State::Scheduled { .. }) {
            mine.state = State::Scheduled { due: true };
        }
        self.tally("cancelled");
        true
    }

    /// A new place and a new budget; but what crashed before runs alone.
    pub fn replay(&mut self, id: &JobId) -> Replayed {
        if self.backlog_full() {
            return Replayed::Full;
        }
        if let Some(holder) = self.holder(self.jobs[id].pair) {
            return Replayed::Duplicate { holder };
        }
        self.tally("replayed");
        self.places += 1;
        let places = self.places;
        let mine = self.mine(id);
        mine.place = places + mine.set_back;
        let DeliveryCounts { deliveries, crashes, fetch_crashes, replays, .. } = mine.counts;
        mine.counts = DeliveryCounts {
            deliveries,
            crashes: crashes.min(1),
            fetch_crashes,
            replays: replays + 1,
            ..DeliveryCounts::default()
        };
        (mine.cancelled, mine.suspect) = (false, false);
        self.park(id);
        Replayed::Replayed
    }

    pub fn discard(&mut self, id: &JobId) {
        self.tally("discarded");
        self.jobs.remove(id);
    }
}
