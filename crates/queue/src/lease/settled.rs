//! The result of a settle.

use crate::error::Error;
use crate::redis::scripts::ScriptReply;

/// The result of a settle; also of a repeated one whose first reply was lost.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// The verdict was carried out.
    Settled,
    /// Its host rests: the job waits for it instead, and nothing was counted against it.
    Waits,
    /// The lease was lost, and the job reclaimed: nothing was written.
    Superseded,
}

/// Reads the next result from the reply of a script that settles.
pub(crate) fn settled(reply: &mut ScriptReply) -> Result<Settled, Error> {
    match reply.text()?.as_str() {
        "settled" => Ok(Settled::Settled),
        "superseded" => Ok(Settled::Superseded),
        other => Err(reply.unexpected(other)),
    }
}
