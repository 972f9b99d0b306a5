//! How a worker stops: a phase that only goes forward, and the signals that push it (design 11).
//!
//! TSTP asks for quiet, TERM or INT for a drain, a second TERM or INT for leaving now. What a phase means to a job in
//! hand is decided in `mod.rs`.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;

/// How far a process is on its way out. The order is the rule: it never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Phase {
    /// Claims and works.
    Running,
    /// Claims nothing more, finishes what is in hand, stays.
    Quiet,
    /// Claims nothing more, finishes what is in hand by a deadline, then leaves.
    Draining,
    /// Leaves now.
    Stopped,
}

impl Phase {
    /// The label, the same everywhere.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// The phase of this process, to look at and to push forward.
#[derive(Debug, Clone)]
pub struct Phases(watch::Sender<(Phase, Instant)>);

impl Default for Phases {
    fn default() -> Self {
        Self(watch::Sender::new((Phase::Running, Instant::now())))
    }
}

impl Phases {
    /// Where we are.
    pub fn now(&self) -> Phase {
        self.0.borrow().0
    }

    /// Since when.
    pub fn since(&self) -> Instant {
        self.0.borrow().1
    }

    /// Goes forward to `phase`; going back is not a dependency. Says whether anything changed.
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

    /// Listens to the signals from now on; what is answered follows them for ever.
    ///
    /// # Errors
    /// Where the process may not listen to signals.
    pub fn follow_signals(self) -> io::Result<impl Future<Output = ()> + Send + 'static> {
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

/// "EarlyExit typed at the terminal": here it means quiet, as it does in the field.
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
