//! Results in a directory.

use std::fs;

use tempfile::TempDir;
use wm_analyzer::job::failure::FailureKind;
use wm_analyzer::results::{Config, ResultStore};

use crate::{config, key, name, open};

fn store_in(directory: &TempDir) -> ResultStore {
    open(&config(&format!("file://{}", directory.path().display())))
}

#[tokio::test]
async fn a_result_is_written_under_its_pair_and_version_read_back_and_replaced_by_the_next_one() {
    let directory = TempDir::new().unwrap();
    let store = store_in(&directory);
    assert_eq!(store.get(&key(1), 100).await.unwrap(), None);
    let stored = store.put(&key(1), b"first".to_vec()).await.unwrap();
    let file = directory.path().join(name(1));
    assert_eq!(fs::read(&file).unwrap(), b"first");
    assert_eq!((stored.url, stored.bytes), (format!("file://{}", file.display()), 5));

    let stored = store.put(&key(1), b"second".to_vec()).await.unwrap();
    assert_eq!(stored.url, store.address(&key(1)));
    let read = store.get(&key(1), 6).await.unwrap().unwrap();
    assert_eq!(read, b"second");
    assert!(stored.is_of(&read));
    let files = fs::read_dir(file.parent().unwrap()).unwrap().count();
    assert_eq!(files, 1, "nothing is left beside it");
}

#[tokio::test]
async fn whoever_reads_while_a_result_is_replaced_sees_a_whole_one() {
    let directory = TempDir::new().unwrap();
    let store = store_in(&directory);
    let [old, new] = [b'a', b'b'].map(|byte| vec![byte; 1 << 20]);
    store.put(&key(1), old.clone()).await.unwrap();
    let file = directory.path().join(name(1));
    let reader = tokio::task::spawn_blocking(move || {
        let mut seen = Vec::new();
        while seen.last() != Some(&b'b') {
            let read = fs::read(&file).unwrap();
            assert!(read.len() == 1 << 20 && read.iter().all(|byte| *byte == read[0]), "half of a file");
            seen.push(read[0]);
        }
    });
    for result in [old.clone(), old, new] {
        store.put(&key(1), result).await.unwrap();
    }
    reader.await.unwrap();
}

#[tokio::test]
async fn more_than_the_limit_is_neither_written_nor_read() {
    let directory = TempDir::new().unwrap();
    let location = format!("file://{}", directory.path().display());
    let store = open(&Config { max_bytes: "64 KiB".parse().unwrap(), ..config(&location) });
    let failure = store.put(&key(1), vec![0; (64 << 10) + 1]).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::ReplyTooLarge, "{failure}");
    assert!(failure.detail.contains("results.max_bytes"), "{failure}");
    assert!(!directory.path().join(name(1)).exists());

    store.put(&key(1), vec![0; 64 << 10]).await.unwrap();
    assert!(store.get(&key(1), 64 << 10).await.unwrap().is_some());
    let failure = store.get(&key(1), (64 << 10) - 1).await.unwrap_err();
    assert!(failure.detail.contains("more than 65535 bytes"), "{failure}");
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_refused_at_the_start_and_not_made() {
    let directory = TempDir::new().unwrap();
    let missing = directory.path().join("missing");
    let refused =
        ResultStore::open(&config(&format!("file://{}", missing.display()))).unwrap_err().to_string();
    for needle in ["results.store = file://", "missing", "No such file", "mount the volume"] {
        assert!(refused.contains(needle), "{needle} is not in {refused}");
    }
    assert!(!missing.exists());
}

#[tokio::test]
async fn a_directory_that_is_no_longer_one_is_the_stores_fault() {
    let directory = TempDir::new().unwrap();
    let store = store_in(&directory);
    let path = directory.keep();
    fs::remove_dir(&path).unwrap();
    fs::write(&path, "no directory").unwrap();
    let failure = store.put(&key(1), b"x".to_vec()).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::StoreRefused, "{failure}");
    assert!(failure.detail.contains("the worker's user may write to"), "{failure}");
    fs::remove_file(&path).unwrap();
}
