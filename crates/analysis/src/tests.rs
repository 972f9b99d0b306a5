//! End-to-end tests of the analysis. Individual rules are tested in their modules.

use std::time::Duration;

use super::collect::Collector;
use super::*;
use wm_job::hunk::Hunk;
use wm_job::report::MetadataChange;

const HTML: Option<&str> = Some("text/html; charset=utf-8");

fn page(bytes: &[u8]) -> PageInput<'_> {
    PageInput { bytes, content_type: HTML, status: Some(200), markup: Some(Markup::Html) }
}

fn analysed(from: &str, to: &str) -> AnalysisResult {
    let options = AnalysisOptions { max_result_bytes: 1_000_000 };
    analyse(page(from.as_bytes()), page(to.as_bytes()), &options, |_| {}).unwrap()
}

/// Text and links, as extracted by each reader.
fn read(html: &str, by_tree: bool) -> (String, Vec<String>) {
    let mut collector = Collector::default();
    if by_tree {
        tree::read(html, false, &mut collector).unwrap();
    } else {
        linear::read(html, &mut collector);
    }
    let Collector { visible, mut links, .. } = collector;
    links.sort();
    let links =
        (0..links.len() as u32).map(|at| links.get(at)).map(|link| format!("{}>{}", link.text, link.href));
    (visible.finish(), links.collect())
}

#[test]
fn visible_text_is_what_is_outside_style_script_head_and_title() {
    for (html, expected) in [
        ("", ""),
        ("<title>t</title><p>a</p>", "a"),
        ("a<b>b</b>c", "a b c"),
        ("<p>a<!-- x -->b", "a b"),
        ("<p>a<style>s</style><script>if (a < b) '<p>'</script>b", "a b"),
        ("<body><noscript><p>n</p><i>o</i></noscript>", "n o"),
        ("<body><textarea>t <b></textarea><select><option>o<option>p</select>", "t <b> o p"),
        ("<body><template>m</template><iframe>i</iframe>", "m i"),
        ("&eacute;&amp;&lt;&#x1F389;", "é&<🎉"),
        ("<p>a</p>\n\n  \n<p>b</p>", "a\n\nb"),
        ("<svg><title>drawing</title><text>label</text></svg>", "label"),
        ("<p>a\u{fffd}b", "a\u{fffd}b"),
        ("<pre>\n one\n  two</pre>", "one\n  two"),
    ] {
        assert_eq!(read(html, true).0, expected, "{html}");
        let folded = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(folded(&read(html, false).0), folded(expected), "{html}, read without a tree");
    }
    // Cases whose order only the tree can determine.
    assert_eq!(read("<table>foster<tr><td>cell</table>", true).0, "foster cell");
    assert_eq!(read("<p>1<b>2<i>3</b>4</i>5</p>", true).0, "1 2 3 4 5");
}

#[test]
fn links_are_those_that_lead_away_by_what_they_hold() {
    for (html, expected) in [
        ("<a href='/x'> A <b>b</b> </a>", "A b>/x"),
        ("<a href='#here'>x</a><a href=''>y</a><a name=z>z</a>", ""),
        ("<a href=/x><img alt='a cat'></a>", "[image: a cat]>/x"),
        ("<a href=/x><img></a>", "[image]>/x"),
        ("<a href=/x title='a tip'> </a>", "[tooltip: a tip]>/x"),
        ("<a href=/x title></a>", "[tooltip: ]>/x"),
        ("<a href=/x></a>", "[no text]>/x"),
        ("<a href=/x>a<script>s</script><svg><text>s</text></svg><math>m</math>b</a>", "ab>/x"),
        ("<a href=/x>a<template>t</template><select><option>o</select>b</a>", "ab>/x"),
        ("<a href='HTTP://EXAMPLE.org/A?b=1&amp;c'>x</a>", "x>http://example.org/A?b=1&c"),
        ("<a href=/1>one<a href=/2>two", "one>/1 two>/2"),
    ] {
        let expected: Vec<&str> = expected.split(' ').filter(|part| !part.is_empty()).collect();
        for by_tree in [true, false] {
            assert_eq!(read(html, by_tree).1.join(" "), expected.join(" "), "{html}, by tree: {by_tree}");
        }
    }
}

#[test]
fn a_changed_page_has_three_diffs_and_twelve_numbers() {
    let found = analysed(
        "<p>Deleted</p><p>Unchanged</p><a href=/a>link</a>",
        "<p>Added</p><p>Unchanged</p><a href=/b>link</a>",
    );
    let text = serde_json::json!({
        "change_count": 2,
        "hunks": [{"at": [0, 0], "steps": [[-1, "Delet"], [1, "Add"], [0, "ed Unchanged link"]]}],
    });
    assert_eq!(serde_json::to_value(found.changes.html_text_dmp).unwrap(), text);
    let link = |href: &str| PageLink { text: "link".to_owned(), href: href.to_owned() };
    let change = LinkChange { from: Some(link("/a")), to: Some(link("/b")) };
    assert_eq!(found.changes.links_json.unwrap().changes, [change]);
    assert_eq!(found.changes.html_source_dmp.unwrap().change_count, 4);
    assert_eq!(found.numbers.text.unwrap().length, 8);
    assert_eq!(found.numbers.links.unwrap().ratio, 1.0);
    assert!(!found.approximate && found.missing.is_empty());
    let Whole::Written(gzip) = found.whole else { panic!("{:?}", found.whole) };
    let whole: serde_json::Value = serde_json::from_reader(flate2::read::GzDecoder::new(&gzip[..])).unwrap();
    let text = serde_json::json!([[-1, "Delet"], [1, "Add"], [0, "ed Unchanged link"]]);
    assert_eq!(
        whole["html_text_dmp"],
        serde_json::json!({"change_count": 2, "diff": text, "approximate": false})
    );
    let link = serde_json::json!({
        "text": [[0, "link"]],
        "href": [[0, "/"], [-1, "a"], [1, "b"]],
        "hrefs": ["/a", "/b"],
    });
    assert_eq!(whole["links_json"]["diff"], serde_json::json!([[100, link]]));
}

#[test]
fn titles_descriptions_and_labels_of_images_are_compared_by_either_reader() {
    for by_tree in [true, false] {
        // A page with a tag of too many attributes is read without a tree.
        let more = if by_tree { "" } else { &format!("<p{}>", " a".repeat(30_000)) };
        let page = |word: &str| {
            format!(
                "<head><title>{word} &amp; title</title><meta name=viewport content={word}>\
                 <meta content={word} property=og:title><body><p>x<img alt={word}><svg><title>{word}</title></svg>{more}"
            )
        };
        let found = analysed(&page("Old"), &page("New"));
        assert_eq!(found.approximate, !by_tree);
        let changed = |name: &str, from: &str, to: &str| MetadataChange {
            name: name.to_owned(),
            from: Some(from.to_owned()).filter(|from| !from.is_empty()),
            to: Some(to.to_owned()).filter(|to| !to.is_empty()),
        };
        assert_eq!(
            found.changes.metadata,
            [
                changed("title", "Old & title", "New & title"),
                changed("og:title", "Old", "New"),
                changed("image alt", "Old", ""),
                changed("image alt", "", "New"),
            ]
        );
        assert_eq!(found.changes.html_text_dmp.unwrap().change_count, 0);
    }
}

#[test]
fn identical_and_empty_pages_have_no_changes() {
    for page in ["", "<p>same", " \n"] {
        let found = analysed(page, page);
        assert_eq!(found.priority, 0.0);
        assert_eq!(found.changes.html_source_dmp, Some(TextChanges::default()));
        assert!(found.changes.metadata.is_empty());
    }
}

#[test]
fn what_is_not_html_has_only_a_source_diff_and_says_so() {
    let options = AnalysisOptions { max_result_bytes: 0 };
    let json = |bytes| PageInput { markup: None, ..page(bytes) };
    let found = analyse(json(b"{\"a\":1}"), json(b"{\"a\":2}"), &options, |_| {}).unwrap();
    assert!(found.changes.html_text_dmp.is_none() && found.numbers.text.is_none());
    assert_eq!(found.numbers.source.unwrap().count, 2);
    let missing: Vec<DiffName> = found.missing.iter().map(|missing| missing.diff).collect();
    assert_eq!(missing, [DiffName::HtmlTextDmp, DiffName::LinksJson]);
}

#[test]
fn an_error_page_caps_the_priority_by_status_or_by_words() {
    let options = AnalysisOptions { max_result_bytes: 0 };
    let failed = PageInput { status: Some(503), ..page(b"<p>quite another text") };
    let found = analyse(page(b"<p>0123456789"), failed, &options, |_| {}).unwrap();
    assert_eq!(found.priority, 0.1);
    let words = "Error connecting to Apache Tomcat instance. No connection could be made";
    assert_eq!(analysed("<p>0", words).priority, 0.1);
    assert!(analysed("<p>0123456789", "<p>quite another text").priority > 0.3);
}

#[test]
fn of_many_changes_the_first_are_kept_and_the_others_counted() {
    let page = |word: &str| {
        let line = |n: usize| {
            format!("<p>{word} {n} <a href=/{word}/{n}>same</a> {}", "filler that stays ".repeat(8))
        };
        (0..2000).map(line).collect::<String>()
    };
    let found = analysed(&page("old"), &page("new"));
    let text = found.changes.html_text_dmp.unwrap();
    let kept: u64 = text.hunks.iter().map(Hunk::changes).sum();
    assert!(kept > 100 && text.left_out > 1000, "{kept} {}", text.left_out);
    assert_eq!(kept + text.left_out, text.change_count);
    assert_eq!(text.change_count, found.numbers.text.unwrap().count);
    let links = found.changes.links_json.unwrap();
    assert!(links.changes.len() > 20 && links.left_out > 1000, "{}", links.left_out);
    assert_eq!(links.changes.len() as u64 + links.left_out, links.change_count);
    let json = serde_json::to_vec(&text.hunks).unwrap();
    assert!(json.len() <= TEXT_HUNKS_BYTES + 2, "{}", json.len());
    assert!(serde_json::to_vec(&links.changes).unwrap().len() <= LINK_CHANGES_BYTES + 2);
}

#[test]
fn text_in_any_encoding_is_compared_as_text() {
    let utf8 = "<meta charset=utf-8><p>Börse – “Ärger”";
    let mut latin = b"<meta charset=ISO-8859-1><p>B\xf6rse \x96 \x93\xc4rger\x94".to_vec();
    let mut utf16: Vec<u8> = vec![0xFF, 0xFE];
    utf16.extend(utf8.encode_utf16().flat_map(u16::to_le_bytes));
    let options = AnalysisOptions { max_result_bytes: 0 };
    for (bytes, encoding) in [(&mut latin, "windows-1252"), (&mut utf16, "UTF-16LE")] {
        let other = PageInput { content_type: None, ..page(bytes) };
        let found = analyse(page(utf8.as_bytes()), other, &options, |_| {}).unwrap();
        assert_eq!(found.numbers.text.unwrap().count, 0, "{encoding}");
        assert_eq!(found.readings.map(|reading| reading.encoding), ["UTF-8", encoding]);
    }
}

#[test]
fn bytes_that_are_no_text_are_a_skip_that_names_the_side() {
    let noise: Vec<u8> = (0..5000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let options = AnalysisOptions { max_result_bytes: 0 };
    let skip = analyse(page(b"<p>x"), page(&noise), &options, |_| {}).unwrap_err();
    assert_eq!((skip.reason, skip.side), (SkipReason::Undecodable, Some(Side::To)));
}

/// Name, whether a bound must take effect, and two pages.
type PoisonPair = (&'static str, bool, String, String);

/// Pages that crashed or hung the old service, and similar ones.
fn poison() -> Vec<PoisonPair> {
    [old_service_killers(), tree_poison(), repetition_poison()].concat()
}

/// Inputs that were measured to crash or hang the old service.
fn old_service_killers() -> Vec<PoisonPair> {
    let many = |count: usize, of: &dyn Fn(usize) -> String| -> String { (0..count).map(of).collect() };
    let spaces = " ".repeat(100_000);
    vec![
        ("spaces", false, format!("<p>a\n{spaces}b</p>"), format!("<p>a\n{spaces}c</p>")),
        ("nested divs", true, "<div>".repeat(200_000) + "x", "<div>".repeat(200_000) + "y"),
        (
            "nested spans, closed",
            true,
            "<span>".repeat(50_000) + &"</span>".repeat(50_000),
            "<p>x".to_owned(),
        ),
        ("attributes", true, format!("<a {}>x", many(200_000, &|i| format!("a{i}=1 "))), "<p>y".to_owned()),
        (
            "bare attributes of an end tag",
            true,
            format!("<p>x</p {}>", "a ".repeat(100_000)),
            "<p>y".to_owned(),
        ),
        (
            "links, same targets",
            false,
            many(12_000, &|i| format!("<a href=/x{i}>old {i}</a>")),
            many(12_000, &|i| format!("<a href=/x{i}>new {i}</a>")),
        ),
        (
            "links, same text",
            false,
            many(12_000, &|i| format!("<a href=/x{i}>Read more</a>")),
            many(12_000, &|i| format!("<a href=/y{i}>Read more</a>")),
        ),
        ("unclosed links", false, many(50_000, &|i| format!("<a href=/{i}>x{i}")), "<p>y".to_owned()),
        ("links nested by tables", true, "<a href=/x>t<table><td>".repeat(20_000), "<a href=/x>u".to_owned()),
    ]
}

/// Inputs that a parser expands far beyond their length.
fn tree_poison() -> Vec<PoisonPair> {
    let many = |count: usize, of: &dyn Fn(usize) -> String| -> String { (0..count).map(of).collect() };
    vec![
        ("unclosed formatting", true, "<b><i><u>".repeat(60_000) + "x", "<b><i><u>".repeat(60_000) + "y"),
        (
            "formatting, each its own",
            true,
            many(50_000, &|i| format!("<p><font color={i}>x")),
            "<p>y".to_owned(),
        ),
        ("adoption agency", false, "<a><b><i><p></a></b></i>x".repeat(20_000), "<p>y".to_owned()),
        (
            "children adopted again and again",
            false,
            "<b><p>".repeat(300) + &"x<br>".repeat(30_000) + &"</b>".repeat(9000),
            "y".to_owned(),
        ),
        ("table foster", false, "<table>x<tr>y".repeat(20_000), "<table>x<tr>z".repeat(20_000)),
        (
            "a long link repeated by the parser",
            true,
            format!("<p><a href={}>x{}", "u".repeat(100_000), "</p><p>y".repeat(1000)),
            "<p><a href=/>y".to_owned(),
        ),
    ]
}

/// Inputs that repeat a single construct.
fn repetition_poison() -> Vec<PoisonPair> {
    vec![
        ("nodes", true, "<br>".repeat(1_100_000), "<br>x".to_owned()),
        ("entities", false, "&amp;&lt;&nGt;".repeat(20_000), "&amp;&gt;&nGt;".repeat(20_000)),
        ("unclosed comment", false, format!("<p>x<!--{}", "ab".repeat(500_000)), "<p>y<!-- ".to_owned()),
        ("foreign content", true, "<svg><foreignObject><math><mi>".repeat(20_000), "<svg><p>".repeat(20_000)),
        (
            "plaintext",
            false,
            format!("<plaintext>{}", "</plaintext> ".repeat(50_000)),
            "<plaintext>".to_owned(),
        ),
        ("options", false, format!("<select>{}", "<option>a".repeat(50_000)), "<select>".to_owned()),
        (
            "repeated cells",
            false,
            "<td>0</td>".repeat(100_000),
            "<td>0</td>".repeat(99_000) + &"<td>1</td>".repeat(1000),
        ),
        ("combining marks", false, "e\u{301}\u{302}".repeat(10_000), "e\u{302}\u{301}".repeat(10_000)),
    ]
}

#[test]
fn poison_is_analysed_and_guards_that_trip_are_told() {
    for (name, trips, from, to) in poison() {
        let found = analysed(&from, &to);
        assert_eq!(found.changes.html_text_dmp.as_ref().unwrap().approximate, trips, "{name}");
        assert_eq!(found.changes.links_json.as_ref().unwrap().approximate, trips, "{name}");
        let swapped = analysed(&to, &from);
        assert_eq!(swapped.priority, found.priority, "{name}, the other way round");
    }
}

#[test]
fn unrelated_pages_and_lines_of_megabytes_are_analysed_and_what_is_coarse_is_said() {
    let mut state = 1_u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    let mut page = |bytes: usize, line: &str| {
        let mut page = String::with_capacity(bytes + 64);
        while page.len() < bytes {
            match next() % 9 {
                0 => page += &format!("<a href=/p/{}>link {}</a>", next() % 5000, next() % 999),
                1 => page += &format!("</div>{line}<div class=c{}>", next() % 99),
                _ => page += &format!("word{} ", next() % 3000),
            }
        }
        page
    };
    for (name, coarse, from, to) in [
        ("two unrelated pages", false, page(5_000_000, "\n"), page(5_000_000, "\n")),
        ("two single lines", true, page(10_000_000, " "), page(10_000_000, " ")),
        ("repeated tokens", true, "ab ".repeat(1_000_000), "ba ".repeat(1_000_000)),
    ] {
        let found = analysed(&from, &to);
        assert_eq!(found.approximate, coarse, "{name}");
        assert!(found.priority >= 0.1, "{name}");
    }
}

/// CPU time of this thread so far.
fn cpu_time() -> Duration {
    let spent = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(spent.split(' ').next().unwrap().parse().unwrap())
}

/// What the work allows takes no longer than the default wall clock can bear; `cargo bench --bench engine --
/// largest` has more shapes.
#[test]
#[ignore = "the time is that of a release build: cargo test --release -p wm-analysis -- --ignored"]
fn the_largest_pairs_of_the_worst_shapes_take_at_most_three_seconds_of_cpu() {
    let mut state = 1_u64;
    let mut mixed = |pieces: &[&str]| {
        let mut text = String::new();
        while text.len() < 10 * 1024 * 1024 - 16 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            text += pieces[(state >> 33) as usize % pieces.len()];
        }
        text
    };
    let words: Vec<String> = (0..20_000).map(|at| format!("word{at} ")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    for (name, pieces) in [
        ("breaks only", &[">", "."][..]),
        ("tiny lines and tags", &["a", "b", "\n", ">"]),
        ("one line", &words),
        ("two letters", &["a", "b"]),
    ] {
        let (from, to) = (mixed(pieces), mixed(pieces));
        let before = cpu_time();
        let found = analysed(&from, &to);
        let spent = cpu_time() - before;
        assert!(spent < Duration::from_secs(3), "{name}: {spent:?}");
        assert!(found.approximate, "{name}");
    }
}
