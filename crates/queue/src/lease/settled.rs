//! What became of a settle.

use crate::error::Error;
use crate::redis::scripts::Words;

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
pub(crate) fn settled(words: &mut Words) -> Result<Settled, Error> {
    match words.text()?.as_str() {
        "settled" => Ok(Settled::Settled),
        "superseded" => Ok(Settled::Superseded),
        odd => Err(words.odd(odd)),
    }
}
