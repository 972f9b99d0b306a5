//! Where whole results are kept, parsed when the configuration is read.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use url::Url;

/// The expected forms of a place, appended to every error.
const PLACES: &str = "write none, file:///directory or s3://bucket/prefix";
/// The expected form of an endpoint, appended to every error.
const ENDPOINT: &str = "write an http or https address such as https://s3.example.org:9000, without credentials, path, \
                        query or fragment; credentials go to results.access_key_id and results.secret_access_key";
/// The longest prefix in bytes: with the rest of a key it is far below the 1,024 that S3 allows.
const MAX_PREFIX_BYTES: usize = 512;

/// Where whole results are kept besides the small reports in Redis.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum StorePlace {
    /// Nowhere.
    None,
    /// In a directory of this machine.
    Directory(PathBuf),
    /// In a bucket of a server that speaks S3, under a prefix that may be empty.
    Bucket {
        /// Name of the bucket.
        bucket: String,
        /// What all keys begin with, without a slash at either end.
        prefix: String,
    },
}

impl FromStr for StorePlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "none" => Ok(Self::None),
            text => match text.split_once("://") {
                Some(("file", _)) => directory(text),
                Some(("s3", rest)) => bucket(rest),
                _ => Err(format!("neither none nor an address of file:// or s3://; {PLACES}")),
            },
        }
    }
}

fn directory(text: &str) -> Result<StorePlace, String> {
    let url = Url::parse(text).map_err(|e| format!("not an address ({e}); {PLACES}"))?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err(format!("more than a directory; {PLACES}"));
    }
    let path = url.to_file_path().map_err(|()| format!("names no directory of this machine; {PLACES}"))?;
    match path == Path::new("/") {
        true => Err(format!("names no directory; {PLACES}")),
        false => Ok(StorePlace::Directory(path)),
    }
}

/// Parses `bucket/prefix`. Only what needs no encoding is allowed, so that an address reads as it was written.
fn bucket(rest: &str) -> Result<StorePlace, String> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let in_bucket = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-".contains(&b);
    if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(in_bucket) {
        return Err(format!("the name of a bucket is 3 to 63 of a-z 0-9 . - ; {PLACES}"));
    }
    let prefix = prefix.trim_end_matches('/');
    let in_prefix = |b: u8| b.is_ascii_alphanumeric() || b"._-=".contains(&b);
    let is_part = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(in_prefix);
    if prefix.len() > MAX_PREFIX_BYTES || !(prefix.is_empty() || prefix.split('/').all(is_part)) {
        return Err(format!(
            "a prefix is at most {MAX_PREFIX_BYTES} of A-Z a-z 0-9 . _ - = in parts with a / between; {PLACES}"
        ));
    }
    Ok(StorePlace::Bucket { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
}

impl TryFrom<String> for StorePlace {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for StorePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Directory(path) => write!(f, "file://{}", path.display()),
            Self::Bucket { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::Bucket { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

/// Scheme, host and port of a server that speaks S3.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoreEndpoint(Url);

impl StoreEndpoint {
    /// The endpoint of AWS in a region.
    pub(super) fn of_region(region: &str) -> Result<Self, String> {
        format!("https://s3.{region}.amazonaws.com").parse()
    }

    /// Scheme, host and port.
    pub(super) fn url(&self) -> &Url {
        &self.0
    }
}

impl FromStr for StoreEndpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url = Url::parse(text.trim()).map_err(|e| format!("not an address ({e}); {ENDPOINT}"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!("neither http nor https; {ENDPOINT}"));
        }
        let bare = url.username().is_empty() && url.password().is_none() && url.path() == "/";
        if !bare || url.query().is_some() || url.fragment().is_some() {
            return Err(format!("more than scheme, host and port; {ENDPOINT}"));
        }
        Ok(Self(url))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_nowhere_a_directory_or_a_bucket_and_reads_back_as_written() {
        for text in ["none", "file:///var/lib/wm", "s3://results", "s3://my.results-2/a/b=c/d_e.f"] {
            assert_eq!(text.parse::<StorePlace>().unwrap().to_string(), text);
        }
        let with_slash = "s3://results/a/".parse::<StorePlace>().unwrap();
        assert_eq!(with_slash.to_string(), "s3://results/a");
    }

    #[test]
    fn what_is_no_place_is_refused_with_the_way_out() {
        for text in [
            "",
            "None!",
            "/var/lib/wm",
            "file://host/dir",
            "file:///",
            "file:///a?b",
            "file:///a#b",
            "s3://",
            "s3://ab",
            "s3://Results",
            "s3://key:secret@results",
            "s3://results/a//b",
            "s3://results/../b",
            "s3://results/a b",
            "s3://results/a?b=c",
            "https://results.s3.amazonaws.com/",
        ] {
            let refused = text.parse::<StorePlace>().expect_err(text);
            assert!(refused.contains(PLACES) && !refused.contains("secret"), "{text}: {refused}");
        }
        let long = format!("s3://results/{}", "a".repeat(MAX_PREFIX_BYTES + 1));
        assert!(long.parse::<StorePlace>().is_err());
    }

    #[test]
    fn an_endpoint_is_scheme_host_and_port_and_nothing_else() {
        for text in ["https://s3.example.org", "http://127.0.0.1:9000/", "https://[::1]:9000"] {
            assert!(text.parse::<StoreEndpoint>().is_ok(), "{text}");
        }
        for text in [
            "s3.example.org",
            "ftp://s3.example.org",
            "https://u:geheim@s3.example.org",
            "https://s3.example.org/bucket",
            "https://s3.example.org?geheim",
        ] {
            let refused = text.parse::<StoreEndpoint>().expect_err(text);
            assert!(refused.contains("write an http or https") && !refused.contains("geheim"), "{refused}");
        }
    }
}
