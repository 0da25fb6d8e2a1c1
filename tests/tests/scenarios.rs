//! Scenarios: each folder of `scenarios/` is a promise: these files in, exactly these files out,
//! whatever the number of workers and processes. Adding one needs no Rust; see `README.md`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::path::Path;

use tidemill_tests::{Shape, Steps, Tree, scenario, steps, tree};

const NODE: &str = env!("CARGO_BIN_EXE_node");

/// Set to `1`, it writes what comes out into `expected/` instead of comparing.
const BLESS: &str = "TIDEMILL_TESTS_BLESS";

/// Scenarios that do not hold yet, and why. One that holds must leave this list.
const KNOWN_WRONG: &[(&str, &str)] = &[];

#[test]
fn scenarios_hold_with_one_worker() {
    check(Shape::ALONE);
}

#[test]
fn scenarios_hold_with_three_workers() {
    check(Shape::new(1, 3));
}

#[test]
fn scenarios_hold_with_two_processes_of_two_workers() {
    check(Shape::new(2, 2));
}

fn check(shape: Shape) {
    let bless = std::env::var(BLESS).is_ok_and(|value| value == "1");
    if bless && shape != Shape::ALONE {
        return; // what it would be compared with is just being written
    }
    let mut wrong = String::new();
    let folders = scenario::folders();
    for folder in &folders {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let known_wrong = KNOWN_WRONG.iter().any(|(known, _)| *known == name);
        let found = run(folder, shape);
        let expected = folder.join("expected");
        if bless && !known_wrong {
            tree::write(&expected, &found);
            continue;
        }
        match tree::difference(&tree::read(&expected), &found) {
            Some(difference) if !known_wrong => {
                let _ = writeln!(wrong, "{name} ({shape}):\n{difference}");
            }
            None if known_wrong => {
                let _ = writeln!(wrong, "{name} ({shape}): it holds now; take it off KNOWN_WRONG");
            }
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "scenarios that do not hold:\n{wrong}");
}

/// Returns what came out: `out/` as it is, and `exit`, `quarantine.txt` and `unprocessed.txt` (the
/// names that nobody took) unless they say nothing.
fn run(folder: &Path, shape: Shape) -> Tree {
    let site = scenario::site(NODE, folder);
    let steps = Steps::read(folder);
    if !steps.is_empty() {
        steps.take(&site, shape);
        let yaml = std::fs::read_to_string(folder.join("pipeline.yaml")).unwrap();
        let fresh = steps::fresh(NODE, &yaml, &steps.survivors(), Shape::ALONE);
        assert_eq!(tree::difference(&fresh, &site.out()), None, "{} ({shape})", folder.display());
    }
    let ended = site.once(shape);
    if shape == Shape::ALONE
        && let Some(flat) = scenario::flat_site(NODE, folder)
    {
        flat.once(shape).expect_code(ended.code.unwrap_or_default());
        let difference = tree::difference(&flat.out(), &site.out());
        assert_eq!(difference, None, "{}: flat.yaml gives something else", folder.display());
    }
    let mut found = site.out();
    if ended.code != Some(0) {
        let code = ended.code.map_or("a signal".to_owned(), |code| code.to_string());
        found.insert("exit".into(), format!("{code}\n").into_bytes());
    }
    let lists =
        [("quarantine.txt", site.quarantine()), ("unprocessed.txt", site.names("unprocessed"))];
    for (name, lines) in lists.into_iter().filter(|(_, lines)| !lines.is_empty()) {
        found.insert(name.into(), (lines.join("\n") + "\n").into_bytes());
    }
    let waiting = site.names("underprocess");
    assert!(waiting.is_empty(), "{}: {waiting:?} are still under process", folder.display());
    found
}
