//! How a worker stops: a phase that only moves forward, and the signals that advance it (docs/design.md,
//! "Stopping").
//!
//! TSTP stops claiming, TERM or INT starts draining, a second TERM or INT stops at once. The effect of each
//! phase on the jobs in flight is decided in `mod.rs`.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;

/// Shutdown phase of a process. The order is significant: a phase never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Phase {
    /// Claims and runs jobs.
    Running,
    /// Claims nothing more, finishes the jobs in flight, keeps running.
    Quiet,
    /// Claims nothing more, finishes the jobs in flight by the drain deadline, then exits.
    Draining,
    /// Exits now, releasing the jobs in flight.
    Stopped,
}

impl Phase {
    /// The lower-case label, used everywhere.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// The phase of this process; can be read, awaited and advanced.
#[derive(Debug, Clone)]
pub struct Phases(watch::Sender<(Phase, Instant)>);

impl Default for Phases {
    fn default() -> Self {
        Self(watch::Sender::new((Phase::Running, Instant::now())))
    }
}

impl Phases {
    /// The current phase, without waiting.
    pub fn now(&self) -> Phase {
        self.0.borrow().0
    }

    /// When the current phase began.
    pub fn since(&self) -> Instant {
        self.0.borrow().1
    }

    /// Advances to `phase`; ignored if that phase is already reached. Returns whether anything changed.
    pub fn advance(&self, phase: Phase) -> bool {
        self.0.send_if_modified(|(now, since)| {
            let forward = *now < phase;
            if forward {
                (*now, *since) = (phase, Instant::now());
            }
            forward
        })
    }

    /// Waits until the phase is at least `phase`.
    pub async fn reached(&self, phase: Phase) {
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = self.0.subscribe().wait_for(|(now, _)| *now >= phase).await;
    }

    /// Installs the signal handlers; the returned future applies the signals and never ends.
    ///
    /// # Errors
    /// If the handlers cannot be installed.
    pub(crate) fn follow_signals(self) -> io::Result<impl Future<Output = ()> + Send + 'static> {
        let mut term = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut stop = signal(SignalKind::from_raw(SIGTSTP))?;
        Ok(async move {
            loop {
                tokio::select! {
                    () = heard(&mut term) => self.leave(),
                    () = heard(&mut interrupt) => self.leave(),
                    () = heard(&mut stop) => { self.advance(Phase::Quiet); }
                }
            }
        })
    }

    fn leave(&self) {
        if !self.advance(Phase::Draining) {
            self.advance(Phase::Stopped);
        }
    }
}

/// "Stop typed at the terminal": here it means quiet, as in Sidekiq.
const SIGTSTP: i32 = libc::SIGTSTP;

async fn heard(signal: &mut Signal) {
    if signal.recv().await.is_none() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_only_goes_forward() {
        let phases = Phases::default();
        assert!(phases.advance(Phase::Draining));
        assert!(!phases.advance(Phase::Quiet));
        assert_eq!(phases.now(), Phase::Draining);
    }

    #[test]
    fn asking_twice_to_leave_is_leaving_now() {
        let phases = Phases::default();
        phases.leave();
        assert_eq!(phases.now(), Phase::Draining);
        phases.leave();
        assert_eq!(phases.now(), Phase::Stopped);
    }
}
