//! The operator's commands.
//!
//! Rules: stdout is data and stderr is talk; JSON for programs; every bulk action says what it will touch
//! before, what it touched after, and how to go back. Nothing here decides what becomes of a job.

pub mod backfill;
mod changes;
pub mod check;
pub mod dead;
pub mod diff;
pub mod doctor;
pub mod enqueue;
pub mod progress;
pub mod queue;
pub mod render;
pub mod report;
pub mod results;
pub mod sentry_test;
pub mod status;
pub mod worker;

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
            // Those of a plugin of Nagios.
            Self::Warning => 1,
            Self::Critical => 2,
            Self::Unknown => 3,
            Self::Skipped => 10,
            Self::Poison => 11,
            Self::RedisUnreachable => 69,
            Self::RedisFull => 75,
            Self::Config => 78,
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
