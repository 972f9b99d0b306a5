//! The JSON Schemas of what goes into a queue and what comes out of it, as `config schema` prints them.

use clap::ValueEnum;

/// What a schema is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Schema {
    /// A job in the native form.
    Job,
    /// What is stored of a pair.
    Report,
    /// An entry of the stream of events.
    Event,
}

impl Schema {
    /// The schema itself.
    pub fn text(self) -> &'static str {
        match self {
            Self::Job => include_str!("../../config/schema/job.json"),
            Self::Report => include_str!("../../config/schema/report.json"),
            Self::Event => include_str!("../../config/schema/event.json"),
        }
    }
}
