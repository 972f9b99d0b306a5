//! Where a value comes from: built-in < files < environment < flags, each key with its origin.
//!
//! The built-in default holds every key, so it also says which keys there are and of what type: a value from
//! the environment is read as the type that stands there, and a key that is not there is refused with the
//! nearest one. What the values mean together is checked in `mod.rs`.

use std::path::{Path, PathBuf};

use figment::providers::{Format as _, Serialized, Toml};
use figment::value::{Dict, Map, Num, Value};
use figment::{Figment, Metadata, Profile, Provider};

/// Every key, with why this number.
pub const DEFAULT: &str = include_str!("../../config/default.toml");

/// The origin of a value that nothing has set.
pub(super) const BUILT_IN: &str = "built-in default";

/// Our own variables: `WM__SANDBOX__WALL=20s` is `sandbox.wall`.
const PREFIX: &str = "WM__";

/// Names that operators already have, and the key each one sets.
pub const ALIASES: [(&str, &str); 9] = [
    ("REDIS_URL", "queue.url"),
    ("SENTRY_DSN", "sentry.dsn"),
    ("SENTRY_ENVIRONMENT", "sentry.environment"),
    ("RUST_LOG", "log.filter"),
    ("WEB_MONITORING_DB_URL", "api.url"),
    ("WEB_MONITORING_DB_EMAIL", "api.email"),
    ("WEB_MONITORING_DB_PASSWORD", "api.password"),
    ("WEB_MONITORING_DB_TOKEN", "api.token"),
    ("ANALYSIS_REQUIRE_MEDIA_TYPE", "filter.require_media_type"),
];

/// A secret's file is a secret, not a book.
const MAX_SECRET_FILE_BYTES: u64 = 64 * 1024;

/// What the process was given.
#[derive(Debug, Clone, Default)]
pub struct ConfigSources {
    /// Built-in settings of a purpose, by name: the demo's.
    pub texts: Vec<(String, String)>,
    /// `--config FILE`, in order.
    pub files: Vec<PathBuf>,
    /// The environment.
    pub env: Vec<(String, String)>,
    /// Keys set by flags: dotted key, value.
    pub flags: Vec<(String, String)>,
}

impl ConfigSources {
    /// The real environment of this process.
    pub(crate) fn from_process(files: Vec<PathBuf>, flags: Vec<(String, String)>) -> Self {
        let env = std::env::vars_os()
            // What is not UTF-8 is refused where it is read, not passed over.
            .filter_map(|(k, v)| Some((k.into_string().ok()?, v.to_string_lossy().into_owned())))
            .collect();
        Self { texts: Vec::new(), files, env, flags }
    }
}

/// Layers all files over the defaults, collecting what is wrong with any of them; the defaults themselves
/// come too.
pub(super) fn layer(sources: &ConfigSources, errors: &mut Vec<String>) -> (Figment, Dict) {
    let defaults = read_toml(BUILT_IN, DEFAULT, errors);
    let mut figment = Figment::from(Layer::new(BUILT_IN, defaults.clone()));
    let mut texts = sources.texts.clone();
    for file in &sources.files {
        let name = file.display().to_string();
        match std::fs::read_to_string(file) {
            Ok(text) => texts.push((name, text)),
            Err(e) => errors.push(format!("{name}: {e}")),
        }
    }
    for (name, text) in texts {
        let values = read_toml(&name, &text, errors);
        reject_unknown_keys(&values, &defaults, "", &name, errors);
        figment = figment.merge(Layer::new(&name, values));
    }
    (figment, defaults)
}

/// Environment and flags as (origin, dotted key, value), weakest first.
pub(super) fn assignments(
    sources: &ConfigSources,
    errors: &mut Vec<String>,
) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    let mut add = |name: &str, key: String, value: &str| {
        found.push((format!("environment {name}"), key, value.to_owned()));
    };
    for (name, value) in &sources.env {
        let (stem, from_file) = match name.strip_suffix("_FILE") {
            Some(stem) => (stem, true),
            None => (name.as_str(), false),
        };
        let alias = ALIASES.iter().find(|(alias, _)| *alias == stem).map(|(_, key)| (*key).to_owned());
        let own = stem.strip_prefix(PREFIX).map(|rest| rest.to_lowercase().replace("__", "."));
        let Some(key) = alias.or(own) else { continue };
        if !from_file {
            add(name, key, value);
        } else {
            match read_small(Path::new(value.trim())) {
                Ok(text) => add(name, key, &text),
                Err(e) => errors.push(format!("environment {name}: {}: {e}", value.trim())),
            }
        }
    }
    // An alias is weaker than our own name, whichever order the environment has.
    found.sort_by_key(|(origin, _, _)| origin.contains(PREFIX));
    found.extend(
        sources.flags.iter().map(|(key, value)| (format!("flag for {key}"), key.clone(), value.clone())),
    );
    found
}

fn read_small(path: &Path) -> Result<String, String> {
    let size = std::fs::metadata(path).map_err(|e| e.to_string())?.len();
    if size > MAX_SECRET_FILE_BYTES {
        return Err(format!("has {size} bytes, a value at most {MAX_SECRET_FILE_BYTES}"));
    }
    std::fs::read_to_string(path).map_err(|e| e.to_string())
}

fn read_toml(name: &str, text: &str, errors: &mut Vec<String>) -> Dict {
    match Toml::string(text).data() {
        Ok(mut profiles) => profiles.remove(&Profile::Default).unwrap_or_default(),
        Err(e) => {
            // Not the line it quotes: it may hold a secret.
            let message = e.to_string();
            let lines: Vec<&str> =
                message.lines().filter(|line| !line.contains('|') && !line.trim().is_empty()).collect();
            errors.push(format!("{name}: {}", lines.join(": ")));
            Dict::new()
        }
    }
}

/// Reads text as the type that this default has. No error repeats the text.
pub(super) fn parse_as_default_type(default: &Value, text: &str) -> Result<Value, String> {
    let value = match default {
        Value::Bool(..) => Value::from(boolean(text).ok_or("neither true nor false")?),
        Value::Num(_, Num::F64(_) | Num::F32(_)) => {
            Value::from(text.parse::<f64>().map_err(|e| e.to_string())?)
        }
        Value::Num(..) => Value::from(text.parse::<i64>().map_err(|e| e.to_string())?),
        Value::Array(..) => list(text)?,
        Value::Dict(..) => return Err("a section: name a key in it".to_owned()),
        Value::String(..) | Value::Char(..) | Value::Empty(..) => Value::from(text),
    };
    Ok(value)
}

/// A list as a file writes it, `["a", "b"]`, or with commas between.
fn list(text: &str) -> Result<Value, String> {
    if !text.starts_with('[') {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        return Ok(Value::from(items.map(Value::from).collect::<Vec<_>>()));
    }
    let read = Toml::string(&format!("list = {text}")).data().ok();
    let list = read.and_then(|mut profiles| profiles.remove(&Profile::Default)?.remove("list"));
    list.filter(|list| matches!(list, Value::Array(..))).ok_or_else(|| "not a list".to_owned())
}

fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "t" | "1" | "yes" | "on" => Some(true),
        "false" | "f" | "0" | "no" | "off" | "" => Some(false),
        _ => None,
    }
}

/// The value at a dotted key.
pub(super) fn lookup<'a>(dict: &'a Dict, key: &str) -> Option<&'a Value> {
    let mut parts = key.split('.');
    let mut value = dict.get(parts.next()?)?;
    for part in parts {
        value = value.as_dict()?.get(part)?;
    }
    Some(value)
}

fn reject_unknown_keys(values: &Dict, defaults: &Dict, path: &str, origin: &str, errors: &mut Vec<String>) {
    for (key, value) in values {
        let full = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match (lookup(defaults, &full), value.as_dict()) {
            (None, _) => errors.push(format!("{origin}: {}", unknown_key_error(&full, defaults))),
            (Some(Value::Dict(..)), Some(inner)) => {
                reject_unknown_keys(inner, defaults, &full, origin, errors)
            }
            (Some(_), _) => {}
        }
    }
}

/// That there is no such key, with the nearest one.
pub(super) fn unknown_key_error(key: &str, defaults: &Dict) -> String {
    let near = keys(defaults)
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(key, &known), known))
        .min()
        .filter(|(distance, _)| *distance <= 4);
    match near {
        Some((_, near)) => format!("unknown key {key}: did you mean {near}?"),
        None => format!("unknown key {key}: `config show` lists every key"),
    }
}

/// Every leaf key of a dict, dotted, in order.
pub(super) fn keys(dict: &Dict) -> Vec<String> {
    let mut found = Vec::new();
    for (key, value) in dict {
        match value.as_dict() {
            Some(inner) => found.extend(keys(inner).into_iter().map(|rest| format!("{key}.{rest}"))),
            None => found.push(key.clone()),
        }
    }
    found
}

/// One source with its name, so that figment can say which one set a key.
pub(super) struct Layer {
    name: String,
    values: Value,
}

impl Layer {
    /// A source of values under a name.
    pub(super) fn new(name: &str, values: impl Into<Value>) -> Self {
        Self { name: name.to_owned(), values: values.into() }
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        // Values carry the tag of the provider that parsed them; ours is the one that names the origin.
        Serialized::defaults(&self.values).data()
    }
}
