//! A value as people may see it: TOML, with a mark for what is secret.

use figment::value::Value;

use crate::job::redact;

/// Keys whose values are never shown.
const SECRETS: [&str; 7] = [
    "sentry.dsn",
    "api.password",
    "api.token",
    "api.headers",
    "results.secret_access_key",
    "dash.view_token",
    "dash.operate_token",
];
/// Keys that hold an address whose credentials are never shown.
const SECRET_URLS: [&str; 4] = ["queue.url", "api.url", "results.store", "results.endpoint"];
/// What stands at such a key where there is no address.
const NO_ADDRESS: &str = "none";

/// Whether the value of this key may hold a secret.
pub(super) fn is_secret(key: &str) -> bool {
    SECRETS.contains(&key) || SECRET_URLS.contains(&key)
}

/// The value as TOML, without its secrets.
pub(super) fn shown(key: &str, value: &Value) -> String {
    let text = match value {
        _ if !is_secret(key) => return toml_literal(value),
        Value::String(_, text) if SECRETS.contains(&key) => redact::text(text).to_owned(),
        Value::String(_, text) if text == NO_ADDRESS => text.clone(),
        Value::String(_, text) => redact::url(text),
        Value::Array(_, items) => {
            return format!("[{}]", vec![format!("{:?}", redact::MARK); items.len()].join(", "));
        }
        _ => redact::MARK.to_owned(),
    };
    toml::Value::String(text).to_string()
}

fn toml_literal(value: &Value) -> String {
    match value {
        Value::String(_, text) => toml::Value::String(text.clone()).to_string(),
        Value::Char(_, c) => toml::Value::String(c.to_string()).to_string(),
        Value::Bool(_, flag) => flag.to_string(),
        Value::Num(_, num) => {
            num.to_i128().map_or_else(|| num.to_f64().unwrap_or_default().to_string(), |n| n.to_string())
        }
        Value::Empty(..) => "\"\"".to_owned(),
        Value::Array(_, items) => {
            format!("[{}]", items.iter().map(toml_literal).collect::<Vec<_>>().join(", "))
        }
        Value::Dict(..) => "{}".to_owned(),
    }
}
