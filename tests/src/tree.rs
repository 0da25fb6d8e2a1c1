//! Tree: the files below a folder as a map from path to bytes, and how two of them differ.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

/// Files by their path below some folder, with `/` between its parts.
pub type Tree = BTreeMap<String, Vec<u8>>;

/// The end of the name of the file that a table's snapshot is described by.
pub const ABOUT: &str = ".about.json";

/// How much of two differing lines is shown, in bytes.
const SHOWN_BYTES: usize = 300;

/// Reads every file below `folder`; nothing if there is no such folder.
pub fn read(folder: &Path) -> Tree {
    let mut tree = Tree::new();
    gather(folder, "", &mut tree);
    tree
}

fn gather(folder: &Path, below: &str, tree: &mut Tree) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let entry = entry.unwrap();
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        if entry.file_type().unwrap().is_dir() {
            gather(&entry.path(), &path, tree);
        } else {
            match fs::read(entry.path()) {
                Ok(bytes) => drop(tree.insert(path, bytes)),
                // A server moves files on while we look.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => panic!("read {path}: {error}"),
            }
        }
    }
}

/// Writes every file below `folder`, which is emptied first.
pub fn write(folder: &Path, tree: &Tree) {
    if folder.exists() {
        fs::remove_dir_all(folder).unwrap();
    }
    for (path, bytes) in tree {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// Takes out what tables say about their snapshots, after comparing it with the snapshots.
pub fn check_abouts(tree: &mut Tree) -> Result<(), String> {
    let abouts: Vec<String> = tree.keys().filter(|path| path.ends_with(ABOUT)).cloned().collect();
    for path in abouts {
        let about: serde_json::Value =
            serde_json::from_slice(&tree.remove(&path).unwrap_or_default())
                .map_err(|error| format!("{path}: {error}"))?;
        let snapshot = path.trim_end_matches(ABOUT);
        let bytes = tree.get(snapshot).ok_or_else(|| format!("{path}: no {snapshot}"))?;
        let hash = blake3::hash(bytes).to_string();
        if about["blake3"] != hash.as_str() {
            return Err(format!("{path} speaks of other bytes: {about}"));
        }
    }
    Ok(())
}

/// Returns up to which epoch the snapshot of a table speaks, if there is one.
pub fn shown_epoch(out: &Path, table: &str) -> Option<u64> {
    let snapshot = read(&out.join(table));
    let (_, about) = snapshot.iter().find(|(path, _)| path.ends_with(ABOUT))?;
    serde_json::from_slice::<serde_json::Value>(about).ok()?["epoch"].as_u64()
}

/// Says how two trees differ: every path that only one has, every file that differs, and its first
/// differing line.
pub fn difference(expected: &Tree, found: &Tree) -> Option<String> {
    let mut text = String::new();
    for path in expected.keys().filter(|path| !found.contains_key(*path)) {
        text += &format!("  missing: {path}\n");
    }
    for (path, bytes) in found {
        match expected.get(path) {
            None => text += &format!("  not expected: {path}\n{}", first_lines(bytes)),
            Some(wanted) if wanted != bytes => text += &line_difference(path, wanted, bytes),
            Some(_) => {}
        }
    }
    (!text.is_empty()).then_some(text)
}

fn first_lines(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_BYTES)]).into_owned();
    text.lines().map(|line| format!("    | {line}\n")).collect()
}

fn line_difference(path: &str, wanted: &[u8], found: &[u8]) -> String {
    let lines = |bytes: &[u8]| -> Vec<Vec<u8>> {
        bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
    };
    let (wanted, found) = (lines(wanted), lines(found));
    let at = wanted.iter().zip(&found).take_while(|(one, other)| one == other).count();
    let shown = |lines: &[Vec<u8>]| match lines.get(at) {
        None => "(the end)".to_owned(),
        Some(line) => {
            format!("{:?}", String::from_utf8_lossy(&line[..line.len().min(SHOWN_BYTES)]))
        }
    };
    format!(
        "  differs: {path} ({} lines expected, {} found), first at line {}\n    expected {}\n    found    {}\n",
        wanted.len(),
        found.len(),
        at + 1,
        shown(&wanted),
        shown(&found)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(expected: &[(&str, &str)], found: &[(&str, &str)], wanted: &[&str]) {
        let tree = |files: &[(&str, &str)]| -> Tree {
            files.iter().map(|(path, text)| (path.to_string(), text.as_bytes().to_vec())).collect()
        };
        let text = difference(&tree(expected), &tree(found)).unwrap_or_default();
        assert_eq!(text.is_empty(), wanted.is_empty(), "{text}");
        for part in wanted {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    #[test]
    fn every_difference_is_told() {
        check(&[("a", "1")], &[("a", "1")], &[]);
        check(&[("a", "1")], &[], &["missing: a"]);
        check(&[], &[("a", "1")], &["not expected: a"]);
        check(&[("a", "1\n2\n")], &[("a", "1\n3\n")], &["line 2", "\"2\\n\"", "\"3\\n\""]);
        check(&[("a", "1\n")], &[("a", "")], &["(the end)"]);
    }
}
