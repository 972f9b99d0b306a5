//! A file as the house rules read it: its text, its code without comments and literals, its words and brackets.
//!
//! Not a parser. Invariant: what is blanked leaves everything else at the byte where it was.

use std::fs;
use std::path::Path;

/// One file, and if it is Rust, its code: the text with comments and literals blanked, byte for byte in the same place.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) code: String,
    /// Where the code ends and `mod tests` begins.
    pub(crate) untested: usize,
}

impl Source {
    pub(crate) fn new(path: &str, text: String) -> Self {
        let code = if path.ends_with(".rs") { code(&text) } else { String::new() };
        let untested = code.find("\n#[cfg(test)]\nmod ").map_or(code.len(), |at| at + 1);
        Self { path: path.to_owned(), text, code, untested }
    }

    /// The room: `src/<room>.rs`, `src/<room>/...` or `crates/<room>/...`.
    pub(crate) fn module(&self) -> &str {
        let inside = self.path.strip_prefix("src/").or_else(|| self.path.strip_prefix("crates/"));
        let inside = inside.unwrap_or(&self.path);
        inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs")
    }

    /// Where the code says `name`, with what stands before it and after it.
    pub(crate) fn uses<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (usize, &'a str, &'a str)> {
        let named = words(&self.code).filter(move |(_, word)| *word == name);
        named.map(move |(at, _)| (at, &self.code[..at], &self.code[at + name.len()..]))
    }
}

/// Every file under `places` whose path has this `ending`.
pub(crate) fn sources(places: &[&str], ending: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut waiting: Vec<_> = places.iter().map(|place| root.join(place)).collect();
    let mut found = Vec::new();
    while let Some(path) = waiting.pop() {
        if path.ends_with("target") || path.ends_with(".git") {
            continue;
        }
        if let Ok(inside) = fs::read_dir(&path) {
            waiting.extend(inside.flatten().map(|entry| entry.path()));
        } else if path.to_string_lossy().ends_with(ending)
            && let Ok(bytes) = fs::read(&path)
        {
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy();
            let name = name.trim_start_matches("./");
            found.push(Source::new(name, String::from_utf8_lossy(&bytes).into_owned()));
        }
    }
    found
}

/// The identifiers and keywords of `code`, with their places.
pub(crate) fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let of_a_word = |c: char| c.is_alphanumeric() || c == '_';
    let pieces = code.split(move |c| !of_a_word(c));
    pieces
        .filter(|word| !word.is_empty())
        .map(move |word| (word.as_ptr() as usize - code.as_ptr() as usize, word))
}

/// `RetryBudget` and `retry_budget` are both `retry`, `budget`.
pub(crate) fn parts(name: &str) -> Vec<String> {
    let mut spaced = String::new();
    for c in name.chars() {
        if c.is_uppercase() {
            spaced.push('_');
        }
        spaced.extend(c.to_lowercase());
    }
    spaced.split('_').map(str::to_owned).collect()
}

/// The first names that a path leads to: of `a::b` that is `a`, of `{a, b::{c, d}}` they are `a` and `b`.
pub(crate) fn heads(path: &str) -> Vec<&str> {
    let first = |text| words(text).next().map_or("", |(_, word)| word);
    if !path.starts_with('{') {
        return vec![first(path)];
    }
    let inside = balanced(path).trim_matches(['{', '}']);
    let mut depth = 0_usize;
    let split = inside.split(|c| {
        depth = match c {
            '{' => depth + 1,
            '}' => depth.saturating_sub(1),
            _ => depth,
        };
        c == ',' && depth == 0
    });
    split.map(first).collect()
}

/// From the start to the bracket that closes the first one opened.
pub(crate) fn balanced(text: &str) -> &str {
    let mut depth = 0_usize;
    for (at, c) in text.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth == 1 => return &text[..=at],
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    text
}

/// An item: from the start to the end of its block, or to its semicolon.
pub(crate) fn body(item: &str) -> &str {
    let mut at = 0;
    while let Some(next) = item[at..].find(['(', '[', '{', ';']) {
        at += next;
        match item.as_bytes()[at] {
            b';' => return &item[..at],
            b'{' => return &item[..at + balanced(&item[at..]).len()],
            _ => at += balanced(&item[at..]).len(),
        }
    }
    item
}

/// `text` with every comment and literal blanked, line ends kept.
pub(crate) fn code(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let length = blank(&text.as_bytes()[at..]).min(bytes.len() - at);
        bytes[at..at + length].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
        at += length.max(1);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// How long the comment or literal is that `rest` begins with; 0 if it begins with neither.
fn blank(rest: &[u8]) -> usize {
    let find = |from: usize, end: &[u8]| {
        let found = rest.get(from..).and_then(|tail| tail.windows(end.len()).position(|part| part == end));
        found.map_or(rest.len(), |at| from + at + end.len())
    };
    match rest {
        [b'/', b'/', ..] => rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => find(2, b"*/"),
        [b'r', b'#' | b'"', ..] => {
            let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
            let end = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
            if rest.get(1 + hashes) == Some(&b'"') { find(2 + hashes, &end) } else { 0 }
        }
        [b'"', ..] => {
            let mut at = 1;
            while at < rest.len() && rest[at] != b'"' {
                at += if rest[at] == b'\\' { 2 } else { 1 };
            }
            at + 1
        }
        [b'\'', b'\\', ..] => find(3, b"'"),
        // A character, not a lifetime: one scalar (up to 4 bytes) and a quote.
        [b'\'', first, tail @ ..] => {
            let scalar = (first.leading_ones() as usize).max(1);
            if tail.get(scalar - 1) == Some(&b'\'') { scalar + 2 } else { 0 }
        }
        _ => 0,
    }
}
