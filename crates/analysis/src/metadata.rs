//! Titles, descriptions and labels of images: what a page says of itself outside its visible text.
//!
//! They are no part of the annotation. A person who looks at a change wants to see them all the same.

use std::collections::BTreeMap;

use wm_job::report::{MAX_METADATA_CHANGES, METADATA_MAX_BYTES, MetadataChange};
use wm_job::text::floor_char_boundary;

/// Names of `meta` elements whose changes are worth reading; those that change with every request are not.
const META_NAMES: [&str; 5] = ["description", "keywords", "author", "robots", "subject"];
/// Beginnings of further ones.
const META_PREFIXES: [&str; 4] = ["og:", "dc.", "dcterms.", "article:"];
/// Most `meta` elements and most image labels that are compared, several times what real pages have.
const MAX_ENTRIES: usize = 2000;
/// Longest name of a `meta` element, in bytes.
const MAX_NAME_BYTES: usize = 60;
/// Budget of the listed changes in bytes of JSON, roughly.
const MAX_BYTES: usize = 1024;

/// The metadata of one page.
#[derive(Debug, Default)]
pub(super) struct PageMetadata {
    title: String,
    named: BTreeMap<String, String>,
    image_labels: Vec<String>,
}

impl PageMetadata {
    /// Appends to the title.
    pub(super) fn add_title(&mut self, text: &str) {
        let room = METADATA_MAX_BYTES.saturating_sub(self.title.len());
        self.title.push_str(&text[..floor_char_boundary(text, room)]);
    }

    /// Adds a `meta` element; of two with the same name the first one counts.
    pub(super) fn add_named(&mut self, name: &str, content: &str) {
        let name = name.trim().to_ascii_lowercase();
        let known =
            META_NAMES.contains(&&*name) || META_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        if known && name.len() <= MAX_NAME_BYTES && self.named.len() < MAX_ENTRIES {
            self.named.entry(name).or_insert_with(|| clipped(content));
        }
    }

    /// Adds the label of an image.
    pub(super) fn add_image_label(&mut self, alt: &str) {
        if !alt.trim().is_empty() && self.image_labels.len() < MAX_ENTRIES {
            self.image_labels.push(clipped(alt));
        }
    }
}

/// A value of at most [`METADATA_MAX_BYTES`], its white space collapsed.
fn clipped(text: &str) -> String {
    let mut value = String::new();
    for word in text.split_whitespace() {
        if value.len() + word.len() >= METADATA_MAX_BYTES - "…".len() {
            let room = METADATA_MAX_BYTES - "…".len() - value.len();
            value.push_str(&word[..floor_char_boundary(word, room)]);
            value.push('…');
            break;
        }
        if !value.is_empty() {
            value.push(' ');
        }
        value.push_str(word);
    }
    value
}

/// The changes, and how many more there are.
pub(super) fn compare(old: PageMetadata, new: PageMetadata) -> (Vec<MetadataChange>, u64) {
    let mut changes = Vec::new();
    let mut change = |name: &str, from: Option<String>, to: Option<String>| {
        if from != to {
            changes.push(MetadataChange { name: name.to_owned(), from, to });
        }
    };
    let [old_title, new_title] =
        [&old.title, &new.title].map(|title| Some(clipped(title)).filter(|t| !t.is_empty()));
    change("title", old_title, new_title);
    let mut added = new.named;
    for (name, from) in old.named {
        let to = added.remove(&name);
        change(&name, Some(from), to);
    }
    added.into_iter().for_each(|(name, to)| change(&name, None, Some(to)));
    let (removed, added) = differing(old.image_labels, new.image_labels);
    removed.into_iter().for_each(|label| change("image alt", Some(label), None));
    added.into_iter().for_each(|label| change("image alt", None, Some(label)));

    let all = changes.len();
    let mut used = 0;
    let fits = |change: &MetadataChange| {
        used += serde_json::to_vec(change).map_or(MAX_BYTES, |json| json.len() + 1);
        used <= MAX_BYTES
    };
    let listed: Vec<_> = changes.into_iter().take(MAX_METADATA_CHANGES).take_while(fits).collect();
    let left_out = (all - listed.len()) as u64;
    (listed, left_out)
}

/// What only one of two lists has, counting how often.
fn differing(mut old: Vec<String>, mut new: Vec<String>) -> (Vec<String>, Vec<String>) {
    old.sort_unstable();
    new.sort_unstable();
    let (mut removed, mut added) = (Vec::new(), Vec::new());
    let (mut old, mut new) = (old.into_iter().peekable(), new.into_iter().peekable());
    loop {
        match (old.peek(), new.peek()) {
            (Some(a), Some(b)) if a == b => {
                old.next();
                new.next();
            }
            (Some(a), Some(b)) if a < b => removed.extend(old.next()),
            (Some(_), None) => removed.extend(old.next()),
            (_, Some(_)) => added.extend(new.next()),
            (None, None) => return (removed, added),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(title: &str, named: &[(&str, &str)], labels: &[&str]) -> PageMetadata {
        let mut page = PageMetadata::default();
        page.add_title(title);
        named.iter().for_each(|(name, content)| page.add_named(name, content));
        labels.iter().for_each(|label| page.add_image_label(label));
        page
    }

    #[test]
    fn changed_added_and_removed_are_listed_and_noise_is_not() {
        let old = page(
            "Old  title\n",
            &[("Description", "a"), ("csrf-token", "1"), ("robots", "noindex")],
            &["x", "y", "y"],
        );
        let new = page(
            "New title",
            &[("description", "b"), ("csrf-token", "2"), ("og:image", "i")],
            &["y", "z", " "],
        );
        let (changes, left_out) = compare(old, new);
        let shown: Vec<_> = changes
            .iter()
            .map(|c| format!("{} {:?} {:?}", c.name, c.from.as_deref(), c.to.as_deref()))
            .collect();
        assert_eq!(
            shown,
            [
                r#"title Some("Old title") Some("New title")"#,
                r#"description Some("a") Some("b")"#,
                r#"robots Some("noindex") None"#,
                r#"og:image None Some("i")"#,
                r#"image alt Some("x") None"#,
                r#"image alt Some("y") None"#,
                r#"image alt None Some("z")"#,
            ]
        );
        assert_eq!(left_out, 0);
    }

    #[test]
    fn long_values_are_cut_and_many_are_counted() {
        let long = "ü ".repeat(METADATA_MAX_BYTES);
        let labels: Vec<String> = (0..500).map(|n| format!("label {n}")).collect();
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let (changes, left_out) = compare(page("x", &[("author", &long)], &[]), page("", &[], &labels));
        assert!(
            changes
                .iter()
                .all(|change| change.from.as_deref().is_none_or(|from| from.len() <= METADATA_MAX_BYTES))
        );
        assert!(changes[1].from.as_deref().is_some_and(|from| from.ends_with('…')), "{:?}", changes[1]);
        assert_eq!(changes.len() as u64 + left_out, 502);
        assert!(serde_json::to_vec(&changes).unwrap().len() <= MAX_BYTES + 2);
    }
}
