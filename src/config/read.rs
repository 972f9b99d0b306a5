//! From layered values to sections: every mistake of every key is collected, and none stops the others.
//!
//! A key whose value cannot be read takes its default for the rest of the reading, so that the keys beside it
//! are read too; checks that involve such a key are left out.

use std::collections::BTreeSet;

use figment::Figment;
use figment::error::Kind;
use figment::util::nest;
use figment::value::{Dict, Num, Value};
use serde::de::DeserializeOwned;

use super::Config;
use super::layers::{self, ConfigSources, Layer};
use super::shown::{is_secret, shown};
use crate::job::text::clip;

/// Characters of a value that a message shows.
const MAX_SHOWN_CHARS: usize = 200;

/// What is being read, with what was wrong so far.
pub(super) struct Reader {
    figment: Figment,
    defaults: Dict,
    errors: Vec<String>,
    failed: BTreeSet<String>,
}

/// Reads every section before it gives up on one, so that all mistakes are reported.
macro_rules! sections {
    ($reader:ident: $($name:ident),+) => {{
        $(let $name = $reader.section(stringify!($name));)+
        Some(Config { $($name: $name?),+ })
    }};
}

impl Reader {
    /// Layers the sources.
    pub(super) fn new(sources: &ConfigSources) -> Self {
        let mut errors = Vec::new();
        let (figment, defaults) = layers::layer(sources, &mut errors);
        let assignments = layers::assignments(sources, &mut errors);
        let mut reader = Self { figment, defaults, errors, failed: BTreeSet::new() };
        reader.assign(assignments);
        reader
    }

    fn assign(&mut self, assignments: Vec<(String, String, String)>) {
        for (origin, key, text) in assignments {
            let Some(default) = layers::lookup(&self.defaults, &key) else {
                self.errors.push(format!("{origin}: {}", layers::unknown_key_error(&key, &self.defaults)));
                continue;
            };
            match layers::parse_as_default_type(default, text.trim()) {
                Ok(value) => self.put(&origin, &key, value),
                Err(what) => {
                    // Put all the same: the message shows the value and where it came from.
                    self.put(&origin, &key, Value::from(text.trim()));
                    self.fail(&key, &what);
                }
            }
        }
    }

    fn put(&mut self, origin: &str, key: &str, value: Value) {
        let figment = std::mem::take(&mut self.figment);
        self.figment = figment.merge(Layer::new(origin, nest(key, value)));
    }

    /// The sections; `None` where one cannot be read even with defaults for its mistakes.
    pub(super) fn config(&mut self) -> Option<Config> {
        sections!(self: queue, worker, policy, filter, fetch, api, results, sandbox, log, sentry, web, dash)
    }

    fn section<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        loop {
            let wrong = match self.figment.extract_inner::<T>(name) {
                Ok(section) => return Some(section),
                Err(wrong) => wrong,
            };
            let before = self.failed.len();
            for error in wrong {
                // figment puts the section's name behind the key's, and the index of an item behind that.
                let within = error.path.iter().find(|part| *part != name);
                let key = within.map_or_else(|| name.to_owned(), |key| format!("{name}.{key}"));
                let what = match &error.kind {
                    Kind::Message(text) => text.clone(),
                    // Its words repeat the value.
                    _ if is_secret(&key) => "must be a text in quotes".to_owned(),
                    kind => kind.to_string(),
                };
                self.fail(&key, &what);
            }
            if self.failed.len() == before {
                return None;
            }
        }
    }

    /// Notes a mistake, and goes on with the default in its place.
    fn fail(&mut self, key: &str, what: &str) {
        let default = layers::lookup(&self.defaults, key).cloned();
        let what = match default.as_ref().and_then(|default| way_out(default, what)) {
            Some(way_out) => format!("{what}; {way_out}"),
            None => what.to_owned(),
        };
        self.report(&[key], &what);
        if let Some(default) = default.filter(|default| default.as_dict().is_none()) {
            self.put(layers::BUILT_IN, key, default);
            self.failed.insert(key.to_owned());
        }
    }

    /// Reports a mistake of these keys, unless one of them could not even be read.
    pub(super) fn refuse(&mut self, keys: &[&str], what: &str) {
        if !keys.iter().any(|key| self.failed.contains(*key)) {
            self.report(keys, what);
        }
    }

    fn report(&mut self, keys: &[&str], what: &str) {
        let named = keys.iter().map(|key| {
            let value = self.figment.find_value(key).map(|value| shown(key, &value)).unwrap_or_default();
            let origin = self.figment.find_metadata(key).map_or("", |found| found.name.as_ref());
            format!("{key} = {} ({origin})", clip(&value, MAX_SHOWN_CHARS))
        });
        let named = named.collect::<Vec<_>>().join(" and ");
        self.errors.push(format!("{named}: {what}"));
    }

    /// What was read, and all that was wrong with it.
    pub(super) fn finish(self) -> (Figment, Vec<String>) {
        (self.figment, self.errors)
    }
}

/// How to write a value like this default, where the message does not say so itself.
fn way_out(default: &Value, what: &str) -> Option<&'static str> {
    if what.contains("write ") || what.contains("expected `") || what.contains("one of") {
        return None;
    }
    match default {
        Value::Bool(..) => Some("write true or false"),
        Value::Num(_, Num::F64(_) | Num::F32(_)) => Some("write a number"),
        Value::Num(..) => Some("write a whole number that is not negative"),
        Value::Array(..) => Some("write [\"10.0.0.0/8\", \"192.168.1.0/24\"] or 10.0.0.0/8,192.168.1.0/24")
            .filter(|_| what.contains("IP address"))
            .or(Some("write [\"a\", \"b\"] or a,b")),
        Value::String(_, text) if text.ends_with('B') => Some("write a size such as 64 KiB or 10 MiB"),
        Value::String(..) | Value::Char(..) | Value::Empty(..) | Value::Dict(..) => None,
    }
}
