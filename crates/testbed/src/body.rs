//! A body with its headers, as a site serves it.

use std::io::Write as _;
use std::sync::Arc;

/// Bytes with the headers that go with them; cheap to clone.
#[derive(Debug, Clone)]
pub struct Body {
    bytes: Arc<[u8]>,
    headers: Vec<(String, String)>,
}

impl Body {
    /// Bytes without any word of what they are.
    pub fn raw(bytes: impl Into<Arc<[u8]>>) -> Self {
        Self { bytes: bytes.into(), headers: Vec::new() }
    }

    /// A page in UTF-8 that says so.
    pub fn html(bytes: impl Into<Arc<[u8]>>) -> Self {
        Self::raw(bytes).header("content-type", "text/html; charset=utf-8")
    }

    /// The same with one header more.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same, sent with `Content-Encoding: gzip`.
    ///
    /// # Panics
    /// Never: writing to memory does not fail.
    #[must_use]
    pub fn gzipped(mut self) -> Self {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let packed = encoder.write_all(&self.bytes).and_then(|()| encoder.finish());
        self.bytes = packed.expect("memory takes every write").into();
        self.header("content-encoding", "gzip")
    }

    /// The bytes as they are sent.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn shared(&self) -> Arc<[u8]> {
        Arc::clone(&self.bytes)
    }

    pub(super) fn headers(&self) -> Vec<(&str, &str)> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }
}
