//! The trees that html5lib's tests expect, beside ours.
//!
//! The files are those of html5lib-tests, commit 9329e64 (MIT, `LICENSE` beside them). Left out are cases of
//! fragments and of browsers that run scripts: we parse whole pages and run none. Where the tree is another one on
//! purpose, what is expected is changed alike: it has no doctypes, no attributes (the few that matter are read when
//! an element is made), no text below `style`, `script`, `head` and `title`, no content of comments; and what a
//! template contains are its children.

use html5ever::ns;

use super::super::{Slices, build};
use crate::collect::NodeKind;

const FILES: [(&str, &str); 18] = [
    ("adoption01", include_str!("../../../tests/fixtures/html5lib/adoption01.dat")),
    ("adoption02", include_str!("../../../tests/fixtures/html5lib/adoption02.dat")),
    ("comments01", include_str!("../../../tests/fixtures/html5lib/comments01.dat")),
    ("noscript01", include_str!("../../../tests/fixtures/html5lib/noscript01.dat")),
    ("tables01", include_str!("../../../tests/fixtures/html5lib/tables01.dat")),
    ("template", include_str!("../../../tests/fixtures/html5lib/template.dat")),
    ("tests1", include_str!("../../../tests/fixtures/html5lib/tests1.dat")),
    ("tests15", include_str!("../../../tests/fixtures/html5lib/tests15.dat")),
    ("tests19", include_str!("../../../tests/fixtures/html5lib/tests19.dat")),
    ("tests2", include_str!("../../../tests/fixtures/html5lib/tests2.dat")),
    ("tests22", include_str!("../../../tests/fixtures/html5lib/tests22.dat")),
    ("tests26", include_str!("../../../tests/fixtures/html5lib/tests26.dat")),
    ("tests3", include_str!("../../../tests/fixtures/html5lib/tests3.dat")),
    ("tests7", include_str!("../../../tests/fixtures/html5lib/tests7.dat")),
    ("tests8", include_str!("../../../tests/fixtures/html5lib/tests8.dat")),
    ("tests9", include_str!("../../../tests/fixtures/html5lib/tests9.dat")),
    ("tricky01", include_str!("../../../tests/fixtures/html5lib/tricky01.dat")),
    ("webkit01", include_str!("../../../tests/fixtures/html5lib/webkit01.dat")),
];

/// A page, and the lines of its tree without their bars.
struct Case<'f> {
    page: &'f str,
    tree: Vec<String>,
}

/// The cases of a file that are whole pages without scripts.
fn cases(file: &str) -> Vec<Case<'_>> {
    let of_pages = |case: &&str| !case.contains("\n#document-fragment\n") && !case.contains("\n#script-on\n");
    let case = |case| {
        let (page, rest) = str::split_once(case, "#errors\n").unwrap();
        let (_, tree) = rest.split_once("#document\n| ").unwrap();
        let tree = tree.trim_end_matches('\n').split("\n| ").map(str::to_owned).collect();
        Case { page: page.strip_suffix('\n').unwrap_or(page), tree }
    };
    let file = file.strip_prefix("#data\n").unwrap();
    file.split("\n#data\n").filter(of_pages).map(case).collect()
}

/// What we should have of a tree: a line for each node, indented by a blank a level.
fn expected(tree: &[String]) -> String {
    let mut lines = String::new();
    // Name of the open element of each level, and how many of them are contents of templates.
    let mut open: Vec<&str> = Vec::new();
    for line in tree {
        let node = line.trim_start_matches(' ');
        open.truncate((line.len() - node.len()) / 2);
        let contents = open.iter().filter(|name| **name == "content").count();
        let level = open.len() - contents;
        let parent = open.last().and_then(|name| name.split(' ').next_back()).unwrap_or_default();
        open.push("");
        let shown = if node == "content" {
            *open.last_mut().unwrap() = node;
            None
        } else if node.starts_with("<!DOCTYPE") {
            None
        } else if node.starts_with("<!--") {
            Some("<!-->")
        } else if let Some(name) = node.strip_prefix('<').and_then(|name| name.strip_suffix('>')) {
            *open.last_mut().unwrap() = name;
            Some(node)
        } else if node.starts_with('"') {
            Some(node).filter(|_| NodeKind::of_name(parent) != NodeKind::Hidden)
        } else {
            None
        };
        if let Some(shown) = shown {
            lines += &format!("{}{shown}\n", " ".repeat(level));
        }
    }
    lines
}

/// What we have of a page.
fn built(page: &str, slices: Slices) -> String {
    let Ok(sink) = build(page, false, slices) else { return "given up".to_owned() };
    let (arena, names) = (sink.arena.borrow(), sink.names.borrow());
    let mut lines = String::new();
    for (depth, element, text) in arena.outline() {
        let shown = match element.map(|id| &names[&id]) {
            Some(name) => {
                let space = match name.ns {
                    ns!(svg) => "svg ",
                    ns!(mathml) => "math ",
                    _ => "",
                };
                format!("<{space}{}>", name.local)
            }
            None if text.is_empty() => "<!-->".to_owned(),
            None => format!("\"{text}\""),
        };
        lines += &format!("{}{shown}\n", " ".repeat(depth));
    }
    lines
}

#[test]
fn trees_are_those_that_html5lib_expects() {
    let mut count = 0;
    let mut wrong = Vec::new();
    for (name, file) in FILES {
        for Case { page, tree } in cases(file) {
            count += 1;
            let expected = expected(&tree);
            for slices in [Slices::Large, Slices::AtTags] {
                let built = built(page, slices);
                if built != expected {
                    wrong.push(format!("{name}, {slices:?}\n{page}\nexpected\n{expected}\nbuilt\n{built}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {count}\n{}", wrong.len(), wrong.join("\n---\n"));
    assert_eq!(count, 656, "cases of the files");
}
