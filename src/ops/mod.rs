//! The operator's commands.
//!
//! Rules: stdout is data and stderr is talk; JSON for programs; every bulk action says what it will touch
//! before, what it touched after, and how to go back. Nothing here decides what becomes of a job.

pub mod audit;
pub mod backfill;
pub(crate) mod changes;
pub mod check;
pub mod diff;
pub mod doctor;
pub mod enqueue;
pub mod job;
pub mod progress;
pub mod quarantine;
pub mod queue;
pub mod render;
pub mod report;
pub mod results;
pub mod selection;
pub mod sentry_test;
pub mod status;
pub mod transfer;
pub(crate) mod values;
pub mod worker;
pub mod workers;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Tables and sentences.
    Text,
    /// One JSON object.
    Json,
    /// A JSON object a line, for long lists.
    Ndjson,
}

impl Output {
    /// True where a program reads it.
    pub fn is_json(self) -> bool {
        match self {
            Self::Json | Self::Ndjson => true,
            Self::Text => false,
        }
    }
}

/// How a command ends, in the numbers of the field (`sysexits` above 63).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Success.
    Ok,
    /// The command failed.
    Failed,
    /// The arguments are wrong, or name something that cannot be read.
    Usage,
    /// Nothing matched.
    NothingMatched,
    /// Some of it was done.
    PartlyDone,
    /// Confirmation is needed, and stdin is not a terminal.
    ConfirmationNeeded,
    /// `diff`: rightly not analysed.
    Skipped,
    /// `diff`: this pair would be a dead letter.
    Poison,
    /// `check`: somebody should look.
    Warning,
    /// `check`: it will not get better by itself.
    Critical,
    /// `check`: Redis does not answer, so nothing is known.
    Unknown,
    /// Redis cannot be reached.
    RedisUnreachable,
    /// Redis answers and refused the write, at `maxmemory` or for now; it may be repeated (`EX_TEMPFAIL`).
    RedisFull,
    /// The configuration is wrong.
    Config,
    /// The operator stopped it; what to type to go on was said.
    Interrupted,
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NothingMatched => 3,
            Self::ConfirmationNeeded => 4,
            Self::PartlyDone => 5,
            // Those of a plugin of Nagios.
            Self::Warning => 1,
            Self::Critical => 2,
            Self::Unknown => 3,
            Self::Skipped => 10,
            Self::Poison => 11,
            Self::RedisUnreachable => 69,
            Self::RedisFull => 75,
            Self::Config => 78,
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
