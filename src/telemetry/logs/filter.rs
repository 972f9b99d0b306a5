//! The log filter, in the syntax of `RUST_LOG`, parsed when the configuration is read.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

/// A filter that is known to parse; a blank text means `info`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct LogFilter(String);

impl LogFilter {
    /// Parses the filter for the subscriber.
    pub(super) fn to_env_filter(&self) -> EnvFilter {
        // Drops nothing: the text was parsed successfully before.
        EnvFilter::builder().parse_lossy(&self.0)
    }
}

impl FromStr for LogFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = match text.trim() {
            "" => "info",
            text => text,
        };
        match EnvFilter::builder().parse(text) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(e) => Err(format!("not a log filter ({e}); write e.g. info or wm_analyzer=debug,warn")),
        }
    }
}

impl TryFrom<String> for LogFilter {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_refused_with_the_way_out_and_a_blank_one_is_info() {
        for text in ["info,=x=", "wm=!!!", "wm=loud", "a=b=c", "wm[=debug", "=", "wm=debug,x=99"] {
            let refused = text.parse::<LogFilter>().expect_err(text);
            assert!(refused.contains("write e.g. info"), "{text}: {refused}");
        }
        for text in ["", " ", "info\n", "off", "wm_analyzer=debug,warn", "3"] {
            assert!(text.parse::<LogFilter>().is_ok(), "{text}");
        }
        assert_eq!(" ".parse::<LogFilter>().map(|filter| filter.0), Ok("info".to_owned()));
    }
}
