//! Who did what: a row for every write of every command.

use redis::streams::StreamRangeReply;
use serde::Serialize;
use wm_job::redact::scrub;

use crate::Queue;
use crate::error::Error;
use crate::inspect::control::{Fields, REASON_MAX_CHARS};
use crate::inspect::operations::OperationId;
use crate::redis::scripts;
use crate::role::{OperatorHandle, ProducerHandle};
use crate::settings::AUDIT_MAX;

/// Longest selection that is stored, in characters.
const SELECTION_MAX_CHARS: usize = 1000;

/// Something that an operator did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct AuditEntry {
    /// When, in milliseconds since 1970 by the clock of Redis.
    pub at_ms: u64,
    /// The command: `pause`, `set`, `replay`, `discard`, `cancel`, ...
    pub what: String,
    /// The operator.
    pub by: String,
    /// What it was done to, as it was typed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub selection: String,
    /// How many jobs that was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// The operator's reason.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// The bulk action, which knows what became of each job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationId>,
}

impl AuditEntry {
    /// Reads the fields of a row, or of an operation.
    pub(crate) fn of(fields: &Fields, operation: Option<OperationId>) -> Self {
        let text = |name: &str| fields.get(name).cloned().unwrap_or_default();
        let number = |name: &str| fields.get(name).and_then(|text| text.parse().ok());
        Self {
            at_ms: number("at_ms").unwrap_or(0),
            what: text("what"),
            by: text("by"),
            selection: text("selection"),
            count: number("count").or_else(|| number("jobs")),
            why: text("why"),
            operation,
        }
    }

    /// The reason and the selection as they are stored: without secrets, because a person pastes addresses into both,
    /// and every operator reads them.
    pub(crate) fn stored_texts(&self) -> [String; 2] {
        [(&self.why, REASON_MAX_CHARS), (&self.selection, SELECTION_MAX_CHARS)]
            .map(|(text, most)| scrub(text).chars().take(most).collect())
    }
}

impl OperatorHandle {
    /// Records what an operator did, where no operation does.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn audit(&self, entry: &AuditEntry) -> Result<(), Error> {
        self.record_act(entry).await
    }
}

impl ProducerHandle {
    /// Records what a person enqueued.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn audit(&self, entry: &AuditEntry) -> Result<(), Error> {
        self.record_act(entry).await
    }
}

impl Queue {
    async fn record_act(&self, entry: &AuditEntry) -> Result<(), Error> {
        let AuditEntry { at_ms: _, what, by, selection: _, count, why: _, operation } = entry;
        let [why, selection] = entry.stored_texts();
        let call = self.call(&scripts::AUDIT).key(self.inner.keys.audit()).arg(&[what, by, &why, &selection]);
        let operation = operation.as_ref().map_or("", OperationId::as_str);
        let count = count.map_or_else(String::new, |count| count.to_string());
        call.arg(count).arg(operation).arg(AUDIT_MAX).reply().await.map(drop)
    }

    /// The newest `limit` rows, newest first, and how many there are.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn audit_rows(&self, limit: usize) -> Result<(Vec<AuditEntry>, u64), Error> {
        let key = self.inner.keys.audit();
        let mut pipe = redis::pipe();
        pipe.cmd("XREVRANGE").arg(&key).arg("+").arg("-").arg("COUNT").arg(limit);
        pipe.cmd("XLEN").arg(&key);
        let (rows, count): (StreamRangeReply, u64) = self.ask(&pipe).await?;
        let rows = rows.ids.into_iter().map(|row| {
            let field = |name: &str| Some((name.to_owned(), row.get::<String>(name)?));
            let names = ["what", "by", "selection", "count", "why", "operation"];
            let fields: Fields = names.into_iter().filter_map(field).collect();
            let operation = fields.get("operation").and_then(|id| OperationId::parse(id).ok());
            let at_ms = row.id.split('-').next().and_then(|ms| ms.parse().ok()).unwrap_or(0);
            AuditEntry { at_ms, ..AuditEntry::of(&fields, operation) }
        });
        Ok((rows.collect(), count))
    }
}
