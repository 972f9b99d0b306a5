//! End-to-end tests of the analysis. Individual rules are tested in their modules.

use std::time::{Duration, Instant};

use super::collect::Collector;
use super::*;

const HTML: Option<&str> = Some("text/html; charset=utf-8");

fn page(bytes: &[u8]) -> PageInput<'_> {
    PageInput { bytes, content_type: HTML, status: Some(200), html_like: true }
}

fn analysed_within(from: &str, to: &str, budget: Duration) -> AnalysisResult {
    let options =
        AnalysisOptions { soft_deadline: Instant::now() + budget, max_ops_bytes: 1_000_000, max_passages: 0 };
    analyse(page(from.as_bytes()), page(to.as_bytes()), &options, |_| {}).unwrap()
}

fn analysed(from: &str, to: &str) -> AnalysisResult {
    analysed_within(from, to, Duration::from_secs(120))
}

/// Text and links, as extracted by each reader.
fn read(html: &str, by_tree: bool) -> (String, Vec<String>) {
    let mut collector = Collector::default();
    if by_tree {
        tree::read(html, Instant::now() + Duration::from_secs(60), &mut collector).unwrap();
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
    let json = serde_json::to_value(&found.diffs).unwrap();
    let text = serde_json::json!([[-1, "Delet"], [1, "Add"], [0, "ed Unchanged link"]]);
    assert_eq!(
        json["html_text_dmp"],
        serde_json::json!({"change_count": 2, "diff": text, "approximate": false})
    );
    let link = serde_json::json!({
        "text": [[0, "link"]],
        "href": [[0, "/"], [-1, "a"], [1, "b"]],
        "hrefs": ["/a", "/b"],
    });
    assert_eq!(json["links_json"]["diff"], serde_json::json!([[100, link]]));
    assert_eq!(json["html_source_dmp"]["change_count"], 4);
    let annotation = serde_json::to_value(&found.annotation).unwrap();
    assert_eq!(annotation.as_object().unwrap().len(), 12);
    assert_eq!(annotation["text_diff_length"], 8);
    assert_eq!(annotation["links_diff_ratio"], 1.0);
    assert!(!found.approximate && found.missing.is_empty() && found.omitted.is_empty());
}

#[test]
fn identical_and_empty_pages_have_no_changes() {
    for page in ["", "<p>same", " \n"] {
        let found = analysed(page, page);
        assert_eq!(found.annotation.priority, 0.0);
        assert_eq!(found.diffs.html_source_dmp.unwrap().diff.unwrap().len(), usize::from(!page.is_empty()));
    }
}

#[test]
fn passages_are_quoted_of_the_text_or_else_of_the_source_and_only_where_asked_for() {
    let soft_deadline = Instant::now() + Duration::from_secs(60);
    let options = AnalysisOptions { soft_deadline, max_ops_bytes: 1000, max_passages: 1 };
    let (old, new) = (b"<p class=a>The old text." as &[u8], b"<p class=b>The new text." as &[u8]);
    let found = analyse(page(old), page(new), &options, |_| {}).unwrap();
    let [passage] = &found.passages[..] else { panic!("{:?}", found.passages) };
    assert_eq!(
        [&*passage.before, &*passage.removed, &*passage.added, &*passage.after],
        ["The ", "old", "new", " text."]
    );
    assert!(found.omitted.is_empty());
    let json = |bytes| PageInput { html_like: false, ..page(bytes) };
    let found = analyse(json(b"{\"a\":1}"), json(b"{\"a\":2}"), &options, |_| {}).unwrap();
    assert_eq!((&*found.passages[0].before, &*found.passages[0].added), ("{\"a\":", "2"));
    let none = AnalysisOptions { max_passages: 0, ..options };
    assert!(analyse(page(old), page(new), &none, |_| {}).unwrap().passages.is_empty());
}

#[test]
fn what_is_not_html_has_only_a_source_diff_and_says_so() {
    let options = AnalysisOptions {
        soft_deadline: Instant::now() + Duration::from_secs(60),
        max_ops_bytes: 1000,
        max_passages: 0,
    };
    let json = |bytes| PageInput { html_like: false, ..page(bytes) };
    let found = analyse(json(b"{\"a\":1}"), json(b"{\"a\":2}"), &options, |_| {}).unwrap();
    assert!(found.diffs.html_text_dmp.is_none() && found.annotation.text.is_none());
    assert_eq!(found.annotation.source.unwrap().source_diff_count, 2);
    let missing: Vec<&str> = found.missing.iter().map(|missing| missing.diff.as_str()).collect();
    assert_eq!(missing, ["html_text_dmp", "links_json"]);
}

#[test]
fn an_error_page_caps_the_priority_by_status_or_by_words() {
    let options = AnalysisOptions {
        soft_deadline: Instant::now() + Duration::from_secs(60),
        max_ops_bytes: 1000,
        max_passages: 0,
    };
    let failed = PageInput { status: Some(503), ..page(b"<p>quite another text") };
    let found = analyse(page(b"<p>0123456789"), failed, &options, |_| {}).unwrap();
    assert_eq!(found.annotation.priority, 0.1);
    let words = "Error connecting to Apache Tomcat instance. No connection could be made";
    assert_eq!(analysed("<p>0", words).annotation.priority, 0.1);
    assert!(analysed("<p>0123456789", "<p>quite another text").annotation.priority > 0.3);
}

#[test]
fn steps_that_are_too_large_are_left_out_and_named_but_counted() {
    let options = AnalysisOptions {
        soft_deadline: Instant::now() + Duration::from_secs(60),
        max_ops_bytes: 100,
        max_passages: 0,
    };
    let long = format!("<p>{}", "word ".repeat(100));
    let found = analyse(page(b"<p>x"), page(long.as_bytes()), &options, |_| {}).unwrap();
    assert_eq!(found.omitted, ["html_text_dmp.diff", "html_source_dmp.diff"]);
    assert_eq!(found.diffs.html_text_dmp.unwrap().diff, None);
    assert!(found.diffs.links_json.unwrap().diff.is_some());
    assert_eq!(found.annotation.text.unwrap().text_diff_count, 2);
}

#[test]
fn a_passed_deadline_gives_a_coarse_report_and_never_none() {
    let (from, to) = ("<p>begin one end<a href=/x>x y z", "<p>begin two end<a href=/x>x w z");
    let found = analysed_within(from, to, Duration::ZERO);
    assert!(found.approximate);
    assert!(found.diffs.html_source_dmp.unwrap().approximate);
    assert_eq!(found.annotation.source.unwrap().source_diff_count, 2);
    assert!(!analysed(from, to).approximate);
}

#[test]
fn text_in_any_encoding_is_compared_as_text() {
    let utf8 = "<meta charset=utf-8><p>Börse – “Ärger”";
    let mut latin = b"<meta charset=ISO-8859-1><p>B\xf6rse \x96 \x93\xc4rger\x94".to_vec();
    let mut utf16: Vec<u8> = vec![0xFF, 0xFE];
    utf16.extend(utf8.encode_utf16().flat_map(u16::to_le_bytes));
    let options = AnalysisOptions {
        soft_deadline: Instant::now() + Duration::from_secs(60),
        max_ops_bytes: 1000,
        max_passages: 0,
    };
    for (bytes, encoding) in [(&mut latin, "windows-1252"), (&mut utf16, "UTF-16LE")] {
        let other = PageInput { content_type: None, ..page(bytes) };
        let found = analyse(page(utf8.as_bytes()), other, &options, |_| {}).unwrap();
        assert_eq!(found.annotation.text.unwrap().text_diff_count, 0, "{encoding}");
        assert_eq!(found.encodings, ["UTF-8", encoding]);
    }
}

#[test]
fn bytes_that_are_no_text_are_a_skip_that_names_the_side() {
    let noise: Vec<u8> = (0..5000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let options = AnalysisOptions {
        soft_deadline: Instant::now() + Duration::from_secs(60),
        max_ops_bytes: 1000,
        max_passages: 0,
    };
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
        assert_eq!(found.diffs.html_text_dmp.as_ref().unwrap().approximate, trips, "{name}");
        assert_eq!(found.diffs.links_json.as_ref().unwrap().approximate, trips, "{name}");
        let swapped = analysed(&to, &from);
        assert_eq!(swapped.annotation.priority, found.annotation.priority, "{name}, the other way round");
    }
}

#[test]
fn unrelated_pages_and_lines_of_megabytes_are_done_in_time_or_say_approximate() {
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
    for (name, from, to) in [
        ("two unrelated pages", page(5_000_000, "\n"), page(5_000_000, "\n")),
        ("two single lines", page(10_000_000, " "), page(10_000_000, " ")),
        ("repeated tokens", "ab ".repeat(1_000_000), "ba ".repeat(1_000_000)),
    ] {
        let budget = Duration::from_secs(2);
        let start = Instant::now();
        let found = analysed_within(&from, &to, budget);
        let took = start.elapsed();
        assert!(found.approximate || took < budget, "{name} took {took:?} and says it is exact");
        assert!(found.annotation.priority >= 0.1, "{name}");
    }
}
