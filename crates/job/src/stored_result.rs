//! Where a whole result lies outside Redis, and what it must be.

use serde::{Deserialize, Serialize};

use super::text::sha256_hex;

/// Address, size and hash of a whole result in the results store: gzip of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredResult {
    /// `s3://bucket/prefix/v1/<from>..<to>.json.gz`, or the same as `file:///...`.
    pub url: String,
    /// Its size there, compressed.
    pub bytes: u64,
    /// SHA-256 of these bytes, in lower-case hex.
    pub sha256: String,
}

impl StoredResult {
    /// What these bytes are at this address.
    pub fn of(url: String, gzip: &[u8]) -> Self {
        Self { url, bytes: gzip.len() as u64, sha256: sha256_hex(gzip) }
    }

    /// Whether these are the bytes that were stored, and not those of another run or another writer.
    pub fn is_of(&self, gzip: &[u8]) -> bool {
        self.bytes == gzip.len() as u64 && self.sha256 == sha256_hex(gzip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_tells_its_own_bytes_from_any_others() {
        let stored = StoredResult::of("file:///r/v1/a..b.json.gz".to_owned(), b"abc");
        assert_eq!(stored.bytes, 3);
        assert!(stored.is_of(b"abc") && !stored.is_of(b"abd") && !stored.is_of(b"abcd"));
    }
}
