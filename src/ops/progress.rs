//! How far long work has come: a bar where stderr is a terminal, a line now and then where it is not.

use std::cell::Cell;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::render;

/// Progress towards a known total. Dropped, the bar is gone.
pub struct Progress {
    bar: Option<ProgressBar>,
    line_every: Duration,
    last_line: Cell<Instant>,
}

impl Progress {
    /// Progress from 0 to `total`, drawn by an indicatif `template`, or as one line per `line_every`.
    pub fn new(total: u64, template: &str, line_every: Duration) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template(template);
            ProgressBar::new(total).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Self { bar, line_every, last_line: Cell::new(Instant::now()) }
    }

    /// Shows `done` of the total with a message; `line` is what is written instead of a bar.
    pub fn show(&self, done: u64, message: String, line: impl FnOnce(&str) -> String) {
        match &self.bar {
            Some(bar) => {
                bar.set_position(done);
                bar.set_message(message);
            }
            None if self.last_line.get().elapsed() >= self.line_every => {
                self.last_line.set(Instant::now());
                render::note(line(&message));
            }
            None => {}
        }
    }

    /// True where a bar is drawn, which leaves no line behind.
    pub(crate) fn is_bar(&self) -> bool {
        self.bar.is_some()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
