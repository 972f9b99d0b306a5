//! A job that did not need to be analysed, and why.

use serde::{Deserialize, Serialize};

use super::bounded;
use super::measured::ChildUsage;
use super::page::Side;
use super::redact::scrub;

/// Why skipping was the right decision: a label for counters.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    strum::IntoStaticStr,
    strum::EnumString,
    strum::VariantArray,
    strum::Display,
)]
#[strum(serialize_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// Both references name the same version.
    SameVersion,
    /// The older version was captured after the newer one.
    WrongOrder,
    /// The newer version is its page's first: there is no previous one to compare it with.
    NoPrevious,
    /// This pair was analysed before, which was known only after resolving it.
    AlreadyDone,
    /// A body has no address, or one that is not http or https.
    NotHttp,
    /// A declared media type is not that of a page.
    MediaType,
    /// No media type is declared and the configuration requires one.
    MediaTypeUnknown,
    /// No media type is declared and the extension is not that of a page.
    Extension,
    /// The bytes are not a page, whatever the headers declare.
    Content,
    /// The two bodies are of different types.
    UnlikeContent,
    /// The bytes are text in an encoding that cannot be determined reliably.
    Undecodable,
    /// The job's `expires_at` passed before it ran.
    Expired,
    /// An operator cancelled it.
    Cancelled,
}

impl SkipReason {
    /// All reasons, for tables and tests.
    pub const ALL: &'static [Self] = <Self as strum::VariantArray>::VARIANTS;

    /// The snake_case label, used everywhere.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// True when the same pair would be skipped for the same reason again: what was captured does not change.
    pub fn is_permanent(self) -> bool {
        match self {
            Self::SameVersion
            | Self::WrongOrder
            | Self::NotHttp
            | Self::MediaType
            | Self::Extension
            | Self::Content
            | Self::UnlikeContent
            | Self::Undecodable => true,
            // An older version may be imported later; a configuration need not require a type; the others are
            // about the job, not about its pair.
            Self::NoPrevious
            | Self::MediaTypeUnknown
            | Self::AlreadyDone
            | Self::Expired
            | Self::Cancelled => false,
        }
    }
}

/// The media types that the bytes of a pair show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SniffedTypes {
    /// Of the older version.
    #[serde(deserialize_with = "bounded::string::<_, 127>")]
    pub from: String,
    /// Of the newer version.
    #[serde(deserialize_with = "bounded::string::<_, 127>")]
    pub to: String,
}

/// A skip with its details.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skip {
    /// The reason, which is counted.
    pub reason: SkipReason,
    /// One sentence for an operator, e.g. ``from is application/pdf (declared text/html)``. Scrubbed
    /// of secrets; may hold hostile text.
    pub detail: String,
    /// The version that caused it, if only one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub side: Option<Side>,
    /// What the bytes of the two bodies are, where that is why: `text/html` that became `application/pdf`, say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sniffed: Option<SniffedTypes>,
    /// Resource usage of the child that detected it, if one ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<Box<ChildUsage>>,
}

impl Skip {
    /// A skip with a reason and a sentence, scrubbed of secrets, all other fields empty.
    pub fn new(reason: SkipReason, detail: impl AsRef<str>) -> Self {
        Self { reason, detail: scrub(detail.as_ref()), side: None, sniffed: None, measured: None }
    }

    /// Sets the version that caused it.
    #[must_use]
    pub fn on(mut self, side: Side) -> Self {
        self.side = Some(side);
        self
    }
}
