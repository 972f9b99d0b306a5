//! What the events of this process's own outages say.

use uuid::Uuid;

use super::event::{Alert, Severity};
use super::outages::{OutageEvent, OutageEventKind};

/// Which queue this process works for, as its own alerts say it.
#[derive(Debug, Clone, Default)]
pub struct AlertSource {
    /// The queue's name.
    pub queue: String,
    /// What to type to look closer.
    pub look_closer: String,
}

impl OutageEvent {
    /// The event in words.
    pub(super) fn to_alert(&self, source: &AlertSource) -> Alert {
        let (what, seconds) = (self.what.as_str(), self.lasted.as_secs());
        let severity = match self.kind {
            OutageEventKind::Begins | OutageEventKind::Lasts => Severity::Error,
            OutageEventKind::Over => Severity::Info,
        };
        let head = match self.kind {
            OutageEventKind::Begins => format!("outage: {} for {seconds} s", self.what.failing_text()),
            OutageEventKind::Lasts => format!("outage goes on: {} for {seconds} s", self.what.failing_text()),
            OutageEventKind::Over => {
                format!("resolved: {} again after {seconds} s", self.what.recovered_text())
            }
        };
        let mut lines = vec![head];
        if !self.is_reduced {
            lines.push(self.detail.clone());
        }
        if self.count > 1 {
            lines.push(format!("stands for {} failures", self.count));
        }
        Alert {
            id: Uuid::new_v4(),
            severity,
            fingerprint: vec!["outage".to_owned(), what.to_owned()],
            lines,
            commands: vec![("look closer", source.look_closer.clone())],
            tags: vec![("queue", source.queue.clone()), ("outage", what.to_owned())],
            job: Vec::new(),
            traceparent: None,
            count: self.count,
        }
    }
}
