//! What is compared: real pages of a directory or generated ones, the shapes that are hard to compare, and one page in
//! several sizes.

use std::path::{Path, PathBuf};

use wm_testbed::pages::{self, Rng};
use wm_testbed::poison;

/// A page and its next version.
pub(crate) struct Pair {
    pub(crate) name: String,
    pub(crate) from: Vec<u8>,
    pub(crate) to: Vec<u8>,
}

impl Pair {
    fn new(name: impl Into<String>, (from, to): (Vec<u8>, Vec<u8>)) -> Self {
        Self { name: name.into(), from, to }
    }

    /// Bytes of both versions.
    pub(crate) fn bytes(&self) -> usize {
        self.from.len() + self.to.len()
    }
}

/// Generated pairs, without a directory of real ones.
const GENERATED: u64 = 100;
/// Largest version of a pair of a directory: what the peer takes minutes for says nothing about the others.
const MAX_REAL_BYTES: u64 = 1_000_000;
/// Size of a hard shape: as large as a version may be.
const SHAPE_BYTES: usize = 10_000_000;

/// Every `DIR/<pair>/a.html` with its `b.html`, or pairs that are made up, of 5 kB to 300 kB, most of them small.
pub(crate) fn pairs(directory: Option<&Path>) -> Vec<Pair> {
    let Some(directory) = directory else {
        let size = |seed: u64| 5_000.0 * 60_f64.powf((seed as f64 / GENERATED as f64).powi(2));
        return (0..GENERATED)
            .map(|seed| Pair::new(format!("generated {seed}"), pages::pair(seed, size(seed) as usize)))
            .collect();
    };
    let mut places: Vec<PathBuf> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    places.sort();
    let small = |path: &PathBuf| std::fs::metadata(path).is_ok_and(|file| file.len() <= MAX_REAL_BYTES);
    let read = |path: &PathBuf| std::fs::read(path).unwrap();
    places
        .into_iter()
        .map(|place| (place.join("a.html"), place.join("b.html")))
        .filter(|(a, b)| small(a) && small(b))
        .map(|(a, b)| Pair::new(a.display().to_string(), (read(&a), read(&b))))
        .collect()
}

/// An edited page of a size.
pub(crate) fn edited(bytes: usize) -> Pair {
    Pair::new("edited", pages::pair(1, bytes))
}

/// Two pages of a size that have nothing to do with each other.
pub(crate) fn unrelated(bytes: usize) -> Pair {
    Pair::new("unrelated", (pages::pair(1, bytes).0, pages::pair(2, bytes).0))
}

/// What is hard to compare, each version about 10 MB.
pub(crate) fn shapes() -> Vec<Pair> {
    let whole = |name: &str, from: String, to: String| Pair::new(name, (from.into_bytes(), to.into_bytes()));
    let lines = |seed, line: &dyn Fn(&mut Rng) -> String| filled(seed, "<!doctype html><pre>", line);
    let word = |rng: &mut Rng| format!("w{} ", rng.below(3000));
    let one_of_few = |rng: &mut Rng| format!("line {} of a few\n", rng.below(8));
    let han = |rng: &mut Rng| char::from_u32(0x4E00 + rng.below(20_000) as u32).unwrap_or('x').to_string();
    let base64 = |rng: &mut Rng| (b"ABCDEFGHIJKLMNOPabcdefghijklmnop"[rng.below(32)] as char).to_string();
    let row = |rng: &mut Rng| format!("<tr><td>{}<td>{}\n", rng.below(1000), rng.below(1000));
    vec![
        Pair::new("the same", (pages::pair(1, SHAPE_BYTES).0, pages::pair(1, SHAPE_BYTES).0)),
        Pair::new("edited", pages::pair(1, SHAPE_BYTES)),
        unrelated(SHAPE_BYTES),
        whole("words in another order", lines(1, &word), lines(2, &word)),
        whole("few lines, shuffled", lines(1, &one_of_few), lines(2, &one_of_few)),
        whole("one line without a space", lines(1, &base64), lines(2, &base64)),
        whole("han characters", lines(1, &han), lines(2, &han)),
        whole("rows of numbers", filled(1, "<table>", &row), filled(2, "<table>", &row)),
        whole("one word, repeated", lines(1, &|_| "same ".to_owned()), lines(1, &|_| "same  ".to_owned())),
        Pair::new(
            "blanks",
            (poison::blank_run(SHAPE_BYTES - 100, "b"), poison::blank_run(SHAPE_BYTES - 100, "c")),
        ),
        Pair::new(
            "nested elements",
            (
                poison::nested_divs(SHAPE_BYTES / 5 - 100, "x"),
                poison::nested_divs(SHAPE_BYTES / 5 - 100, "y"),
            ),
        ),
        Pair::new("links", (poison::links(SHAPE_BYTES / 45, "old"), poison::links(SHAPE_BYTES / 45, "new"))),
    ]
}

/// A page of such pieces.
fn filled(seed: u64, head: &str, piece: &dyn Fn(&mut Rng) -> String) -> String {
    let (mut rng, mut page) = (Rng::new(seed), head.to_owned());
    while page.len() < SHAPE_BYTES {
        page.push_str(&piece(&mut rng));
    }
    page
}
