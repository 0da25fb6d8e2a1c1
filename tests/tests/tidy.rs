//! Tidy: the rules of the house, kept by a test: which crate may use which, how files begin, what
//! they are called and how long they are.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What a crate may use of ours, and what it must never use of others.
struct Promise {
    folder: &'static str,
    ours: &'static [&'static str],
    never: &'static [&'static str],
}

const PROMISES: [Promise; 10] = [
    Promise { folder: "proto", ours: &[], never: &["timely", "arrow-array", "rusqlite"] },
    Promise {
        folder: "operators",
        ours: &[],
        never: &["tokio", "tonic", "rusqlite", "rustix", "notify", "tempfile", "flate2", "zstd"],
    },
    Promise { folder: "engine/store", ours: &[], never: &["tokio", "tonic", "timely"] },
    Promise {
        folder: "engine/core",
        ours: &["tidemill-operators", "tidemill-store"],
        never: &["tokio", "tonic", "rusqlite", "clap"],
    },
    Promise {
        folder: "engine/server",
        ours: &["tidemill-engine", "tidemill-proto"],
        never: &["timely", "rusqlite", "arrow-array", "clap"],
    },
    Promise {
        folder: "engine/daemon",
        ours: &["tidemill-engine", "tidemill-server", "tidemill-store", "tidemill-cli"],
        never: &["timely", "rusqlite", "arrow-array", "tonic"],
    },
    Promise {
        folder: "clients/rust",
        ours: &["tidemill-proto"],
        never: &["timely", "rusqlite", "arrow-array", "clap"],
    },
    Promise {
        folder: "clients/cli",
        ours: &["tidemill-client"],
        never: &["timely", "rusqlite", "arrow-array"],
    },
    Promise {
        folder: "bench",
        ours: &["tidemill-client", "tidemill-engine"],
        never: &["rusqlite"],
    },
    Promise {
        folder: "tests",
        ours: &["tidemill", "tidemill-bench", "tidemill-client"],
        never: &["timely", "rusqlite", "arrow-array", "tonic"],
    },
];

/// Words of a file name that say nothing.
const EMPTY_NAMES: [&str; 7] = ["utils", "util", "common", "helpers", "helper", "manager", "misc"];

/// Lines of a source file, at most; one that must be longer is two ideas.
const LINES_MAX: usize = 620;

/// Files that are too long today. One that was cut must leave this list.
const TOO_LONG: [&str; 0] = [];

#[test]
fn a_crate_uses_only_what_its_promise_allows() {
    for promise in &PROMISES {
        let path = root().join(promise.folder).join("Cargo.toml");
        let used = dependencies(&fs::read_to_string(&path).unwrap());
        for name in &used {
            let ours = name.starts_with("tidemill");
            let allowed = !ours || promise.ours.contains(&name.as_str());
            assert!(allowed, "{} may not use {name}", promise.folder);
            assert!(
                !promise.never.contains(&name.as_str()),
                "{} promised never to use {name}",
                promise.folder
            );
        }
    }
}

#[test]
fn every_crate_has_a_promise() {
    let workspace = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let members = workspace.split_once("members = [").unwrap().1.split_once(']').unwrap().0;
    let members: Vec<&str> = members.split('"').skip(1).step_by(2).collect();
    assert!(members.len() >= PROMISES.len());
    for member in members {
        let promised = PROMISES.iter().any(|promise| promise.folder == member);
        assert!(promised, "{member}: say in this file what it may use");
    }
}

#[test]
fn dependencies_are_read_from_their_section_only() {
    let text = "[package]\nname = \"x\"\n[dependencies]\na.workspace = true\nb = { path = \"c\" }\n\n# d\n[dev-dependencies]\ne = \"1\"\n[target.'cfg(unix)'.dependencies]\nf.workspace = true\n";
    assert_eq!(dependencies(text), ["a", "b", "f"]);
}

/// Returns the names in `[dependencies]` and its like; what only tests and build scripts use is free.
fn dependencies(manifest: &str) -> Vec<String> {
    let mut inside = false;
    let mut names = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            let section = section.trim_end_matches(']');
            inside = section == "dependencies" || section.ends_with(".dependencies");
        } else if inside && !line.is_empty() && !line.starts_with('#') {
            let name = line.split(['.', '=', ' ']).next().unwrap_or_default();
            names.push(name.to_owned());
        }
    }
    names
}

/// Applies a rule to every source file; it answers what is wrong.
#[track_caller]
fn check(endings: &[&str], rule: impl Fn(&str, &str) -> Option<String>) {
    let files = files(endings);
    assert!(!files.is_empty(), "no file was found");
    let wrong: Vec<String> = files
        .iter()
        .filter_map(|(path, text)| Some(format!("{path}: {}", rule(path, text)?)))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_begins_with_what_it_is() {
    check(&["rs"], |_, text| {
        let first = text.lines().next().unwrap_or_default();
        let says = first.strip_prefix("//!").is_some_and(|rest| rest.trim().len() > 10);
        (!says).then(|| format!("its first line is no `//!` header: {first:?}"))
    });
}

#[test]
fn files_are_named_for_an_idea() {
    check(&["rs"], |path, _| {
        let name = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".rs");
        if name == "mod" {
            return Some("use `foo.rs` beside `foo/`".into());
        }
        EMPTY_NAMES.contains(&name).then(|| "the name says nothing".into())
    });
}

#[test]
fn no_file_is_two_ideas_long() {
    check(&["rs"], |path, text| {
        let lines = text.lines().count();
        match (lines > LINES_MAX, TOO_LONG.contains(&path)) {
            (true, false) => Some(format!("{lines} lines, at most {LINES_MAX}")),
            (false, true) => Some("it is short enough now; take it off TOO_LONG".into()),
            _ => None,
        }
    });
}

#[test]
fn nothing_is_left_to_do_in_a_comment() {
    check(&["rs", "md", "yaml", "toml", "proto", "sh"], |_, text| {
        let words = [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["XX", "X:"].concat()];
        let line = text.lines().find(|line| words.iter().any(|word| line.contains(word)))?;
        Some(format!("{:?}", line.trim()))
    });
}

#[test]
fn nothing_speaks_of_the_machine_it_was_written_on() {
    check(&["rs", "md", "yaml", "toml", "proto", "sh", "txt"], |_, text| {
        let places = ["work/", "root/", "Users/"].map(|place| format!("/{place}"));
        let names = |line: &&str| places.iter().any(|place| has_path(line, place));
        text.lines().find(names).map(|line| format!("{:?}", line.trim()))
    });
}

/// Returns whether a line names an absolute path below `place`.
fn has_path(line: &str, place: &str) -> bool {
    let begins = |at: usize| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|c| c.is_whitespace() || "\"'`=(:<>".contains(c))
    };
    line.match_indices(place).any(|(at, _)| begins(at))
}

#[test]
fn every_concept_has_its_page_and_every_page_its_shape() {
    let folder = root().join("docs/concepts");
    if !folder.exists() {
        return;
    }
    for name in ["epoch", "frontier", "commit", "journal", "quarantine", "exchange"] {
        assert!(folder.join(format!("{name}.md")).exists(), "docs/concepts/{name}.md is missing");
    }
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# "), "{}: no title", path.display());
        let lines = text.lines().count();
        assert!(lines <= 120, "{}: {lines} lines are more than two screens", path.display());
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    check(&["md"], |path, text| {
        let folder = root().join(path).parent().unwrap().to_path_buf();
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        for (target, _) in targets {
            let file = target.split('#').next().unwrap_or_default();
            let outside = target.contains("://") || file.is_empty() || file.contains(' ');
            if !outside && !folder.join(file).exists() {
                return Some(format!("the link to {target} leads nowhere"));
            }
        }
        None
    });
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Returns the text of every file of ours with one of these endings, by its path.
fn files(endings: &[&str]) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    gather(&root(), "", endings, &mut found);
    found
}

fn gather(folder: &Path, below: &str, endings: &[&str], found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().to_string_lossy().into_owned();
        let skipped = name.starts_with('.') && name != ".ci";
        if skipped || name == "target" || name == "scenarios" || name == "node_modules" {
            continue;
        }
        let path = if below.is_empty() { name.clone() } else { format!("{below}/{name}") };
        if entry.file_type().unwrap().is_dir() {
            gather(&entry.path(), &path, endings, found);
        } else if name.rsplit_once('.').is_some_and(|(_, ending)| endings.contains(&ending))
            && let Ok(text) = fs::read_to_string(entry.path())
        {
            found.insert(path, text);
        }
    }
}
