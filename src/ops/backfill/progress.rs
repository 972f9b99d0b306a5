//! How far a walk has come: a bar where a terminal can draw one, a line now and then where it cannot.

use std::cell::Cell;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use time::OffsetDateTime;

use super::cursor::BackfillCounts;
use crate::api::CaptureWindow;
use crate::ops::render;

/// How often a line is written where no bar can be drawn.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// How far it is along the time of capture: how many versions there are, the app does not say.
pub(super) struct BackfillProgress {
    span: CaptureWindow,
    bar: Option<ProgressBar>,
    last_printed: Cell<Instant>,
}

impl BackfillProgress {
    /// At the beginning.
    pub(super) fn new(span: CaptureWindow) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:40.cyan/blue} {percent}%  {msg}");
            let seconds = u64::try_from((span.until - span.since).whole_seconds()).unwrap_or_default();
            ProgressBar::new(seconds).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Self { span, bar, last_printed: Cell::new(Instant::now()) }
    }

    /// At this moment of capture.
    pub(super) fn show(&self, captured: OffsetDateTime, count: &BackfillCounts) {
        let line = format!("{} of {} versions enqueued, at {captured}", count.enqueued, count.seen);
        match &self.bar {
            Some(bar) => {
                bar.set_position(
                    u64::try_from((captured - self.span.since).whole_seconds()).unwrap_or_default(),
                );
                bar.set_message(line);
            }
            None if self.last_printed.get().elapsed() >= PROGRESS_INTERVAL => {
                self.last_printed.set(Instant::now());
                render::note(line);
            }
            None => {}
        }
    }
}

impl Drop for BackfillProgress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
