//! Outputs: what a pipeline has written, made comparable: what tables say of themselves is held
//! against their bytes, and changelogs, in which every way to the same rows differs, are added up.

use std::collections::BTreeMap;
use std::path::Path;

use crate::tree::{self, Tree};

/// The end of the name of a changelog's folder.
const CHANGES: &str = ".changes/";

/// Reads `out/` of a pipeline.
///
/// # Errors
/// When it contradicts itself.
pub fn read(folder: &Path) -> Result<Tree, String> {
    let mut tree = tree::read(folder);
    tree::check_abouts(&mut tree)?;
    added_up(&mut tree)?;
    Ok(tree)
}

/// Puts one entry in the place of the files of each changelog: the rows they add up to, which must be
/// those of the snapshot where that is text.
fn added_up(tree: &mut Tree) -> Result<(), String> {
    let mut sums: BTreeMap<String, BTreeMap<String, i64>> = BTreeMap::new();
    // In the order of epochs.
    for path in tree.keys().cloned().collect::<Vec<_>>() {
        let Some((sink, _)) = path.split_once(CHANGES) else { continue };
        let sum = sums.entry(sink.to_owned()).or_default();
        let text = String::from_utf8(tree.remove(&path).unwrap_or_default()).unwrap();
        let header = usize::from(text.starts_with("epoch,"));
        for line in text.lines().skip(header) {
            let (diff, row) = change(line).ok_or_else(|| format!("  {path}: no change: {line}"))?;
            *sum.entry(row).or_default() += diff;
        }
        // Of each key first what is taken back: only behind the file nothing may be missing.
        if let Some((row, _)) = sum.iter().find(|(_, count)| **count < 0) {
            return Err(format!("  {path}: takes back what is not there: {row}\n"));
        }
        sum.retain(|_, count| *count != 0);
    }
    for (sink, sum) in sums {
        let rows: Vec<String> =
            sum.iter().flat_map(|(row, count)| vec![row.clone(); *count as usize]).collect();
        let rows = rows.join("\n");
        for (ending, header) in [("csv", 1), ("jsonl", 0)] {
            let Some(snapshot) = tree.get(&format!("{sink}/{sink}.{ending}")) else { continue };
            let snapshot = String::from_utf8_lossy(snapshot);
            let mut there: Vec<&str> = snapshot.lines().skip(header).collect();
            there.sort_unstable();
            if there.join("\n") != rows {
                return Err(format!(
                    "  {sink}: its changelog does not add up to its snapshot:\n{rows}\n  but\n{snapshot}\n"
                ));
            }
        }
        // One that says nothing any more is as good as none.
        if !rows.is_empty() {
            tree.insert(format!("{sink}{CHANGES}"), rows.into_bytes());
        }
    }
    Ok(())
}

/// Takes a line of a changelog apart: the difference, and the row as the table writes it.
fn change(line: &str) -> Option<(i64, String)> {
    if let Some(rest) = line.strip_prefix("{\"epoch\":") {
        let (_, rest) = rest.split_once(",\"diff\":")?;
        let (diff, fields) = rest.split_once(',')?;
        return Some((diff.parse().ok()?, format!("{{{fields}")));
    }
    let (_, rest) = line.split_once(',')?;
    let (diff, row) = rest.split_once(',')?;
    // Alone in a line of the snapshot, NULL would be a blank one, which is no record.
    let row = if row.is_empty() { "\"\"" } else { row };
    Some((diff.parse().ok()?, row.to_owned()))
}

/// Says what is left where nothing should be: a file with anything in it, or a row of a table.
pub fn left_over(tree: &Tree) -> Option<String> {
    let is_left = |(path, bytes): &(&String, &Vec<u8>)| {
        let header = usize::from(path.ends_with(".csv"));
        let is_table = path.split_once('/').is_some_and(|(sink, file)| {
            file.strip_prefix(sink).is_some_and(|rest| rest.starts_with('.'))
        });
        if path.ends_with(".parquet") {
            return false; // how an empty one looks, only the other run knows
        }
        let rows = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
        rows > header || !(is_table || path.ends_with(CHANGES))
    };
    let left = tree.iter().filter(is_left);
    let text: String = left
        .map(|(path, bytes)| format!("  {path}: {}\n", String::from_utf8_lossy(bytes)))
        .collect();
    (!text.is_empty()).then(|| format!("  when all files were removed, this was left:\n{text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> Tree {
        files.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec())).collect()
    }

    #[track_caller]
    fn check(files: &[(&str, &str)], expected: Result<&str, &str>) {
        let mut tree = tree(files);
        let found = added_up(&mut tree)
            .map(|()| String::from_utf8(tree.remove("t.changes/").unwrap_or_default()).unwrap());
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
            (found, expected) => panic!("{found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn a_changelog_adds_up_to_its_table_or_is_wrong() {
        let (one, two) = ("epoch,diff,k,n\n1,1,a,1\n", "epoch,diff,k,n\n2,-1,a,1\n2,1,a,2\n");
        let files = [("t.changes/1-x", one), ("t.changes/2-y", two), ("t/t.csv", "k,n\na,2\n")];
        check(&files, Ok("a,2"));
        check(&[files[0], files[1], ("t/t.csv", "k,n\na,1\n")], Err("does not add up"));
        check(&[files[1]], Err("takes back what is not there"));
        let null = ("t.changes/1-x", "epoch,diff,k\n1,1,\n");
        check(&[null, ("t/t.csv", "k\n\"\"\n")], Ok("\"\""));
        let json = "{\"epoch\":1,\"diff\":1,\"k\":\"a\"}\n";
        check(&[("t.changes/1-x", json), ("t/t.jsonl", "{\"k\":\"a\"}\n")], Ok("{\"k\":\"a\"}"));
    }

    #[test]
    fn what_is_left_of_removed_files_is_found() {
        assert_eq!(left_over(&tree(&[("t/t.csv", "k,n\n"), ("u/u.jsonl", "")])), None);
        assert!(left_over(&tree(&[("t/t.csv", "k,n\na,1\n")])).is_some());
        assert!(left_over(&tree(&[("f/a.csv", "")])).is_some());
        assert!(left_over(&tree(&[("rejects/a.csv.jsonl", "{}\n")])).is_some());
    }
}
