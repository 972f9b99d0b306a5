//! A list of another job system, as written in the configuration.

use serde::{Deserialize, Serialize};

/// The job system that owns the list; determines at which end the oldest payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ForeignSystem {
    Sidekiq,
    Resque,
}

/// A list to adopt: `sidekiq:<key>` or `resque:<key>`, where the key is `queue:<name>` with any namespace
/// before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ForeignList {
    pub(crate) system: ForeignSystem,
    pub(crate) key: String,
}

impl ForeignList {
    /// The namespace before `queue:`, shared by the other keys of that system, and the queue's name.
    pub(crate) fn parts(&self) -> (&str, &str) {
        let at = self.key.rfind("queue:").unwrap_or_default();
        (&self.key[..at], self.key[at..].trim_start_matches("queue:"))
    }
}

impl TryFrom<String> for ForeignList {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let way_out = || {
            format!("{text:?} cannot be adopted: write sidekiq:queue:<name> or resque:resque:queue:<name>")
        };
        let (system, key) = text.split_once(':').ok_or_else(way_out)?;
        let system = match system {
            "sidekiq" => ForeignSystem::Sidekiq,
            "resque" => ForeignSystem::Resque,
            _ => return Err(way_out()),
        };
        let list = Self { system, key: key.to_owned() };
        let named = key.contains("queue:") && !list.parts().1.is_empty();
        if named { Ok(list) } else { Err(way_out()) }
    }
}

impl From<ForeignList> for String {
    fn from(list: ForeignList) -> Self {
        match list.system {
            ForeignSystem::Sidekiq => format!("sidekiq:{}", list.key),
            ForeignSystem::Resque => format!("resque:{}", list.key),
        }
    }
}
