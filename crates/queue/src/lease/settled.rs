//! What became of a settle.

use crate::error::Error;
use crate::redis::scripts::ScriptReply;

/// What became of a settle.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It is carried out.
    Settled,
    /// The lease was lost: somebody else has the job, and nothing was written.
    Superseded,
}

/// The next answer of a script that settles.
pub(crate) fn settled(reply: &mut ScriptReply) -> Result<Settled, Error> {
    match reply.text()?.as_str() {
        "settled" => Ok(Settled::Settled),
        "superseded" => Ok(Settled::Superseded),
        other => Err(reply.unexpected(other)),
    }
}
