//! Hashes: what is told of a file is the hash of the bytes that were processed, however they were
//! read, and bytes that are not those of before are noticed even if their file looks the same.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;

use tidemill_tests::{Shape, Site};

const NODE: &str = env!("CARGO_BIN_EXE_node");

/// A source that is cut into pieces, one that is not, and a table that is rebuilt at each start.
const PIPELINE: &str = "pipeline: hashes
sources:
  lines: { format: text, pattern: '*.txt*' }
  rows: { format: csv, multiline: true, fields: { a: string, b: int }, pattern: '*.csv*' }
operators:
  sums: { from: rows, aggregate: { by: [a], compute: { n: count(*), b: sum(b) } } }
sinks:
  lines: { from: lines, files: { format: raw } }
  sums: { from: sums, table: { format: csv, key: [a] } }
";

/// The bytes of a piece, as the reference says.
const PIECE: usize = 512 << 10;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

/// Files of every size around the pieces, and of every way to be read.
fn inputs() -> BTreeMap<String, Vec<u8>> {
    let text: Vec<u8> =
        (0_u64..).flat_map(|n| format!("line {}\n", n * n).into_bytes()).take(5 * PIECE).collect();
    let mut rows = b"a,b\n".to_vec();
    (0..90_000).for_each(|n| rows.extend(format!("\"k\n{}\",{n}\n", n % 7).bytes()));
    let mut files = BTreeMap::new();
    for size in [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 4 * PIECE + 7, 5 * PIECE] {
        files.insert(format!("{size}.txt"), text[..size].to_vec());
    }
    files.insert("members.txt.gz".into(), [gzip(&text), gzip(b"more\n")].concat());
    files.insert("text.txt.zst".into(), zstd::encode_all(&text[..], 1).unwrap());
    files.insert("rows.csv".into(), rows.clone());
    files.insert("rows.csv.gz".into(), gzip(&rows));
    files
}

#[test]
fn a_dropped_file_has_the_hash_of_its_bytes_when_it_is_committed() {
    let inputs = inputs();
    for shape in [Shape::ALONE, Shape::new(1, 3), Shape::new(2, 2)] {
        let site = Site::new(NODE, PIPELINE);
        let running = site.start(shape);
        inputs.iter().for_each(|(name, bytes)| site.put(name, bytes));
        running.wait_for_finished(inputs.len() as u64);
        let told: BTreeMap<String, String> = running
            .call(&["files", "--json"])
            .json_lines()
            .iter()
            .map(|file| {
                assert_eq!(file["phase"], "committed", "{shape}: {file}");
                let word = |key: &str| file[key].as_str().unwrap().to_owned();
                (word("name"), word("blake3"))
            })
            .collect();
        let expected: BTreeMap<String, String> = inputs
            .iter()
            .map(|(name, bytes)| (name.clone(), blake3::hash(bytes).to_string()))
            .collect();
        assert_eq!(told, expected, "{shape}");
        running.stop();
    }
}

#[test]
fn a_table_is_not_rebuilt_from_bytes_that_were_changed_under_an_unchanged_look() {
    for name in ["rows.csv", "rows.csv.gz"] {
        let mut site = Site::new(NODE, PIPELINE);
        site.put(name, &inputs()[name]);
        site.once(Shape::ALONE).expect_code(0);
        site.once(Shape::ALONE).expect_code(0);

        let path = site.folder("processed").join(name);
        let looked = fs::metadata(&path).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        // A digit of a row; of a packed file a byte of its header that no decoder heeds.
        let at = if name.ends_with(".gz") { 4 } else { looked.len() - 2 };
        file.write_at(b"8", at).unwrap();
        file.set_modified(looked.modified().unwrap()).unwrap();
        drop(file);

        site.announce("changed");
        let ended = site.once(Shape::ALONE);
        ended.expect_code(65).expect_said("changed: its bytes are not those that were accepted");
    }
}
