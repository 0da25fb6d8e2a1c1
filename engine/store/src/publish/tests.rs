//! What publication promises, one fact per test.

use super::*;
use crate::stage::{StageWriter, sync_parts};
use std::fs;

fn given() -> (tempfile::TempDir, Home, Folders) {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::open(&folder.path().join("home")).unwrap();
    let folders = home.pipeline("p").unwrap();
    (folder, home, folders)
}

fn inline(bytes: &str) -> Part {
    Part::inline(1, "errors", "a.jsonl", bytes.as_bytes().to_vec())
}

fn staged(home: &Home, bytes: &str) -> Part {
    let mut writer = StageWriter::create(home, 1, "p", 1, "errors").unwrap();
    writer.write(bytes.as_bytes()).unwrap();
    let part = writer.finish().unwrap();
    sync_parts(std::slice::from_ref(&part)).unwrap();
    part.part(1, "errors", "a.jsonl")
}

#[test]
fn a_part_is_published_once_however_often_it_is_asked() {
    for kind in ["inline", "staged"] {
        let (_folder, home, folders) = given();
        let part = if kind == "inline" { inline("hello") } else { staged(&home, "hello") };
        for _ in 0..3 {
            publish(&home, &folders, &part).unwrap();
            assert_eq!(fs::read(folders.out.join("errors/a.jsonl")).unwrap(), b"hello");
        }
        sync_published(&[&folders]).unwrap();
        assert_eq!(fs::read_dir(folders.out.join("errors")).unwrap().count(), 1);
    }
}

#[test]
fn an_empty_part_is_published() {
    let (_folder, home, folders) = given();
    publish(&home, &folders, &inline("")).unwrap();
    assert_eq!(fs::read(folders.out.join("errors/a.jsonl")).unwrap(), b"");
}

#[test]
fn a_foreign_file_is_never_replaced() {
    for kind in ["inline", "staged"] {
        for foreign in ["hallo", "longer than it"] {
            let (_folder, home, folders) = given();
            let part = if kind == "inline" { inline("hello") } else { staged(&home, "hello") };
            let path = folders.out.join("errors/a.jsonl");
            fs::create_dir(path.parent().unwrap()).unwrap();
            fs::write(&path, foreign).unwrap();
            let result = publish(&home, &folders, &part);
            assert!(matches!(result, Err(PublishError::Occupied { .. })), "{result:?}");
            assert_eq!(fs::read_to_string(&path).unwrap(), foreign);
        }
    }
}

#[test]
fn a_part_that_is_nowhere_is_lost() {
    let (_folder, home, folders) = given();
    let part = staged(&home, "hello");
    fs::remove_dir_all(home.stage(1)).unwrap();
    let result = publish(&home, &folders, &part);
    assert!(matches!(result, Err(PublishError::Lost { .. })), "{result:?}");
}

#[test]
fn a_part_that_was_cut_is_not_published() {
    let (_folder, home, folders) = given();
    let part = staged(&home, "hello");
    let PartBody::Staged(path) = &part.body else { panic!("staged") };
    fs::write(home.root().join(path), "hell").unwrap();
    assert!(matches!(publish(&home, &folders, &part), Err(PublishError::Changed { .. })));
    let mut part = inline("hello");
    part.hash = [0; 32];
    assert!(matches!(publish(&home, &folders, &part), Err(PublishError::Changed { .. })));
    assert!(!folders.out.join("errors/a.jsonl").exists());
}

#[test]
fn nothing_is_published_out_of_or_to_a_place_outside() {
    let (_folder, home, folders) = given();
    for (sink, name) in [("..", "a"), ("a/b", "c"), ("s", "../x"), ("s", ""), ("", "a")] {
        let part = Part { sink: sink.into(), name: name.into(), ..inline("x") };
        assert!(matches!(publish(&home, &folders, &part), Err(PublishError::Name { .. })));
    }
    for path in ["/etc/passwd", "stage/../LOCK", "journal.db", "stage", "./stage/../../x"] {
        let part = Part { body: PartBody::Staged(path.into()), ..inline("x") };
        assert!(matches!(publish(&home, &folders, &part), Err(PublishError::Name { .. })));
    }
}

#[test]
fn a_replaced_file_is_the_old_one_or_the_new_one() {
    let (_folder, _home, folders) = given();
    let path = folders.out.join("table.csv");
    replace_file(&path, |file| file.write_all(b"one")).unwrap();
    let failed = replace_file(&path, |file| {
        file.write_all(b"half")?;
        Err(io::Error::other("no more"))
    });
    assert!(failed.unwrap_err().to_string().contains("no more"));
    assert_eq!(fs::read(&path).unwrap(), b"one");
    replace_file(&path, |file| file.write_all(b"two")).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"two");
    assert_eq!(fs::read_dir(&folders.out).unwrap().count(), 1);
}

/// Returns a part of either kind with these bytes, which takes the place of others.
fn part_over(home: &Home, kind: &str, bytes: &str, before: &[&str]) -> Part {
    let version = |bytes: &&str| crate::journal::Version {
        bytes: bytes.len() as u64,
        hash: blake3::hash(bytes.as_bytes()).into(),
        body: None,
    };
    let part = match kind {
        "inline" => inline(bytes),
        "staged" => staged(home, bytes),
        _ => Part::removed(1, "errors", "a.jsonl"),
    };
    Part { before: before.iter().map(version).collect(), ..part }
}

#[test]
fn an_output_of_ours_is_replaced_or_removed() {
    for first in ["inline", "staged"] {
        for kind in ["inline", "staged", "removed"] {
            for (bytes, before) in [("new", "old"), ("longer", "old"), ("same", "same"), ("", "x")]
            {
                let (_folder, home, folders) = given();
                publish(&home, &folders, &part_over(&home, first, before, &[])).unwrap();
                let part = part_over(&home, kind, bytes, &["elsewhere", before]);
                for _ in 0..3 {
                    publish(&home, &folders, &part).unwrap();
                    let found = fs::read_to_string(folders.out.join("errors/a.jsonl")).ok();
                    assert_eq!(found.as_deref(), (kind != "removed").then_some(bytes), "{kind}");
                }
                let left = fs::read_dir(home.stage_root()).unwrap().flatten();
                assert_eq!(left.filter(|entry| entry.path().is_file()).count(), 0);
            }
        }
    }
}

#[test]
fn a_foreign_file_is_neither_replaced_nor_removed_whatever_ours_were() {
    for kind in ["inline", "staged", "removed"] {
        for foreign in ["hallo", "eine", "longer than both"] {
            let (_folder, home, folders) = given();
            let path = folders.out.join("errors/a.jsonl");
            fs::create_dir(path.parent().unwrap()).unwrap();
            fs::write(&path, foreign).unwrap();
            let result = publish(&home, &folders, &part_over(&home, kind, "hello", &["mine"]));
            match kind {
                "removed" => result.unwrap(),
                _ => assert!(matches!(result, Err(PublishError::Occupied { .. })), "{result:?}"),
            }
            assert_eq!(fs::read_to_string(&path).unwrap(), foreign);
        }
    }
}

#[test]
fn a_staged_part_that_is_gone_is_lost_while_the_old_output_is_there() {
    let (_folder, home, folders) = given();
    publish(&home, &folders, &inline("old")).unwrap();
    let part = part_over(&home, "staged", "new", &["old"]);
    fs::remove_dir_all(home.stage(1)).unwrap();
    let result = publish(&home, &folders, &part);
    assert!(matches!(result, Err(PublishError::Lost { .. })), "{result:?}");
    assert_eq!(fs::read(folders.out.join("errors/a.jsonl")).unwrap(), b"old");
}
