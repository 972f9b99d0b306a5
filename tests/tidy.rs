//! The house rules, as tests: who may import whom, how long a file may be, what must be said and what may not.
//!
//! Not a linter: what rustc, clippy or cargo-deny can say is theirs. A rule is a function from one file to its
//! violations, and every rule is first shown something bad: a rule that cannot fail is not a rule.
//!
//! # Why
//! The text is read by a small lexer that blanks comments and literals, and not by a parser: every rule here is
//! about words and braces, and the tests then need no further dependency.

#[path = "tidy/source.rs"]
mod source;

use std::path::Path;

use std::collections::BTreeMap;

use self::source::{Source, balanced, body, code, heads, parts, sources, words};

/// The rooms of the root package and the crates that it re-exports, by floor, lowest first. A file imports its own room
/// and lower floors, nothing else. Between crates the compiler keeps this; see [`CRATES`].
const LAYERS: [&[&str]; 5] = [
    &["job"],
    &["queue", "api", "filter", "fetch", "results", "sandbox", "analysis", "policy", "telemetry"],
    &["pipeline", "child"],
    &["worker", "ops"],
    &["web", "demo", "config", "cli", "main", "lib"],
];

/// Who may still import whom, and why. `main` and `cli` are where the parts are put together.
const EXCEPTIONS: [(&str, &str, &str); 7] = [
    ("demo", "web", "its pages can be looked at"),
    ("main", "cli", "main parses and runs"),
    ("cli", "config", "every command starts by reading the configuration"),
    ("config", "web", "it composes the Config of every room"),
    ("cli", "web", "`work` puts the probes beside the worker"),
    ("cli", "demo", "`demo` is a command"),
    ("demo", "config", "the demo is the real worker under config/demo.toml"),
];

/// Crates that only one room may name: what is behind them stays behind a door.
const CRATE_OWNERS: [(&str, &str); 5] = [
    ("redis", "queue"),
    ("deadpool_redis", "queue"),
    ("sentry", "telemetry"),
    ("backoff", "policy"),
    ("object_store", "results"),
];

/// Where a new variant must be judged by a person, so no arm may swallow it.
const EXHAUSTIVE_MATCH_FILES: [&str; 4] =
    ["src/policy/judge.rs", "crates/job/src/failure.rs", "src/worker/observe.rs", "src/worker/summary.rs"];

/// Names that say nothing.
const BANNED_WORDS: [&str; 8] = ["manager", "handler", "helper", "util", "common", "service", "data", "info"];

/// What people read first, and where it leads.
const DOCS: [&str; 2] = ["README.md", "docs"];
/// Every page that links to another file.
const LINKING: [&str; 5] = ["README.md", "docs", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"];
/// Lines of the README: it says what this is and where to read on.
const MAX_README: usize = 150;

/// deadpool's own word for what makes connections.
const POOL_MANAGER: &str = "Manager";

/// Identifiers that were renamed to what the field says, with the kind of thing they named: they do not return.
/// Modules and files are one kind. The new names: the glossary of docs/design.md.
const RETIRED: [(&str, &[&str]); 5] = [
    (
        "type",
        &[
            "Fire",
            "House",
            "Thing",
            "Hand",
            "Held",
            "Grip",
            "Halt",
            "Brim",
            "Turn",
            "Account",
            "Told",
            "Teller",
            "Sight",
            "Outage",
            "Trouble",
            "Troubles",
            "Door",
            "Known",
            "Ticket",
            "Handed",
            "Words",
            "Foregone",
            "Finish",
            "Finishes",
            "Entry",
            "Adoptee",
            "Standing",
            "Board",
            "Flight",
            "Said",
            "Seen",
            "Birth",
            "Alone",
            "Pass",
            "TurnedBack",
            "Walk",
            "Spent",
            "Patient",
            "Tally",
            "Leashed",
            "Zygote",
            "Remedy",
            "Telling",
            "Took",
            "Fallen",
            "Grudge",
            "Holdup",
            "Order",
            "Answer",
            "Weighed",
            "HostLine",
        ],
    ),
    (
        "fn",
        &[
            "culprit",
            "testify",
            "heed",
            "astray",
            "converse",
            "straight",
            "head_start",
            "forgo",
            "hand_back",
            "let_go",
            "beat",
            "enter",
            "keep_up",
            "exhume",
            "enlist",
            "fit_report",
            "fit_reason",
            "note_line",
            "leave_it",
            "agree",
            "burning",
        ],
    ),
    (
        "mod",
        &[
            "hand", "fire", "brim", "account", "trouble", "outage", "link", "fit", "finish", "entry",
            "board", "zygote", "leash", "tally", "story", "deeds", "stock", "lines", "many",
        ],
    ),
    ("variant", &["HeldUp", "Burning", "Foregone", "Solo", "Walked", "Halted", "Entered"]),
    ("key", &["solo", "solo_turn", "lines", "line", "teller", "calm_ms", "beat_ms", "put_off_ms", "leased"]),
];

/// Type names that a crate may use more than once, and why.
const REPEATED_TYPES: [(&str, &str); 2] = [
    ("Config", "each room's section of the configuration, named by its room"),
    ("Error", "each room's own error, and the associated type of std's and serde's traits"),
];

/// The README's two commands. CI runs the very same.
const COMMANDS: [&str; 2] = ["cargo run --release -- demo", "cargo test"];

/// Lines of a file without its tests, and of a function.
const MAX_FILE_LINES: usize = 400;
const MAX_FUNCTION_LINES: usize = 70;

const RUST: [&str; 6] = ["src", "crates", "tests", "benches", "fuzz/src", "fuzz/targets"];
const BUILT: [&str; 2] = ["src", "crates"];

/// The crates, and which of the others each may depend on.
const CRATES: [(&str, &[&str]); 5] = [
    ("job", &[]),
    ("sandbox", &["job"]),
    ("analysis", &["job"]),
    ("queue", &["job"]),
    ("testbed", &["job", "queue"]),
];

/// What is wrong, and at which byte.
type Violation = (usize, String);
type Rule = fn(&Source) -> Vec<Violation>;

#[test]
fn every_file_says_first_what_it_is() {
    fn rule(file: &Source) -> Vec<Violation> {
        let says = file.text.starts_with("//! ");
        violation_if(!says, 0, "begin with `//! ` and what this file is")
    }
    check_rule(rule, &RUST, ".rs", &[("src/a.rs", "use std::fs;")], &[("src/a.rs", "//! A.")]);
}

#[test]
fn a_file_imports_its_own_room_and_lower_floors() {
    fn rule(file: &Source) -> Vec<Violation> {
        let Some(layer) = layer_of(file.module()) else { return vec![(0, "this room has no floor".into())] };
        let may = |to: &str| {
            let excepted = EXCEPTIONS.iter().any(|(from, into, _)| (*from, *into) == (file.module(), to));
            to == file.module() || excepted || layer_of(to).is_none_or(|its| its < layer)
        };
        let mut violations = Vec::new();
        for (at, word) in
            words(&file.code).filter(|(_, word)| ["crate", "super", "wm_analyzer"].contains(word))
        {
            let Some(path) = file.code[at + word.len()..].strip_prefix("::") else { continue };
            let refused = heads(path).into_iter().filter(|to| !may(to));
            violations.extend(refused.map(|to| (at, format!("`{}` may not import `{to}`", file.module()))));
        }
        violations
    }
    let bad = [
        ("src/queue/keys.rs", "use crate::api::Client;"),
        ("src/queue/mod.rs", "use super::api;"),
        ("src/queue/mod.rs", "use crate::{job::Job, pipeline::{self, run}};"),
        ("src/job/mod.rs", "fn f() { crate::queue::claim() }"),
        ("src/pipeline/mod.rs", "use crate::child::run;"),
        ("src/ops/mod.rs", "use crate::config::Config;"),
        ("src/attic/mod.rs", "//! A room without a floor."),
    ];
    let good = [
        (
            "src/queue/keys.rs",
            "//! Not [`crate::api`].\nuse crate::{job::Job, queue::Lease}; use super::error;",
        ),
        ("src/worker/mod.rs", "use crate::pipeline; use crate::policy::judge;"),
        ("src/cli.rs", "use crate::config::Config;"),
        ("src/main.rs", "use wm_analyzer::cli;"),
    ];
    check_rule(rule, &["src"], ".rs", &bad, &good);
}

#[test]
fn what_lies_behind_a_room_is_named_by_that_room_alone() {
    fn rule(file: &Source) -> Vec<Violation> {
        let mut violations = Vec::new();
        for (name, room) in CRATE_OWNERS.iter().filter(|(_, room)| *room != file.module()) {
            let uses: Vec<_> = file.uses(name).collect();
            // A module of ours may bear the crate's name: then it was declared or imported here.
            let declares = |after: &str| after.trim_start().starts_with([',', ';', '}']);
            if uses.iter().any(|(_, before, after)| declares(after) && !before.trim_end().ends_with("use")) {
                continue;
            }
            let opens =
                uses.iter().filter(|(_, before, after)| after.starts_with("::") && !before.ends_with("::"));
            violations.extend(opens.map(|(at, ..)| (*at, format!("`{name}` lies behind `{room}`"))));
        }
        violations
    }
    let bad = [("src/worker/mod.rs", "use redis::cmd;"), ("src/ops/mod.rs", "fn f() { sentry::flush() }")];
    let good = [
        ("crates/queue/src/lib.rs", "use redis::cmd;"),
        ("src/demo/mod.rs", "mod redis; use redis::Private;"),
        ("src/worker/observe.rs", "use crate::telemetry::{metrics, sentry}; fn f() { sentry::alert() }"),
        ("src/cli.rs", "fn f() { demo::redis::start() }"),
    ];
    check_rule(rule, &BUILT, ".rs", &bad, &good);
}

#[test]
fn a_crate_depends_on_the_crates_below_it() {
    for (name, may) in CRATES {
        for manifest in sources(&[&format!("crates/{name}/Cargo.toml")], "") {
            let needs = manifest.text.lines().filter_map(|line| line.strip_prefix("wm-"));
            let needs = needs.filter_map(|line| line.split(['.', ' ']).next());
            let refused: Vec<_> = needs.filter(|other| !may.contains(other)).collect();
            assert_eq!(refused, [""; 0], "crates/{name} may not depend on these");
        }
    }
    let manifests = sources(&["crates"], "Cargo.toml");
    assert_eq!(manifests.len(), CRATES.len(), "a crate that no line of CRATES judges");
}

#[test]
fn no_file_and_no_function_outgrows_its_budget() {
    fn rule(file: &Source) -> Vec<Violation> {
        let (code, tests) = file.code.split_at(file.untested);
        let lines = code.lines().count();
        let after_the_tests = tests[body(tests).len()..].trim_matches([';', '\n']);
        let mut violations = violation_if(!after_the_tests.is_empty(), file.untested, "tests stand last");
        if lines > MAX_FILE_LINES && !file.path.ends_with("/tests.rs") {
            violations.push((0, format!("{lines} lines without tests, at most {MAX_FILE_LINES}")));
        }
        for (at, _) in words(code).filter(|(_, word)| *word == "fn") {
            let lines = body(&code[at..]).lines().count();
            if lines > MAX_FUNCTION_LINES {
                violations.push((at, format!("a function of {lines} lines, at most {MAX_FUNCTION_LINES}")));
            }
        }
        violations
    }
    let long_file = "\n".repeat(MAX_FILE_LINES + 1);
    let long_function = format!("fn f(a: [u8; 4]) {{{}}}", "\n".repeat(MAX_FUNCTION_LINES));
    let tested = format!("//! A.\n#[cfg(test)]\nmod tests {{{long_file}}}\n");
    let unsorted = "//! A.\n#[cfg(test)]\nmod tests;\nfn f() {}\n";
    let bad = [("src/a.rs", long_file.as_str()), ("src/a.rs", &long_function), ("src/a.rs", unsorted)];
    let good = [("src/a.rs", tested.as_str()), ("src/a.rs", "trait T { fn f(); }\nfn g() {}")];
    check_rule(rule, &["src", "crates", "benches"], ".rs", &bad, &good);
}

#[test]
fn every_script_has_a_contract() {
    fn rule(file: &Source) -> Vec<Violation> {
        let header: Vec<&str> = file.text.lines().take_while(|line| line.starts_with("--")).collect();
        let lacks = |word: &&str| !header.iter().any(|line| line.contains(*word));
        ["KEYS", "ARGV", "Returns"].into_iter().filter(lacks).map(|word| (0, format!("say {word}"))).collect()
    }
    let bad = [("src/queue/lua/a.lua", "-- KEYS[1] ready\n-- Returns nothing\nlocal ARGV = ARGV")];
    let good = [("src/queue/lua/a.lua", "-- KEYS[1] ready\n-- ARGV none\n-- Returns nothing\nreturn 1")];
    check_rule(rule, &["crates"], ".lua", &bad, &good);
}

#[test]
fn unsafe_is_the_sandboxs_alone() {
    fn rule(file: &Source) -> Vec<Violation> {
        let outside = !file.path.starts_with("crates/sandbox/src/");
        let uses = file.uses("unsafe").filter(|_| outside);
        uses.map(|(at, ..)| (at, "`unsafe` belongs to crates/sandbox".into())).collect()
    }
    let bad = [("src/queue/mod.rs", "fn f() { unsafe { g() } }")];
    let good = [
        ("crates/sandbox/src/limits.rs", "fn f() { unsafe { g() } }"),
        ("src/a.rs", "#![deny(unsafe_code)] // unsafe\nconst A: &str = r#\"unsafe\"#;"),
    ];
    check_rule(rule, &RUST, ".rs", &bad, &good);
}

#[test]
fn nobody_forks_the_worker() {
    fn rule(file: &Source) -> Vec<Violation> {
        // With it std forks and does not spawn: 92 ms for a worker of 2 GiB.
        file.uses("pre_exec").map(|(at, ..)| (at, "`pre_exec` forks the whole worker".into())).collect()
    }
    let bad = [("src/sandbox/a.rs", "fn f() { unsafe { command.pre_exec(g) } }")];
    let good = [("src/sandbox/a.rs", "//! Never `pre_exec`.\nfn f() { command.process_group(0) }")];
    check_rule(rule, &BUILT, ".rs", &bad, &good);
}

#[test]
fn a_judge_answers_for_every_variant() {
    fn rule(file: &Source) -> Vec<Violation> {
        let judges = EXHAUSTIVE_MATCH_FILES.contains(&file.path.as_str());
        let swallows = |after: &str| after.trim_start().starts_with("=>") || after.starts_with(" if ");
        let arms = file.uses("_").filter(|(at, _, after)| judges && *at < file.untested && swallows(after));
        arms.map(|(at, ..)| (at, "a new variant would go unjudged here".into())).collect()
    }
    let tested = "match a { A(_) => 1, B { .. } => 2 }\n#[cfg(test)]\nmod tests { match a { _ => 1 } }";
    let bad = [
        (EXHAUSTIVE_MATCH_FILES[0], "match a { A => 1, _ => 2 }"),
        (EXHAUSTIVE_MATCH_FILES[1], "match a { _ if b => 1 }"),
    ];
    let good = [(EXHAUSTIVE_MATCH_FILES[0], tested), ("src/policy/breaker.rs", "match a { A => 1, _ => 2 }")];
    check_rule(rule, &BUILT, ".rs", &bad, &good);
    for judge in EXHAUSTIVE_MATCH_FILES {
        let room = judge.rsplit_once('/').map_or(judge, |(room, _)| room);
        let is_built = sources(&[room], ".rs").len() > 1;
        assert!(!is_built || sources(&[judge], "").len() == 1, "{judge} has moved: who judges now?");
    }
}

#[test]
fn a_silenced_lint_has_a_reason() {
    fn rule(file: &Source) -> Vec<Violation> {
        let attributes = |name| {
            file.uses(name).filter(|(_, before, after)| before.ends_with('[') && after.starts_with('('))
        };
        let bare = attributes("allow").map(|(at, ..)| (at, "use `#[expect(lint, reason = ..)]`".into()));
        let silent = attributes("expect").filter(|(.., after)| !balanced(after).contains("reason"));
        bare.chain(silent.map(|(at, ..)| (at, "say the reason".into()))).collect()
    }
    // Spelt apart: these are what the rule must find, not something that it should find here.
    let bad = [
        ("src/a.rs", concat!("#[", "allow(dead_code)]")),
        ("src/a.rs", "#![expect(dead_code)]\n#[cfg(reason)]"),
    ];
    let good = [("src/a.rs", "#[expect(dead_code, reason = \"soon\")] fn f() { a.expect(\"b\") }")];
    check_rule(rule, &RUST, ".rs", &bad, &good);
}

#[test]
fn names_say_something() {
    fn rule(file: &Source) -> Vec<Violation> {
        let stem = file.path.rsplit('/').next().and_then(|name| name.strip_suffix(".rs")).unwrap_or_default();
        let all: Vec<(usize, &str)> = words(&file.code).collect();
        let defined =
            all.windows(2).filter(|pair| ["struct", "enum", "trait", "mod", "type"].contains(&pair[0].1));
        let named = defined.map(|pair| pair[1]).chain([(0, stem)]).filter(|(_, name)| *name != POOL_MANAGER);
        let is_empty =
            |part: &String| BANNED_WORDS.iter().any(|empty| part == empty || *part == format!("{empty}s"));
        let empty = named.filter(|(_, name)| parts(name).iter().any(is_empty));
        empty.map(|(at, name)| (at, format!("the name `{name}` says nothing"))).collect()
    }
    let bad = [
        ("src/queue/utils.rs", "//! A."),
        ("src/a.rs", "pub struct JobManager;"),
        ("src/a.rs", "mod common;"),
        ("src/a.rs", "trait RetryHandler {}"),
    ];
    let good = [("src/queue/keys.rs", "struct Metadata; enum Outcome {} fn common_prefix() {} // mod util")];
    check_rule(rule, &RUST, ".rs", &bad, &good);
}

#[test]
fn no_retired_identifier_returns() {
    fn rule(file: &Source) -> Vec<Violation> {
        let retired =
            |kind: &str, name: &str| RETIRED.iter().any(|(of, names)| *of == kind && names.contains(&name));
        let all: Vec<(usize, &str)> = words(&file.code).collect();
        let mut violations = Vec::new();
        for pair in all.windows(2) {
            let [(_, keyword), (at, name)] = [pair[0], pair[1]];
            let kind = match keyword {
                "struct" | "enum" | "trait" | "type" | "union" => "type",
                "fn" | "mod" => keyword,
                _ => continue,
            };
            if retired(kind, name) {
                violations.push((at, format!("the {kind} `{name}` was renamed: see the glossary")));
            }
        }
        let variants = all.iter().filter(|(at, name)| {
            let stands_alone = file.code[..*at].trim_end().ends_with([',', '{', '}', ']']);
            stands_alone && retired("variant", name)
        });
        violations.extend(variants.map(|(at, name)| (*at, format!("the variant `{name}` was renamed"))));
        let in_keys = file.path == "crates/queue/src/redis/keys.rs" || file.path.ends_with(".lua");
        let literals = file.text.match_indices(['\'', '"']).filter(|_| in_keys);
        let keys = literals.filter_map(|(at, mark)| {
            let name = file.text[at + 1..].split(mark).next().unwrap_or_default().trim_end_matches(':');
            retired("key", name).then(|| (at, format!("the key or field `{name}` was renamed")))
        });
        violations.extend(keys);
        violations
    }
    let bad = [
        ("src/a.rs", "struct Fire;"),
        ("src/a.rs", "pub(super) fn heed() {}"),
        ("src/a.rs", "mod brim;"),
        ("src/a.rs", "enum A { Solo, B }"),
        ("crates/queue/src/lua/a.lua", "redis.call('HGET', job, 'line')"),
    ];
    let good = [
        ("src/a.rs", "// struct Fire\nlet line = 1; fn started() { entry.enter() }"),
        ("crates/queue/src/lua/a.lua", "local line = 1 -- a line"),
    ];
    check_rule(rule, &["src", "crates", "tests", "benches"], "", &bad, &good);
}

#[test]
fn no_type_name_is_used_twice_within_a_crate() {
    /// The types that a file defines, its associated types left out.
    fn defined(file: &Source) -> Vec<&str> {
        let all: Vec<(usize, &str)> = words(&file.code).collect();
        let defines =
            |pair: &&[(usize, &str)]| ["struct", "enum", "trait", "type", "union"].contains(&pair[0].1);
        let outside_impls = |(at, _): &(usize, &str)| {
            // `type X = ..;` inside braces of an impl is that trait's name, not ours; `type=".."` is an attribute in markup.
            let line = file.code[..*at].rsplit('\n').next().unwrap_or_default();
            let is_attribute = line.trim_end().ends_with(['"', '=']);
            !is_attribute && (!line.starts_with(' ') || !line.trim_start().starts_with("type"))
        };
        all.windows(2)
            .filter(defines)
            .map(|pair| pair[1])
            .filter(outside_impls)
            .map(|(_, name)| name)
            .collect()
    }
    let example =
        Source::new("src/a.rs", "struct A;\nimpl B for A {\n    type Error = ();\n}\nenum C {}".into());
    assert_eq!(defined(&example), ["A", "C"]);

    let mut crates = vec![("src".to_owned(), sources(&["src"], ".rs"))];
    crates.extend(
        CRATES
            .iter()
            .map(|(name, _)| (format!("crates/{name}"), sources(&[&format!("crates/{name}/src")], ".rs"))),
    );
    for (krate, files) in crates {
        let mut seen = BTreeMap::<String, Vec<String>>::new();
        for file in &files {
            defined(file)
                .into_iter()
                .for_each(|name| seen.entry(name.to_owned()).or_default().push(file.path.clone()));
        }
        let allowed = |name: &String| REPEATED_TYPES.iter().any(|(repeated, _)| repeated == name);
        let twice: Vec<_> = seen.iter().filter(|(name, files)| files.len() > 1 && !allowed(name)).collect();
        assert!(twice.is_empty(), "{krate} uses these type names more than once: {twice:#?}");
    }
}

#[test]
fn no_file_knows_the_machine_it_was_written_on() {
    fn rule(file: &Source) -> Vec<Violation> {
        let homes = [concat!("/wo", "rk/"), concat!("/ro", "ot/")];
        let named = homes.iter().filter_map(|home| Some((file.text.find(home)?, home)));
        named.map(|(at, home)| (at, format!("names {home}"))).collect()
    }
    check_rule(rule, &["."], "", &[("a.md", concat!("see /ro", "ot/x"))], &[("a.md", "a network/path")]);
}

#[test]
fn ci_runs_what_the_readme_says() {
    fn rule(file: &Source) -> Vec<Violation> {
        let lacks = |command: &&str| !file.text.lines().any(|line| line.trim_start().starts_with(*command));
        COMMANDS.into_iter().filter(lacks).map(|command| (0, format!("has no line `{command}`"))).collect()
    }
    let good = [("README.md", "```\ncargo run --release -- demo\ncargo test\n```")];
    check_rule(rule, &[".ci/run", "README.md"], "", &[("README.md", "run `cargo test`")], &good);
}

#[test]
fn every_test_that_the_docs_name_exists() {
    /// `sandbox limits::a_name` is in `tests/sandbox/limits.rs`, `queue::a_name` of a file alone in `tests/queue.rs`,
    /// `lib pipeline::a_name` in `src/pipeline/`, `lib queue::keys::a_name` in `crates/queue/src/keys.rs`.
    fn exists(cited: &str, files: &[Source]) -> bool {
        let (binary, path) = cited.split_once(' ').unwrap_or_default();
        let (module, name) = path.rsplit_once("::").unwrap_or(("", path));
        let module = module.replace("::", "/");
        let places = match module.split_once('/') {
            _ if binary != "lib" => vec![format!("tests/{binary}/{module}")],
            Some((krate, module)) => {
                vec![format!("src/{krate}/{module}"), format!("crates/{krate}/src/{module}")]
            }
            None => vec![format!("src/{module}"), format!("crates/{module}/src/lib")],
        };
        let is_there = |file: &&Source| {
            let ends = [".rs", "/mod.rs", "/main.rs", "/tests.rs"];
            let mut paths = places
                .iter()
                .flat_map(|place| ends.map(|end| format!("{}{end}", place.trim_end_matches('/'))));
            paths.any(|path| file.path == path)
        };
        files
            .iter()
            .filter(is_there)
            .any(|file| file.uses(name).any(|(_, before, _)| before.ends_with("fn ")))
    }
    fn cited(text: &str) -> Vec<&str> {
        let is_name = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_:".contains(&b))
        };
        let spans = text.split('`').skip(1).step_by(2);
        let is_test = |span: &&str| {
            span.split_once(' ')
                .is_some_and(|(binary, path)| is_name(binary) && is_name(path) && path.contains("::"))
        };
        spans.filter(is_test).collect()
    }
    let example = [Source::new("tests/it/a.rs", "//! fn b\nfn c() {}".into())];
    assert_eq!(cited("`it a::c` and `wm:{q}` or `queue pause` in `sandbox`"), ["it a::c"]);
    assert!(exists("it a::c", &example) && !exists("it a::b", &example) && !exists("lib a::c", &example));

    let files = [sources(&BUILT, ".rs"), sources(&["tests"], ".rs")].concat();
    for page in sources(&DOCS, ".md") {
        // Code in fences has backticks of its own kind.
        let text: String = page.text.split("```").step_by(2).collect();
        let missing: Vec<_> = cited(&text).into_iter().filter(|test| !exists(test, &files)).collect();
        assert_eq!(missing, [""; 0], "{} cites tests that do not exist", page.path);
    }
}

#[test]
fn the_readme_is_short_and_every_link_leads_to_a_file() {
    fn rule(file: &Source) -> Vec<Violation> {
        let lines = file.text.lines().count();
        let long = file.path == "README.md" && lines > MAX_README;
        let mut violations = violation_if(long, 0, &format!("{lines} lines, at most {MAX_README}"));
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(&file.path);
        for (at, _) in file.text.match_indices("](") {
            let target = file.text[at + 2..].split(')').next().unwrap_or_default();
            let path = target.split('#').next().unwrap_or_default();
            if !target.contains("://") && !folder.with_file_name(path).exists() {
                violations.push((at, format!("the link to {target} leads nowhere")));
            }
        }
        violations
    }
    let long = "\n".repeat(MAX_README + 1);
    let bad = [
        ("README.md", long.as_str()),
        ("README.md", "[a](docs/nowhere.md)"),
        ("docs/a.md", "[a](docs/operators.md)"),
    ];
    let good = [
        ("docs/a.md", long.as_str()),
        ("docs/a.md", "[a](../README.md#limits), [b](https://example.org), [c](operators.md)"),
    ];
    check_rule(rule, &LINKING, ".md", &bad, &good);
}

#[test]
fn every_metric_asked_for_exists_and_every_one_that_exists_is_documented() {
    let of = |catalogue: &str| -> Vec<String> {
        let entries =
            catalogue.split("entry(").skip(1).filter_map(|rest| rest.trim_start().strip_prefix('"'));
        let names = entries.filter_map(|rest| rest.split('"').next());
        names.map(|name| format!("wm_analyzer_{name}")).collect()
    };
    let exists = |asked: &str, known: &[String]| {
        let suffixes = ["", "_total", "_info", "_count", "_sum", "_bucket"];
        suffixes
            .iter()
            .any(|suffix| asked.strip_suffix(suffix).is_some_and(|name| known.iter().any(|k| k == name)))
    };
    let known = of(
        r#"const fn entry(name: &str) {} [entry("jobs", Type::Counter, "Jobs"), entry("ready", Type::Gauge)]"#,
    );
    assert_eq!(known, ["wm_analyzer_jobs", "wm_analyzer_ready"]);
    assert!(exists("wm_analyzer_jobs_total", &known) && !exists("wm_analyzer_job", &known));

    let known: Vec<String> =
        sources(&["src/telemetry/metrics"], "catalogue.rs").iter().flat_map(|file| of(&file.text)).collect();
    for rules in sources(&["config/prometheus", "config/grafana"], "") {
        let asked = words(&rules.text).filter(|(_, word)| word.starts_with("wm_analyzer_"));
        let missing: Vec<_> = asked.filter(|(_, word)| !known.is_empty() && !exists(word, &known)).collect();
        assert_eq!(missing, [], "{} asks for metrics that nobody exports", rules.path);
    }
    let docs = sources(&DOCS, ".md").into_iter().map(|page| page.text).collect::<Vec<_>>().join("\n");
    let listed: Vec<_> = words(&docs).map(|(_, word)| word).collect();
    let unlisted: Vec<_> = known.iter().filter(|name| !listed.contains(&name.as_str())).collect();
    assert!(unlisted.is_empty(), "the table of docs/deployers.md lacks {unlisted:?}");
    let unknown: Vec<_> =
        listed.iter().filter(|word| word.starts_with("wm_analyzer_") && !exists(word, &known)).collect();
    assert!(unknown.is_empty(), "the docs name metrics that are not exported: {unknown:?}");
}

#[test]
fn what_is_written_twice_agrees() {
    let version = env!("CARGO_PKG_VERSION");
    let rules = include_str!("../config/prometheus/rules.yml");
    let groups = rules[rules.find("groups:").unwrap()..].trim_end().split('\n');
    let indent = |line: &str| if line.is_empty() { String::new() } else { format!("  {line}") };
    let indented_rules = groups.map(indent).collect::<Vec<_>>().join("\n");
    let twice = [
        ("CHANGELOG.md", format!("## [{version}]")),
        ("config/kubernetes/base/worker.yaml", format!("image: wm-analyzer:{version}\n")),
        ("config/kubernetes/components/dash/dash.yaml", format!("image: wm-analyzer:{version}\n")),
        ("config/kubernetes/components/prometheus/prometheus-rule.yaml", indented_rules),
        ("README.md", format!("Rust {}", env!("CARGO_PKG_RUST_VERSION"))),
    ];
    for (path, text) in twice {
        for file in sources(&[path], "") {
            assert!(file.text.contains(&text), "{path} does not say `{text}`");
        }
    }
}

#[test]
fn comments_and_literals_are_not_code() {
    let text = r##"a /* b */ "c\"d" 'e' '\'' 'é' r#"f"g"# <'h> i // j
        k // l"##;
    let code = code(text);
    assert_eq!(words(&code).map(|(_, word)| word).collect::<Vec<_>>(), ["a", "h", "i", "k"]);
    assert_eq!(code.len(), text.len());
}

/// Shows `rule` every example, then every file under `places`, and fails with all violations at once.
fn check_rule(rule: Rule, places: &[&str], ending: &str, bad: &[(&str, &str)], good: &[(&str, &str)]) {
    for (path, text) in bad {
        let violations = rule(&Source::new(path, text.to_string()));
        assert!(!violations.is_empty(), "the rule cannot see what is wrong with {path}:\n{text}");
    }
    for (path, text) in good {
        let violations = rule(&Source::new(path, text.to_string()));
        assert_eq!(violations, vec![], "the rule refuses what is right in {path}:\n{text}");
    }
    let located = |file: &Source| {
        let line = |at: usize| file.text[..at].matches('\n').count() + 1;
        rule(file).into_iter().map(|(at, what)| format!("{}:{}: {what}", file.path, line(at))).collect()
    };
    let violations: Vec<String> = sources(places, ending).iter().flat_map::<Vec<_>, _>(located).collect();
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

fn violation_if(wrong: bool, at: usize, what: &str) -> Vec<Violation> {
    if wrong { vec![(at, what.to_owned())] } else { vec![] }
}

fn layer_of(room: &str) -> Option<usize> {
    LAYERS.iter().position(|rooms| rooms.contains(&room))
}
