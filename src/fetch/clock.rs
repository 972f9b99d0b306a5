//! The time limits of one body: a header in time, a minimum rate, and all of it in time.
//!
//! It knows no HTTP. Invariant: a clock runs only while the peer is waited for. Time in which we ourselves do
//! not read, for want of budget, moves every limit by as much.
//!
//! # Why
//! A total limit alone lets a peer hold a connection and its budget for all of it with a byte now and then.
//! The rate is checked window by window, so that a pause of some seconds passes and a trickle does not.

use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

/// How long a peer has for each portion of bytes that the minimum rate asks for: a lost packet is sent again
/// after 1 s and 3 s, and an archive may pause while it reads from its storage.
pub(super) const RATE_WINDOW: Duration = Duration::from_secs(5);

/// Which limit ended a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overdue {
    /// The body as a whole was not complete in time.
    Total,
    /// A hop's header was not complete in time.
    Header,
    /// Within one window, only `received` bytes came.
    Rate {
        /// Bytes received in that window.
        received: u64,
    },
}

/// The clock of one body, over all its hops.
#[derive(Debug)]
pub(super) struct FetchClock {
    deadline: Instant,
    window: Window,
    header_timeout: Duration,
    /// Least number of bytes in a window.
    min_window_bytes: u64,
}

/// The window in which the rate is being checked.
#[derive(Debug, Clone, Copy)]
struct Window {
    ends: Instant,
    received: u64,
}

impl Window {
    fn starting_at(now: Instant) -> Self {
        Self { ends: now + RATE_WINDOW, received: 0 }
    }
}

impl FetchClock {
    /// A clock that starts now.
    pub(super) fn start(total: Duration, header_timeout: Duration, min_bytes_per_second: u64) -> Self {
        let now = Instant::now();
        Self {
            deadline: now + total,
            window: Window::starting_at(now),
            header_timeout,
            min_window_bytes: min_bytes_per_second.saturating_mul(RATE_WINDOW.as_secs()),
        }
    }

    /// Waits for a hop's header.
    pub(super) async fn header<T>(&self, answer: impl Future<Output = T>) -> Result<T, Overdue> {
        let header_deadline = Instant::now() + self.header_timeout;
        let limit = if header_deadline < self.deadline { Overdue::Header } else { Overdue::Total };
        timeout_at(header_deadline.min(self.deadline), answer).await.map_err(|_| limit)
    }

    /// Starts the body: from here on the rate counts.
    pub(super) fn body_begins(&mut self) {
        self.window = Window::starting_at(Instant::now());
    }

    /// Waits for the body's next bytes; `size` tells how many came.
    pub(super) async fn bytes<T>(
        &mut self,
        next: impl Future<Output = T>,
        size: impl FnOnce(&T) -> usize,
    ) -> Result<T, Overdue> {
        let mut next = pin!(next);
        loop {
            if let Ok(came) = timeout_at(self.next_limit(), next.as_mut()).await {
                self.window.received += size(&came) as u64;
                return Ok(came);
            }
            self.check(Instant::now())?;
        }
    }

    /// When the next limit of the body is due.
    fn next_limit(&self) -> Instant {
        self.window.ends.min(self.deadline)
    }

    /// Checks the limits that are due; begins the next window where one has ended well.
    fn check(&mut self, now: Instant) -> Result<(), Overdue> {
        if now >= self.deadline {
            return Err(Overdue::Total);
        }
        if now >= self.window.ends {
            if self.window.received < self.min_window_bytes {
                return Err(Overdue::Rate { received: self.window.received });
            }
            self.window = Window::starting_at(now);
        }
        Ok(())
    }

    /// Waits for something of ours, with every limit standing still.
    pub(super) async fn paused<T>(&mut self, ours: impl Future<Output = T>) -> T {
        let begun = Instant::now();
        let done = ours.await;
        self.move_by(begun.elapsed());
        done
    }

    fn move_by(&mut self, waited: Duration) {
        self.deadline += waited;
        self.window.ends += waited;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn clock() -> FetchClock {
        FetchClock::start(SECOND * 30, SECOND * 20, 100)
    }

    /// What becomes of a peer that sends `bytes` after each `pause`, and when, from `now` on.
    fn peer(clock: &mut FetchClock, now: Instant, bytes: u64, pause: Duration) -> (Overdue, Duration) {
        let mut comes = now + pause;
        loop {
            while clock.next_limit() <= comes {
                let due = clock.next_limit();
                if let Err(overdue) = clock.check(due) {
                    return (overdue, due - now);
                }
            }
            clock.window.received += bytes;
            comes += pause;
        }
    }

    #[test]
    fn a_trickle_ends_with_its_first_window_and_a_steady_stream_at_the_total() {
        for (bytes, pause, expected) in [
            (1, SECOND / 10, (Overdue::Rate { received: 49 }, RATE_WINDOW)),
            (11, SECOND / 10, (Overdue::Total, SECOND * 30)),
            // All bytes of a window at once, then a pause that is nearly as long.
            (500, RATE_WINDOW - SECOND / 2, (Overdue::Total, SECOND * 30)),
            (500, RATE_WINDOW * 3, (Overdue::Rate { received: 0 }, RATE_WINDOW)),
        ] {
            let mut clock = clock();
            let begun = clock.deadline - SECOND * 30;
            assert_eq!(peer(&mut clock, begun, bytes, pause), expected, "{bytes} bytes, {pause:?}");
        }
    }

    #[test]
    fn time_in_which_we_do_not_read_is_not_the_peers() {
        for (bytes, expected) in
            [(1, (Overdue::Rate { received: 49 }, RATE_WINDOW)), (11, (Overdue::Total, SECOND * 30))]
        {
            let mut clock = clock();
            let begun = clock.deadline - SECOND * 30;
            clock.move_by(SECOND * 300);
            assert_eq!(peer(&mut clock, begun + SECOND * 300, bytes, SECOND / 10), expected);
        }
    }

    #[tokio::test]
    async fn a_header_has_a_limit_of_its_own_within_the_total() {
        let never = std::future::pending::<()>;
        let short = Duration::from_millis(10);
        assert_eq!(FetchClock::start(SECOND, short, 0).header(never()).await, Err(Overdue::Header));
        assert_eq!(FetchClock::start(short, SECOND, 0).header(never()).await, Err(Overdue::Total));
    }
}
