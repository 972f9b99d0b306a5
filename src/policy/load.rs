//! How many jobs a worker takes at a time: fewer while its children wait for a CPU or its container is under
//! pressure, and as many as it has slots again when that is over.
//!
//! Invariant: at least one, at most the slots.
//!
//! # Why
//! On a busy machine more children at a time get no more done: each takes longer, until it is starved. Halving
//! leaves an overload within few steps, and growing by one finds its end without causing the next (AIMD).

use std::time::Duration;

/// Children that waited for more than this share of the time in which they ran wait for each other, or for others.
const WAITING_SHARE: f64 = 0.5;
/// Waiting that is too little to be judged: among a few small jobs, a single wait exceeds their share.
const WAITING_LEAST: Duration = Duration::from_millis(100);
/// Percent of the last ten seconds in which something in the container waited for a CPU. Slots that fill the CPUs
/// always make some; above this the container has less CPU than its slots need.
const CPU_PRESSURE: f64 = 60.0;
/// The same for memory, where what is waited for is the disk: all of it is lost, and more of it is thrashing.
const MEMORY_PRESSURE: f64 = 10.0;

/// What shows that a worker does too much at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
pub enum Overload {
    /// Its children wait for a CPU.
    #[strum(to_string = "children wait for a CPU")]
    Waiting,
    /// Its container does.
    #[strum(to_string = "cpu.pressure")]
    CpuPressure,
    /// Its container waits for memory.
    #[strum(to_string = "memory.pressure")]
    MemoryPressure,
}

/// What was seen since the last step.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LoadSample {
    /// CPU time of the children that ended.
    pub ran: Duration,
    /// Time in which these waited.
    pub waited: Duration,
    /// Whether there are children now.
    pub busy: bool,
    /// Pressure on the container for a CPU, in percent; `None` where the kernel does not say.
    pub cpu_pressure: Option<f64>,
    /// The same for memory.
    pub memory_pressure: Option<f64>,
}

/// The limit of one worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadLimit {
    slots: usize,
    limit: usize,
    overload: Option<Overload>,
}

impl Overload {
    /// Its name, as shown to operators.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

impl LoadSample {
    fn overload(&self) -> Option<Overload> {
        let above = |value: Option<f64>, most| value.is_some_and(|percent| percent > most);
        if self.waited >= WAITING_LEAST && self.waited > self.ran.mul_f64(WAITING_SHARE) {
            Some(Overload::Waiting)
        } else if above(self.cpu_pressure, CPU_PRESSURE) {
            Some(Overload::CpuPressure)
        } else if above(self.memory_pressure, MEMORY_PRESSURE) {
            Some(Overload::MemoryPressure)
        } else {
            None
        }
    }

    /// Children that run and have not ended yet may be waiting, for all that is known.
    fn shows_nothing(&self) -> bool {
        self.busy && self.ran + self.waited == Duration::ZERO
    }
}

impl LoadLimit {
    /// As many as there are slots, until something is seen.
    pub fn new(slots: usize) -> Self {
        let slots = slots.max(1);
        Self { slots, limit: slots, overload: None }
    }

    /// The overload that was seen last; `None` where the limit is that of the slots.
    pub fn overload(&self) -> Option<Overload> {
        self.overload
    }

    /// Judges what was seen since the last step; returns how many jobs to take at a time from now on.
    pub fn step(&mut self, seen: LoadSample) -> usize {
        let overload = seen.overload();
        if overload.is_some() {
            self.limit = (self.limit / 2).max(1);
        } else if !seen.shows_nothing() {
            self.limit = (self.limit + 1).min(self.slots);
        }
        self.overload = overload.or(self.overload).filter(|_| self.limit < self.slots);
        self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(ran_ms: u64, waited_ms: u64) -> LoadSample {
        let [ran, waited] = [ran_ms, waited_ms].map(Duration::from_millis);
        LoadSample { ran, waited, busy: true, ..LoadSample::default() }
    }

    #[test]
    fn while_children_wait_it_halves_and_afterwards_grows_by_one() {
        let mut limit = LoadLimit::new(8);
        assert_eq!([(); 4].map(|()| limit.step(ended(1_000, 501))), [4, 2, 1, 1]);
        assert_eq!(limit.overload(), Some(Overload::Waiting));
        assert_eq!([(); 6].map(|()| limit.step(ended(1_000, 500))), [2, 3, 4, 5, 6, 7]);
        assert_eq!(limit.overload(), Some(Overload::Waiting), "it still takes fewer");
        assert_eq!([(); 2].map(|()| limit.step(ended(1_000, 500))), [8, 8]);
        assert_eq!(limit.overload(), None);
    }

    #[test]
    fn children_that_have_not_ended_yet_change_nothing_and_none_let_it_grow() {
        let mut limit = LoadLimit::new(4);
        assert_eq!(limit.step(ended(0, 1_000)), 2);
        assert_eq!(limit.step(ended(0, 0)), 2);
        assert_eq!(limit.step(LoadSample::default()), 3);
    }

    #[test]
    fn a_short_wait_of_a_small_job_shows_no_overload() {
        assert_eq!(LoadLimit::new(4).step(ended(5, 99)), 4);
        assert_eq!(LoadLimit::new(4).step(ended(5, 100)), 2);
    }

    #[test]
    fn pressure_on_the_container_counts_without_any_job() {
        for (cpu_pressure, memory_pressure, expected) in [
            (None, None, None),
            (Some(60.0), Some(10.0), None),
            (Some(60.1), None, Some(Overload::CpuPressure)),
            (None, Some(10.1), Some(Overload::MemoryPressure)),
        ] {
            let mut limit = LoadLimit::new(4);
            let slots = limit.step(LoadSample { cpu_pressure, memory_pressure, ..LoadSample::default() });
            assert_eq!((slots, limit.overload()), (if expected.is_some() { 2 } else { 4 }, expected));
        }
    }

    #[test]
    fn there_is_always_one() {
        for slots in [0, 1] {
            let mut limit = LoadLimit::new(slots);
            assert_eq!((limit.step(ended(0, 9_000)), limit.overload()), (1, None), "all that it has");
        }
    }
}
