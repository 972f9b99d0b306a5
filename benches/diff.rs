//! What an analysis costs, in process: `cargo bench --bench diff`.
//!
//! Pages are made here, so that the numbers mean the same everywhere; each is compared with an edited copy,
//! with one that has nothing to do with it, and with itself. Printed are the median and the slowest of the
//! runs, and megabytes of both pages per second. Then pairs of the largest allowed size and the worst shapes,
//! `-- largest` for them alone: CPU time of one run each, which may be 3 s, since the default wall clock is
//! 10 s. Nothing is asserted: times belong to a machine.

#![expect(clippy::print_stdout, reason = "a benchmark's output is its result")]

use std::time::{Duration, Instant};

use wm_analyzer::analysis::{AnalysisOptions, AnalysisResult, PageInput, analyse};

const RUNS: usize = 9;

/// A small generator, so that a page is the same each time.
struct SeededRng(u64);

impl SeededRng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// A page of paragraphs, lists and links, about so long.
fn page(seed: u64, bytes: usize) -> String {
    let mut rng = SeededRng(seed);
    let mut page = String::from("<!doctype html>\n<html><head><title>A page</title></head>\n<body>\n");
    while page.len() < bytes {
        match rng.below(8) {
            0 => {
                page +=
                    &format!("<li><a href=\"/topic/{}\">Topic {}</a></li>\n", rng.below(4000), rng.below(900))
            }
            1 => {
                page += &format!(
                    "<div class=\"box b{}\">\n<h2>Heading {}</h2>\n</div>\n",
                    rng.below(9),
                    rng.below(99)
                )
            }
            _ => {
                let words: Vec<String> = (0..12).map(|_| format!("word{}", rng.below(3000))).collect();
                page += &format!("<p>{}.</p>\n", words.join(" "));
            }
        }
    }
    page + "</body></html>\n"
}

/// The page with every so many lines changed.
fn edited(page: &str, every: usize) -> String {
    let lines = page.lines().enumerate();
    lines
        .map(|(at, line)| if at % every == 7 { format!("{line} (updated)\n") } else { format!("{line}\n") })
        .collect()
}

fn run(from: &str, to: &str) -> (Duration, Option<AnalysisResult>) {
    let page = |text| PageInput {
        bytes: str::as_bytes(text),
        content_type: None,
        status: None,
        markup: Some(wm_analysis::sniff::Markup::Html),
    };
    let start = Instant::now();
    let options = AnalysisOptions { max_result_bytes: 0 };
    let found = analyse(page(from), page(to), &options, |_| {}).ok();
    (start.elapsed(), found)
}

fn measure(name: &str, from: &str, to: &str) {
    let mut times = Vec::with_capacity(RUNS);
    let mut approximate = false;
    for _ in 0..RUNS {
        let (time, found) = run(from, to);
        times.push(time);
        approximate |= found.is_none_or(|found| found.approximate);
    }
    times.sort();
    let (median, slowest) = (times[RUNS / 2], times[RUNS - 1]);
    let rate = (from.len() + to.len()) as f64 / 1e6 / median.as_secs_f64();
    let note = if approximate { "approximate" } else { "" };
    println!("{name:<32} {median:>10.1?} {slowest:>10.1?} {rate:>8.1} MB/s  {note}");
}

/// The largest allowed body.
const LARGEST: usize = 10 * 1024 * 1024;

/// CPU time of this process so far.
fn cpu_time() -> Duration {
    let spent = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let nanoseconds = spent.split(' ').next().and_then(|spent| spent.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

/// The same piece again and again.
fn repeated(piece: &str) -> String {
    piece.repeat(LARGEST / piece.len())
}

/// Random pieces, the same for the same seed.
fn mixed(seed: u64, pieces: &[String]) -> String {
    let mut rng = SeededRng(seed);
    let mut text = String::with_capacity(LARGEST);
    loop {
        let piece = &pieces[rng.below(pieces.len() as u64) as usize];
        if text.len() + piece.len() > LARGEST {
            return text;
        }
        text += piece;
    }
}

/// Every so many pieces, which end with `end`, another one.
fn sprinkled(text: &str, end: char, every: usize, other: &str) -> String {
    let pieces = text.split_inclusive(end).enumerate();
    pieces.map(|(at, piece)| if at % every == 7 { other } else { piece }).collect()
}

fn largest_pairs() -> Vec<(&'static str, String, String)> {
    let strings = |all: &[&str]| -> Vec<String> { all.iter().map(|piece| (*piece).to_owned()).collect() };
    let words: Vec<String> = (0..20_000).map(|at| format!("word{at} ")).collect();
    let lines: Vec<String> = (0..500_000).map(|at| format!("line {at}\n")).collect();
    let (letters, tiny, breaks) =
        (strings(&["a", "b"]), strings(&["a", "b", "\n", ">"]), strings(&[">", "."]));
    let ideographs = strings(&["日", "本", "語", "文", "字", "漢", "仮", "名"]);
    let (line_of_words, many_lines) = (mixed(1, &words), mixed(1, &lines));
    let cells = repeated("<td>0</td>");
    let links = |word: &str| -> String {
        (0..250_000).map(|at| format!("<a href=/x{at}>{word} {at} text</a>")).collect()
    };
    vec![
        ("no token in common", repeated("ab cd. "), repeated("xy-zw! ")),
        ("all tokens equal, one more", repeated("a "), repeated("a ") + "b"),
        ("periodic, shifted", repeated("ab "), repeated("ba ")),
        ("repeated tokens, some others", sprinkled(&cells, '/', 20, "td>1</"), cells),
        ("random over two letters", mixed(1, &letters), mixed(2, &letters)),
        ("random ideographs", mixed(1, &ideographs), mixed(2, &ideographs)),
        ("tiny lines and tags", mixed(1, &tiny), mixed(2, &tiny)),
        ("breaks only", mixed(1, &breaks), mixed(2, &breaks)),
        ("one line, another one", line_of_words.clone(), mixed(2, &words)),
        ("one line, every 10th word edited", sprinkled(&line_of_words, ' ', 10, "edited "), line_of_words),
        ("many lines, other ones", many_lines.clone(), mixed(2, &lines)),
        ("many lines, every 10th edited", sprinkled(&many_lines, '\n', 10, "edited\n"), many_lines),
        ("250,000 links, texts changed", links("old"), links("new")),
        ("unrelated pages", page(1, LARGEST), page(2, LARGEST)),
    ]
}

fn measure_largest() {
    println!("{:<34} {:>8} {:>12}", "pair of 10 MiB each", "CPU", "edited");
    for (name, from, to) in largest_pairs() {
        let before = cpu_time();
        let (_, found) = run(&from, &to);
        let spent = cpu_time() - before;
        let edited =
            found.as_ref().and_then(|found| Some(found.numbers.source.as_ref()?.length)).unwrap_or(0);
        let note = if found.is_none_or(|found| found.approximate) { "approximate" } else { "" };
        println!("{name:<34} {spent:>8.1?} {edited:>12}  {note}");
    }
}

fn main() {
    if std::env::args().any(|arg| arg == "largest") {
        return measure_largest();
    }
    println!("{:<32} {:>10} {:>10}", "pair", "median", "slowest");
    for (size, bytes) in [("5 kB", 5_000), ("50 kB", 50_000), ("300 kB", 300_000), ("5 MB", 5_000_000)] {
        let old = page(1, bytes);
        measure(&format!("{size}, the same"), &old, &old);
        measure(&format!("{size}, every 100th line edited"), &old, &edited(&old, 100));
        measure(&format!("{size}, every 9th line edited"), &old, &edited(&old, 9));
        measure(&format!("{size}, unrelated"), &old, &page(2, bytes));
    }
    let spaces = " ".repeat(100_000);
    measure("100,000 spaces", &format!("<p>a\n{spaces}b</p>"), &format!("<p>a\n{spaces}c</p>"));
    measure("200,000 nested divs", &"<div>".repeat(200_000), &format!("{}x", "<div>".repeat(200_000)));
    let links =
        |word: &str| -> String { (0..12_000).map(|i| format!("<a href=/{i}>{word} {i}</a>")).collect() };
    measure("12,000 links, texts changed", &links("old"), &links("new"));
    measure_largest();
}
