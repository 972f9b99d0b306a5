//! Annotations on their way to the db app: which are posted, and that none is posted twice unseen.

use serde::{Deserialize, Serialize};

use super::Api;
use crate::job::failure::{Failure, FailureKind};
use crate::job::media_type::MediaType;
use crate::job::page::PagePair;
use crate::job::report::{Annotation, BodyFacts, Report};

/// What to do with annotations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PostMode {
    /// Post them to the db app.
    Post,
    /// Do everything except the call: the annotation remains in the report.
    DryRun,
    /// Post nothing: the API is used for lookups only.
    Off,
}

/// Which annotations are posted in which a diff is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PostPartial {
    /// Those of pairs that are declared as text, which the app's own job annotated.
    Text,
    /// All.
    Always,
    /// None.
    Never,
}

/// Whether the app's own job would have compared a body of this declared type, or of none.
fn is_declared_text(body: &BodyFacts) -> bool {
    let Some(declared) = &body.declared else { return true };
    let declared = MediaType::parse(declared);
    let media = declared.canonical();
    (media.starts_with("text/") && media != "text/calendar") || media == "application/xhtml+xml"
}

/// What happened to an annotation that was not refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PostOutcome {
    /// The app accepted it.
    Posted,
    /// Not sent, because of `PostMode::DryRun`.
    DryRun,
    /// Not sent, because of `PostMode::Off`.
    Off,
}

impl Api {
    /// Whether annotations are actually posted.
    pub fn posts(&self) -> bool {
        self.post == PostMode::Post
    }

    /// Whether the annotation of this report is posted. A partial one looks like that of a page without links or text;
    /// the report lists what is missing.
    pub fn takes(&self, report: &Report) -> bool {
        let is_wanted = report.missing.is_empty()
            || match self.post_partial {
                PostPartial::Text => report.bodies.iter().all(is_declared_text),
                PostPartial::Always => true,
                PostPartial::Never => false,
            };
        self.posts() && is_wanted
    }

    /// Posts an annotation. The app keeps one per change and author, so posting again overwrites it. Two posts at a time
    /// may store two, as the app has no unique index on them: where an earlier one `may_have_arrived`, what the app has is
    /// read first.
    ///
    /// # Errors
    /// `rejected` with the app's error titles, `version_missing`, `api_refused` or `api_unavailable`.
    pub async fn post_annotation(
        &self,
        pair: &PagePair,
        annotation: &Annotation,
        may_have_arrived: bool,
    ) -> Result<PostOutcome, Failure> {
        if self.post == PostMode::Off {
            return Ok(PostOutcome::Off);
        }
        let Some(page) = pair.page else {
            let detail = "the page is not known, and an annotation is posted to a page's change";
            return Err(Failure::new(FailureKind::BadReference, detail));
        };
        if self.post == PostMode::DryRun {
            return Ok(PostOutcome::DryRun);
        }
        let path = format!("pages/{page}/changes/{}..{}/annotations", pair.from.uuid, pair.to.uuid);
        if !(may_have_arrived && self.has_annotation(&path, annotation).await?) {
            self.client.post(&path, annotation).await?;
        }
        Ok(PostOutcome::Posted)
    }

    async fn has_annotation(&self, path: &str, annotation: &Annotation) -> Result<bool, Failure> {
        let posted = serde_json::to_value(annotation).unwrap_or_default();
        let answer = self.client.get(path).await.map_err(|failure| match failure.kind {
            FailureKind::VersionUnreadable => Failure { kind: FailureKind::ApiUnavailable, ..failure },
            _ => failure,
        })?;
        let stored = answer["data"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(stored.iter().any(|stored| stored["annotation"] == posted))
    }
}
