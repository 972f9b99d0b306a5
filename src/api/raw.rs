//! Who asks the app for a body that the app keeps itself.
//!
//! Invariant: credentials are for exactly `{api.url}/api/v0/versions/<uuid of that side>/raw`. A producer names a body's
//! address, so any other one, also of the same app, is asked without them.

use std::time::Instant;

use reqwest::header::HeaderMap;

use super::Api;
use super::auth::Identity;
use crate::job::failure::Failure;
use crate::job::page::{PagePair, Version};

/// The headers for the first request of each body of a pair.
#[derive(Default)]
pub struct RawHeaders {
    /// Older first; empty for a body that is not the app's.
    pub headers: [HeaderMap; 2],
    identity: Option<Identity>,
}

impl Api {
    /// The headers for the bodies of `pair`.
    ///
    /// # Errors
    /// Those of a login, where one is needed.
    pub async fn raw_headers(&self, pair: &PagePair) -> Result<RawHeaders, Failure> {
        self.raw_headers_but(pair, None).await
    }

    /// The same after the app has refused `refused`; `None` where there are no others.
    ///
    /// # Errors
    /// Those of a login.
    pub async fn renew_raw_headers(
        &self,
        pair: &PagePair,
        refused: &RawHeaders,
    ) -> Result<Option<RawHeaders>, Failure> {
        match &refused.identity {
            Some(identity) if self.client.can_renew(identity, Instant::now()) => {
                self.raw_headers_but(pair, Some(identity)).await.map(Some)
            }
            Some(_) | None => Ok(None),
        }
    }

    async fn raw_headers_but(
        &self,
        pair: &PagePair,
        refused: Option<&Identity>,
    ) -> Result<RawHeaders, Failure> {
        let sides = [&pair.from, &pair.to];
        if !sides.iter().any(|version| self.keeps_body_of(version)) {
            return Ok(RawHeaders::default());
        }
        let identity = self.client.identity(Instant::now(), refused).await?;
        let headers = sides.map(|version| match self.keeps_body_of(version) {
            true => self.client.auth.headers(&identity),
            false => HeaderMap::new(),
        });
        Ok(RawHeaders { headers, identity: Some(identity) })
    }

    fn keeps_body_of(&self, version: &Version) -> bool {
        self.client.url(&format!("versions/{}/raw", version.uuid)).is_ok_and(|own| own == version.body_url)
    }
}
