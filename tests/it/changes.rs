//! What a person reads of a change: `diff` on ten pairs against what it is to print.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::harness::run;

fn pairs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/changes")
}

/// `WM_UPDATE_FIXTURES=1` writes what is printed instead of comparing it: read it before it is committed.
#[tokio::test]
async fn ten_pairs_read_as_a_person_would_say_it() {
    let update = std::env::var_os("WM_UPDATE_FIXTURES").is_some();
    let mut names: Vec<String> = std::fs::read_dir(pairs())
        .unwrap()
        .filter_map(|entry| {
            entry.unwrap().file_name().into_string().unwrap().strip_suffix(".from.html").map(str::to_owned)
        })
        .collect();
    names.sort();
    assert_eq!(names.len(), 10, "{names:?}");
    for name in names {
        let [from, to] = ["from", "to"].map(|side| pairs().join(format!("{name}.{side}.html")));
        let ran = run(&["diff", from.to_str().unwrap(), to.to_str().unwrap()], &BTreeMap::new(), b"").await;
        let printed = ran.exited_with(0).stdout.clone();
        let golden = pairs().join(format!("{name}.txt"));
        if update {
            std::fs::write(&golden, &printed).unwrap();
        }
        assert_eq!(printed, std::fs::read_to_string(&golden).unwrap(), "{name}");
    }
}
