//! Puts in front of a script what it uses of `lua/common.lua`, and no more.
//!
//! Invariant: a statement that a script uses, directly or through another one, is never left out.
//!
//! # Why
//! Redis runs the prelude anew in each call. All of it is a hundred closures over a hundred and fifty locals: as
//! expensive as the job in the call. Cut by names and not by lists of parts, because a list is forgotten when a
//! script uses something new, and Redis would notice only in the branch that does.

use std::collections::BTreeSet;

/// The prelude of all scripts.
const COMMON: &str = include_str!("../lua/common.lua");

/// The whole text of a script: the statements of the prelude that it needs, in their order, then `own`.
pub(crate) fn link(own: &str) -> String {
    let mut used: BTreeSet<&str> = words(own).collect();
    let mut kept: Vec<&str> = Vec::new();
    // From the last to the first, because a statement refers only to earlier ones: later locals do not exist yet.
    for statement in statements(COMMON).into_iter().rev() {
        if names(statement).any(|name| used.contains(name)) {
            used.extend(words(statement));
            kept.push(statement);
        }
    }
    kept.reverse();
    kept.push(own);
    kept.concat()
}

/// Cuts the prelude where a line begins with `local`. What belongs to a statement (a comment behind it, a block that
/// defines what it declares) stays with it.
fn statements(prelude: &str) -> Vec<&str> {
    let starts = prelude.match_indices("\nlocal ").map(|(at, _)| at + 1);
    let mut starts: Vec<usize> = starts.collect();
    starts.push(prelude.len());
    starts.windows(2).map(|from_to| &prelude[from_to[0]..from_to[1]]).collect()
}

/// The locals that a statement defines.
fn names(statement: &str) -> impl Iterator<Item = &str> {
    let first = statement.lines().next().unwrap_or_default();
    let rest = first.trim_start_matches("local ");
    let (rest, end) = rest.strip_prefix("function ").map_or((rest, '='), |function| (function, '('));
    words(rest.split(end).next().unwrap_or_default())
}

/// All words of the code, comments left out; those in strings and names of fields are too many, but do no harm.
fn words(code: &str) -> impl Iterator<Item = &str> {
    let lines = code.lines().map(|line| line.split("--").next().unwrap_or_default());
    lines
        .flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'))
        .filter(|w| !w.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::scripts::script_texts;

    #[test]
    fn every_line_of_code_belongs_to_a_statement_that_defines_something() {
        let statements = statements(COMMON);
        let code = |text: &str| text.lines().filter(|line| !line.starts_with("--")).count();
        assert_eq!(statements.iter().map(|one| code(one)).sum::<usize>(), code(COMMON));
        for statement in &statements {
            assert!(names(statement).count() > 0, "{statement}");
            let first = statement.lines().next().unwrap();
            assert!(!first.ends_with(','), "its names stand in one line: {first}");
        }
    }

    #[test]
    fn no_script_uses_a_name_of_the_prelude_that_it_did_not_get() {
        let all: BTreeSet<&str> = statements(COMMON).into_iter().flat_map(names).collect();
        for text in script_texts() {
            let with_start = format!("\n{text}");
            let got: BTreeSet<&str> = statements(&with_start).into_iter().flat_map(names).collect();
            let missing: Vec<&str> =
                words(&text).filter(|word| all.contains(word) && !got.contains(word)).collect();
            assert!(missing.is_empty(), "{missing:?} in\n{text}");
            let cut_short =
                text.lines().find(|line| line.split("--").next().unwrap().matches('\'').count() % 2 == 1);
            assert_eq!(cut_short, None, "a string with -- would be taken for a comment");
        }
    }

    #[test]
    fn a_script_gets_what_it_uses_with_all_that_this_uses_in_its_order_and_nothing_else() {
        let text = link("wake_waiter(host, id)\n");
        let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what} is missing in\n{text}"));
        assert!(at("local PREFIX,") < at("local function make_waiting("), "an earlier one");
        assert!(at("local function make_waiting(") < at("local function wake_waiter("), "what it calls");
        assert!(at("local function wake()") < at("wake_waiter(host, id)\n"));
        assert!(!text.contains("mark_done"), "nothing else");
        assert_eq!(link("return 1 -- is_full()\n"), "return 1 -- is_full()\n", "a comment uses nothing");
    }

    #[test]
    fn a_block_stays_with_the_names_that_it_defines() {
        let text = link("return plan_success(hosts)\n");
        assert!(text.contains("local plan_success, record_success\ndo\n"), "{text}");
        assert!(text.contains("function record_success(plans)"), "{text}");
    }
}
