//! What a failed call of the results store says: what happened, and what to do about it.
//!
//! Invariant: a failure is the store's, never a job's.

use std::io::{self, ErrorKind};

use super::place::StorePlace;
use super::s3::{Peer, S3Cause, S3Error};
use crate::job::failure::FailureKind;
use crate::job::text::{causes, innermost_cause};

/// The kind of failure, and a sentence about it.
pub(super) fn explain(error: &object_store::Error, place: &StorePlace) -> (FailureKind, String) {
    if let Some(error) = find::<S3Error>(error) {
        return of_server(error, place);
    }
    match find::<io::Error>(error) {
        Some(error) if matches!(place, StorePlace::Directory(_)) => of_directory(error, place),
        // An answer that ended too early, or one that is not in the form of S3.
        Some(_) | None => {
            let what = format!("the results store {place} failed ({})", innermost_cause(error));
            (FailureKind::StoreUnavailable, what)
        }
    }
}

/// Whether an object is not there, as opposed to its bucket.
pub(super) fn is_absent(error: &object_store::Error) -> bool {
    if let Some(S3Error { peer: Peer::Store, cause: S3Cause::Answered { status: 404, code, .. } }) =
        find(error)
    {
        return code != "NoSuchBucket";
    }
    matches!(error, object_store::Error::NotFound { .. })
}

fn find<T: std::error::Error + 'static>(error: &object_store::Error) -> Option<&T> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

fn of_server(error: &S3Error, place: &StorePlace) -> (FailureKind, String) {
    let said = error.summary();
    let (status, code) = match &error.cause {
        S3Cause::Unanswered(_) => (None, ""),
        S3Cause::Answered { status, code, .. } => (Some(*status), code.as_str()),
    };
    let kind = match status {
        None | Some(408 | 409 | 425 | 429 | 500..) => FailureKind::StoreUnavailable,
        Some(_) => FailureKind::StoreRefused,
    };
    if error.peer == Peer::Metadata {
        let what = format!(
            "the results store {place} got no credentials: the instance metadata service {said}; give the machine a \
             role, or set results.access_key_id and results.secret_access_key"
        );
        return (kind, what);
    }
    let way_out = match (status, code) {
        (None, _) => "",
        (Some(_), "NoSuchBucket") => ": create the bucket, or correct results.store",
        (Some(401 | 403), _) => ": its key needs s3:PutObject and s3:GetObject under this prefix",
        (Some(507), _) => ": it is full, make room there",
        (Some(300..=499), _) if kind == FailureKind::StoreRefused => {
            ": check results.store, results.region and results.endpoint"
        }
        (Some(_), _) => "",
    };
    (kind, format!("the results store {place} {said}{way_out}"))
}

fn of_directory(error: &io::Error, place: &StorePlace) -> (FailureKind, String) {
    let (kind, way_out) = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            (FailureKind::StoreUnavailable, ": it is full, make room there")
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::NotADirectory => {
            (FailureKind::StoreRefused, ": it must be a directory that the worker's user may write to")
        }
        _ => (FailureKind::StoreUnavailable, ""),
    };
    (kind, format!("the results store {place} cannot be used ({error}){way_out}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> StorePlace {
        "s3://results/wm".parse().unwrap()
    }

    #[test]
    fn every_status_is_the_stores_fault_and_says_what_to_do() {
        use FailureKind::{StoreRefused, StoreUnavailable};
        for (status, code, expected, way_out) in [
            (301, "PermanentRedirect", StoreRefused, "results.region"),
            (400, "AuthorizationHeaderMalformed", StoreRefused, "results.region"),
            (401, "", StoreRefused, "s3:PutObject"),
            (403, "AccessDenied", StoreRefused, "s3:PutObject"),
            (404, "NoSuchBucket", StoreRefused, "create the bucket"),
            (404, "", StoreRefused, "results.endpoint"),
            (408, "", StoreUnavailable, ""),
            (409, "OperationAborted", StoreUnavailable, ""),
            (411, "", StoreRefused, "results.endpoint"),
            (429, "", StoreUnavailable, ""),
            (500, "InternalError", StoreUnavailable, ""),
            (503, "SlowDown", StoreUnavailable, "SlowDown: why"),
            (507, "", StoreUnavailable, "make room"),
        ] {
            let cause = S3Cause::Answered { status, code: code.to_owned(), message: "why".to_owned() };
            let (kind, what) = of_server(&S3Error { peer: Peer::Store, cause }, &place());
            assert_eq!(kind, expected, "{status} {code}");
            assert!(
                what.starts_with(&format!("the results store s3://results/wm answered {status}")),
                "{what}"
            );
            assert!(what.contains(way_out), "{what}");
        }
    }

    #[test]
    fn a_full_disk_passes_and_a_directory_that_is_not_ours_does_not() {
        for (kind, expected) in [
            (ErrorKind::StorageFull, FailureKind::StoreUnavailable),
            (ErrorKind::QuotaExceeded, FailureKind::StoreUnavailable),
            (ErrorKind::TimedOut, FailureKind::StoreUnavailable),
            (ErrorKind::ReadOnlyFilesystem, FailureKind::StoreRefused),
            (ErrorKind::PermissionDenied, FailureKind::StoreRefused),
        ] {
            let directory = "file:///results".parse().unwrap();
            let error = object_store::Error::Generic { store: "x", source: io::Error::from(kind).into() };
            assert_eq!(explain(&error, &directory).0, expected, "{kind}");
        }
    }
}
