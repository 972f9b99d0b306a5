//! What a running job is charged against its wall-clock limit: its time on a CPU and its time asleep, but not
//! the time in which it was ready to run and the kernel ran something else, nor that in which it waited for a
//! worker that got no CPU to send its request.
//!
//! It only counts; killing is up to the fork server.
//!
//! Invariant: a job is charged at most the time that has passed, and none outlives [`Limits::hard_ceiling`].
//!
//! # Why
//! Beside 80 busy loops an honest job of 0.8 s was killed after 10 s of wall clock and 31 ms of CPU time, and
//! called poison. The kernel's own count of waiting is not subtracted from the wall clock instead, because it
//! grows only when a wait ends. Whether a job sleeps is seen in samples: no counter has it. A job that has
//! itself awakened for each sample sleeps uncharged up to the ceiling, where [`waited_for_cpu`] gives it away.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Pid;

use super::limits::Limits;

/// Time between two samples. A sample takes 20 us; a job of the usual 10 ms ends before its first one.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(50);
/// The shortest wait for a sample: the kernel shows CPU time in steps of 10 ms, so that more are pointless.
const MIN_WAIT: Duration = Duration::from_millis(5);

/// The shortest wait that is reported; to ask the kernel about less takes 20 us of each short job.
const REPORTED_WAIT: Duration = Duration::from_millis(1);

/// The clock of one running job.
#[derive(Debug)]
pub(super) struct JobClock {
    began: Instant,
    wall: Duration,
    ceiling: Duration,
    sampled: Instant,
    cpu: Duration,
    asleep: Duration,
    without_input: Duration,
}

/// What the clock says about a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TimeLeft {
    /// It may run on; look again after this time.
    Some(Duration),
    /// It has used its wall-clock limit.
    WallUsed,
    /// It has not, but the hard ceiling has passed.
    CeilingReached,
}

/// A job as the kernel shows it at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sample {
    /// User plus system time so far.
    cpu: Duration,
    /// Neither running nor waiting for a CPU.
    asleep: bool,
}

impl JobClock {
    pub(super) fn start(began: Instant, limits: &Limits) -> Self {
        Self {
            began,
            wall: limits.wall,
            ceiling: limits.hard_ceiling(),
            sampled: began,
            cpu: Duration::ZERO,
            asleep: Duration::ZERO,
            without_input: Duration::ZERO,
        }
    }

    /// How long the job was asleep because it did not have its request.
    pub(super) fn without_input(&self) -> Duration {
        self.without_input
    }

    /// Looks at the job if a sample is due, and returns how long it may still run.
    pub(super) fn look(&mut self, pid: Pid, has_input: bool) -> TimeLeft {
        let now = Instant::now();
        if self.until_sample(now).is_zero() {
            self.charge(Sample::take(pid), has_input, now);
        }
        self.left(now)
    }

    /// Charges the time since the last sample. What cannot be seen is charged as if it was asleep, which is
    /// the wall clock.
    fn charge(&mut self, sample: Option<Sample>, has_input: bool, now: Instant) {
        let passed = now.saturating_duration_since(self.sampled);
        self.sampled = now;
        match sample {
            Some(Sample { cpu, asleep }) => {
                // A sample that comes late shows only that the job is asleep now.
                let seen = passed.min(SAMPLE_INTERVAL);
                let ran = cpu.saturating_sub(self.cpu);
                self.cpu = self.cpu.max(cpu);
                let slept = if asleep { seen.saturating_sub(ran) } else { Duration::ZERO };
                let account = if has_input { &mut self.asleep } else { &mut self.without_input };
                *account += slept;
            }
            None => self.asleep += passed,
        }
    }

    fn left(&self, now: Instant) -> TimeLeft {
        let to_ceiling = self.ceiling.saturating_sub(now.saturating_duration_since(self.began));
        if self.charged() >= self.wall {
            TimeLeft::WallUsed
        } else if to_ceiling.is_zero() {
            TimeLeft::CeilingReached
        } else {
            TimeLeft::Some(self.until_sample(now).min(to_ceiling))
        }
    }

    fn charged(&self) -> Duration {
        self.cpu + self.asleep
    }

    /// Time until the next sample: sooner than usual if the wall may be used up by then.
    fn until_sample(&self, now: Instant) -> Duration {
        let wait = self.wall.saturating_sub(self.charged()).clamp(MIN_WAIT, SAMPLE_INTERVAL);
        wait.saturating_sub(now.saturating_duration_since(self.sampled))
    }
}

impl Sample {
    fn take(pid: Pid) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
        Self::parse(&stat, rustix::param::clock_ticks_per_second())
    }

    /// Parses `/proc/PID/stat`. The second field, the name in brackets, may itself hold blanks and brackets.
    fn parse(stat: &str, ticks_per_second: u64) -> Option<Self> {
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        let state = fields.next()?;
        let mut ticks = fields.skip(10).map(|field| field.parse::<u64>().ok());
        let (user, system) = (ticks.next()??, ticks.next()??);
        let cpu = Duration::from_millis((user + system).saturating_mul(1000) / ticks_per_second.max(1));
        Some(Self { cpu, asleep: state != "R" })
    }
}

/// How long a job has waited for a CPU altogether, as the kernel counts it when a wait ends: exact for a job
/// that has exited and was not reaped yet. `None` if the kernel does not count it. A job that was off the CPUs for
/// `at_most` less than a millisecond has waited for none that is reported, and is not asked about.
pub(super) fn waited_for_cpu(pid: Pid, at_most: Duration) -> Option<Duration> {
    if at_most < REPORTED_WAIT {
        return Some(Duration::ZERO);
    }
    let schedstat = fs::read_to_string(format!("/proc/{}/schedstat", pid.as_raw_nonzero())).ok()?;
    schedstat.split_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::super::tests::config;
    use super::*;

    const WALL: Duration = Duration::from_secs(10);

    /// Samples a job every 50 ms, as `job` shows it after that many milliseconds, until its time is up.
    fn ends(every: Duration, job: impl Fn(u64) -> Option<Sample>) -> (TimeLeft, Duration) {
        let began = Instant::now();
        let mut clock = JobClock::start(began, &Limits::from_config(&config()));
        let mut passed = Duration::ZERO;
        loop {
            passed += every;
            clock.charge(job(passed.as_millis() as u64), true, began + passed);
            match clock.left(began + passed) {
                TimeLeft::Some(_) => {}
                end @ (TimeLeft::WallUsed | TimeLeft::CeilingReached) => return (end, passed),
            }
        }
    }

    fn sample(cpu_ms: u64, asleep: bool) -> Option<Sample> {
        Some(Sample { cpu: Duration::from_millis(cpu_ms), asleep })
    }

    #[test]
    fn running_and_sleeping_are_charged_and_waiting_is_not() {
        let ends = |job: fn(u64) -> Option<Sample>| ends(SAMPLE_INTERVAL, job);
        assert_eq!(ends(|ms| sample(ms, false)), (TimeLeft::WallUsed, WALL), "a spinner");
        assert_eq!(ends(|_| sample(0, true)), (TimeLeft::WallUsed, WALL), "a sleeper");
        assert_eq!(ends(|ms| sample(ms / 2, true)), (TimeLeft::WallUsed, WALL), "half of each, charged once");
        assert_eq!(ends(|ms| sample(ms / 5, false)), (TimeLeft::WallUsed, 5 * WALL), "a fifth of a CPU");
        assert_eq!(ends(|ms| sample(ms / 20, false)), (TimeLeft::CeilingReached, 10 * WALL), "a twentieth");
        assert_eq!(ends(|_| None), (TimeLeft::WallUsed, WALL), "one that cannot be seen");
    }

    #[test]
    fn a_job_that_has_no_request_yet_is_not_charged_for_its_sleep() {
        let began = Instant::now();
        let mut clock = JobClock::start(began, &Limits::from_config(&config()));
        for (n, has_input) in [(1, false), (2, false), (3, true)] {
            clock.charge(sample(0, true), has_input, began + n * SAMPLE_INTERVAL);
        }
        assert_eq!((clock.charged(), clock.without_input()), (SAMPLE_INTERVAL, 2 * SAMPLE_INTERVAL));
    }

    #[test]
    fn a_late_sample_does_not_charge_the_time_in_which_nobody_looked() {
        let (end, _) = ends(Duration::from_millis(600), |_| sample(0, true));
        assert_eq!(end, TimeLeft::CeilingReached);
    }

    #[test]
    fn the_next_sample_comes_sooner_when_the_wall_is_nearly_used() {
        let began = Instant::now();
        let mut clock = JobClock::start(began, &Limits::from_config(&config()));
        assert_eq!(clock.left(began), TimeLeft::Some(SAMPLE_INTERVAL));
        let later = began + Duration::from_secs(20);
        clock.charge(sample(9_980, false), true, later);
        assert_eq!(clock.left(later), TimeLeft::Some(Duration::from_millis(20)));
        clock.charge(sample(9_999, false), true, later);
        assert_eq!(clock.left(later), TimeLeft::Some(MIN_WAIT));
    }

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let stat = |state| format!("7 (a) S (b) {state} 1 7 7 0 -1 4 9 0 0 0 150 25 0 0 20 0 1 0 5");
        let cpu = Duration::from_millis(1750);
        assert_eq!(Sample::parse(&stat("R"), 100), Some(Sample { cpu, asleep: false }));
        for state in ["S", "D", "T"] {
            assert_eq!(Sample::parse(&stat(state), 100), Some(Sample { cpu, asleep: true }), "{state}");
        }
        for broken in ["", "7 (a) R", "7 (a) R 1 7 7 0 -1 4 9 0 0 0 x 25"] {
            assert_eq!(Sample::parse(broken, 100), None, "{broken:?}");
        }
    }

    #[test]
    fn this_process_can_be_seen() {
        let own = rustix::process::getpid();
        assert!(Sample::take(own).is_some());
        assert!(waited_for_cpu(own, REPORTED_WAIT).is_some());
    }

    #[test]
    fn the_kernel_is_asked_only_about_waits_that_are_reported() {
        let missing = Pid::from_raw(i32::MAX).unwrap();
        assert_eq!(waited_for_cpu(missing, Duration::from_micros(999)), Some(Duration::ZERO));
        assert_eq!(waited_for_cpu(missing, REPORTED_WAIT), None);
    }
}
