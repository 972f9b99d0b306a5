//! How a secret is shown: one mark, the same in configuration, messages, logs and alerts.

use secrecy::{ExposeSecret as _, SecretString};
use serde::Serializer;

/// Replaces a secret wherever one would be shown.
pub const MARK: &str = "***";

/// Serializes a secret as [`MARK`], and an empty one as the empty string, so that a reader sees whether it is set.
///
/// # Errors
/// Those of the serializer.
pub fn secret<S: Serializer>(secret: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(if secret.expose_secret().trim().is_empty() { "" } else { MARK })
}
