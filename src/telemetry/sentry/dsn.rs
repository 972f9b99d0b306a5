//! The address and key of a Sentry project, parsed when the configuration is read.
//!
//! Invariant: neither an error nor `Debug` nor `Serialize` shows any part of it.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::job::redact::MARK;

/// A parsed DSN: `https://<key>@<host>/<project>`.
#[derive(Clone)]
pub struct Dsn(::sentry::types::Dsn);

impl Dsn {
    /// The DSN in the SDK's type.
    pub(super) fn to_sdk(&self) -> ::sentry::types::Dsn {
        self.0.clone()
    }
}

/// The parser's error; never repeats the text.
#[derive(Debug, thiserror::Error)]
#[error("not a Sentry DSN ({0}); write https://<key>@<host>/<project>, or leave it blank for no alerts")]
pub struct DsnError(#[from] ::sentry::types::ParseDsnError);

impl FromStr for Dsn {
    type Err = DsnError;

    fn from_str(text: &str) -> Result<Self, DsnError> {
        Ok(Self(text.trim().parse()?))
    }
}

impl fmt::Debug for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dsn({MARK})")
    }
}

impl Serialize for Dsn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(MARK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_dsn_is_an_error_that_does_not_repeat_it() {
        for text in [
            "hunter2",
            "https://hunter2@sentry.test",
            "https://sentry.test/1?hunter2",
            "ftp://hunter2@sentry.test/1",
            "https://hunter2@/1",
            "//hunter2@:99999/1",
            "https://hunter2@sentry.test:99999/1",
        ] {
            let error = text.parse::<Dsn>().map(drop).expect_err(text);
            let shown = format!("{error} {error:?}");
            assert!(
                !shown.contains("hunter2") && shown.contains("https://<key>@<host>/<project>"),
                "{shown}"
            );
        }
    }

    #[test]
    fn a_dsn_is_shown_as_the_mark() {
        let dsn: Dsn = "https://hunter2@sentry.test/1".parse().unwrap();
        assert_eq!(format!("{dsn:?} {}", serde_json::to_string(&dsn).unwrap()), "Dsn(***) \"***\"");
    }
}
