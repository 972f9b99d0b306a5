//! The db app's address, parsed when the configuration is read.

use std::str::FromStr;

use serde::Serialize;
use url::Url;

/// The expected form, appended to every error.
const FORM: &str = "write an http or https address such as https://db.example.org, without credentials, query or \
                    fragment; credentials go to api.email and api.password, or api.token";

/// An http or https address without credentials, query and fragment, with or without `/api/v0`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ApiUrl(Url);

impl ApiUrl {
    /// The address as configured, normalized by the URL parser.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The base address of all paths, with `/api/v0/` appended if it is missing.
    pub(super) fn base(&self) -> Url {
        let mut base = self.0.clone();
        let path = self.0.path().trim_end_matches('/');
        let path = path.strip_suffix("/api/v0").unwrap_or(path);
        base.set_path(&format!("{path}/api/v0/"));
        base
    }
}

impl FromStr for ApiUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url = Url::parse(text.trim()).map_err(|e| format!("not an address ({e}); {FORM}"))?;
        let bare = url.username().is_empty() && url.password().is_none();
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!("neither http nor https; {FORM}"));
        }
        if !bare || url.query().is_some() || url.fragment().is_some() {
            return Err(format!("more than an address; {FORM}"));
        }
        Ok(Self(url))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_http_address_is_one_and_it_leads_to_the_api() {
        for (text, base) in [
            ("https://db.test", "https://db.test/api/v0/"),
            ("https://db.test/", "https://db.test/api/v0/"),
            ("http://db.test:3000/api/v0", "http://db.test:3000/api/v0/"),
            ("http://db.test/api/v0/", "http://db.test/api/v0/"),
            ("http://proxy.test/db/", "http://proxy.test/db/api/v0/"),
        ] {
            assert_eq!(text.parse::<ApiUrl>().unwrap().base().as_str(), base, "{text}");
        }
        for text in [
            "ftp://db.test",
            "db.test",
            "https://",
            "https://geheim@db.test",
            "https://u:geheim@db.test",
            "https://db.test?token=geheim",
            "https://db.test#geheim",
            "https://u:ge/heim@db.test",
            "file:///geheim",
            "mailto:geheim@db.test",
        ] {
            let refused = text.parse::<ApiUrl>().expect_err(text);
            assert!(refused.contains("write an http or https address"), "{text}: {refused}");
            assert!(!refused.contains("heim"), "{refused}");
        }
    }
}
