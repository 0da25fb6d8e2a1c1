//! Whether two contestants wrote the same.
//!
//! | `server_error/`, `client_error/`, `ok/` | the same bytes in each file; an absent file is an empty one |
//! | `traffic/`                              | the same rows; numbers compare as numbers                    |
//!
//! It reports the first few differences in words. It never changes what it compares.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::limit::Class;

/// Differences named in an error.
const NAMED_MAX: usize = 5;
/// Bytes compared at a time.
const PIECE_BYTES: usize = 64 << 10;
/// The columns of the table.
const HEADER: &str = "host,status,hits,bytes,worst_ms";

/// Compares what was found with the reference; an error names the first differences.
pub fn same(reference: &Path, found: &Path) -> Result<()> {
    let mut differences = Vec::new();
    for class in Class::ALL {
        compare_files(&reference.join(class.name()), &found.join(class.name()), &mut differences)?;
    }
    let table = reference.join("traffic");
    if table.exists() {
        compare_tables(&table, &found.join("traffic"), &mut differences)?;
    }
    if differences.is_empty() {
        return Ok(());
    }
    let more = differences.len().saturating_sub(NAMED_MAX);
    differences.truncate(NAMED_MAX);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    bail!("the output differs: {}{more}", differences.join("; "))
}

fn compare_files(reference: &Path, found: &Path, differences: &mut Vec<String>) -> Result<()> {
    let names: BTreeSet<_> = names(reference)?.into_iter().chain(names(found)?).collect();
    for name in names {
        if let Some(at) = first_difference(&reference.join(&name), &found.join(&name))? {
            let file = found.join(&name);
            differences.push(format!("{} from byte {at} on", file.display()));
        }
    }
    Ok(())
}

/// The visible files of a folder; a folder that is absent has none.
fn names(folder: &Path) -> Result<Vec<OsString>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let listing = || format!("list {}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(listing)? {
        let name = entry.with_context(listing)?.file_name();
        if !name.as_encoded_bytes().starts_with(b".") {
            names.push(name);
        }
    }
    Ok(names)
}

fn first_difference(left: &Path, right: &Path) -> Result<Option<u64>> {
    let (mut left, mut right) = (open(left)?, open(right)?);
    let (mut left_piece, mut right_piece) = (Vec::new(), Vec::new());
    let mut at = 0;
    loop {
        read_piece(&mut left, &mut left_piece)?;
        read_piece(&mut right, &mut right_piece)?;
        if left_piece != right_piece {
            let same = left_piece.iter().zip(&right_piece).take_while(|(a, b)| a == b).count();
            return Ok(Some(at + same as u64));
        }
        if left_piece.is_empty() {
            return Ok(None);
        }
        at += left_piece.len() as u64;
    }
}

/// An absent file reads as an empty one: contestants may or may not make a file without lines.
fn open(path: &Path) -> Result<Box<dyn Read>> {
    if !path.exists() {
        return Ok(Box::new(std::io::empty()));
    }
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    Ok(Box::new(BufReader::new(file)))
}

fn read_piece(from: &mut Box<dyn Read>, piece: &mut Vec<u8>) -> Result<()> {
    piece.clear();
    from.take(PIECE_BYTES as u64).read_to_end(piece).context("read an output")?;
    Ok(())
}

/// What the table says of one key.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Totals {
    hits: i128,
    bytes: i128,
    worst_ms: f64,
}

type Table = BTreeMap<(String, i64), Totals>;

fn compare_tables(reference: &Path, found: &Path, differences: &mut Vec<String>) -> Result<()> {
    let (expected, actual) = (read_table(reference)?, read_table(found)?);
    let keys: BTreeSet<_> = expected.keys().chain(actual.keys()).collect();
    for key in keys {
        let (expected, actual) = (expected.get(key), actual.get(key));
        if expected != actual {
            differences.push(format!(
                "row {},{}: {} instead of {}",
                key.0,
                key.1,
                in_words(actual),
                in_words(expected)
            ));
        }
    }
    Ok(())
}

fn in_words(totals: Option<&Totals>) -> String {
    totals.map_or("nothing".into(), |Totals { hits, bytes, worst_ms }| {
        format!("{hits} hits, {bytes} bytes, {worst_ms} ms")
    })
}

fn read_table(folder: &Path) -> Result<Table> {
    let path = table_file(folder)?;
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    if header != HEADER {
        bail!("{} begins with {header:?} instead of {HEADER:?}", path.display());
    }
    let mut table = Table::new();
    for line in lines {
        let (key, totals) = read_row(line)
            .with_context(|| format!("{} has the odd row {line:?}", path.display()))?;
        if table.insert(key, totals).is_some() {
            bail!("{} has two rows for the key of {line:?}", path.display());
        }
    }
    Ok(table)
}

/// The one CSV file of the sink; `traffic.csv` if there are several.
fn table_file(folder: &Path) -> Result<PathBuf> {
    let usual = folder.join("traffic.csv");
    if usual.is_file() {
        return Ok(usual);
    }
    let mut files = names(folder)?;
    files.retain(|name| name.as_encoded_bytes().ends_with(b".csv"));
    match files.as_slice() {
        [only] => Ok(folder.join(only)),
        [] => bail!("there is no table in {}", folder.display()),
        _ => bail!("{} has several tables and none is traffic.csv", folder.display()),
    }
}

/// Hosts of the data set need no quotes, so a row is its fields between commas.
fn read_row(line: &str) -> Option<((String, i64), Totals)> {
    let mut fields = line.split(',');
    let host = fields.next()?.trim_matches('"').to_owned();
    let status = fields.next()?.parse().ok()?;
    let hits = fields.next()?.parse().ok()?;
    let bytes = fields.next()?.parse().ok()?;
    let worst_ms = fields.next()?.parse().ok()?;
    fields.next().is_none().then_some(((host, status), Totals { hits, bytes, worst_ms }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "host,status,hits,bytes,worst_ms\nw,200,1,5,1.500\n";

    /// Files by path below a fresh folder.
    fn outputs(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        folder
    }

    /// An empty expectation means: they are the same.
    #[track_caller]
    fn check(reference: &[(&str, &str)], found: &[(&str, &str)], expected: &str) {
        let (reference, found) = (outputs(reference), outputs(found));
        match same(reference.path(), found.path()) {
            Ok(()) => assert_eq!(expected, ""),
            Err(error) => {
                let error = format!("{error:#}");
                assert!(!expected.is_empty() && error.contains(expected), "{error}");
            }
        }
    }

    #[test]
    fn files_are_compared_byte_by_byte() {
        check(&[("ok/a", "x\n")], &[("ok/a", "x\n")], "");
        check(&[("ok/a", "x\ny\n")], &[("ok/a", "x\nz\n")], "ok/a from byte 2 on");
        check(&[("ok/a", "x\n")], &[("ok/a", "x\ny\n")], "from byte 2 on");
        check(&[("ok/a", "x\n")], &[], "ok/a from byte 0 on");
        check(&[], &[("client_error/b", "x\n")], "client_error/b from byte 0 on");
        check(&[("ok/a", "x")], &[("server_error/a", "x")], "server_error/a");
    }

    #[test]
    fn an_absent_file_is_an_empty_one_and_hidden_files_do_not_count() {
        check(&[("ok/a", "")], &[], "");
        check(&[], &[("ok/a", ""), ("ok/.a.part", "x")], "");
    }

    #[test]
    fn only_the_first_differences_are_named() {
        let files: Vec<_> = (0..9).map(|index| format!("ok/{index}")).collect();
        let files: Vec<_> = files.iter().map(|name| (name.as_str(), "x")).collect();
        check(&files, &[], "and 4 more");
    }

    #[test]
    fn tables_compare_by_row_and_number() {
        let table = |content: &'static str| [("traffic/traffic.csv", content)];
        check(&table(TABLE), &table(TABLE), "");
        for (other, difference) in [
            ("host,status,hits,bytes,worst_ms\nw,200,1,5,1.5\n", ""),
            ("host,status,hits,bytes,worst_ms\nw,200,1,6,1.5\n", "1 hits, 6 bytes, 1.5 ms instead"),
            ("host,status,hits,bytes,worst_ms\n", "nothing instead"),
            ("host,status,hits,bytes,worst_ms\nw,200,1\n", "odd row"),
            ("host,hits\n", "begins with"),
            ("host,status,hits,bytes,worst_ms\nw,200,1,5,1.5\nw,200,1,5,1.5\n", "two rows"),
        ] {
            check(&table(TABLE), &table(other), difference);
        }
        check(&table(TABLE), &[], "no table");
        check(&table(TABLE), &[("traffic/current.csv", TABLE)], "");
    }
}
