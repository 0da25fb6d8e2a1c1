//! Files: random inputs of a source: few records over few values, so that groups meet; NULLs, equal
//! records, records that are none, no records at all; some long enough for several chunks, some packed.

use std::fmt::Write as _;
use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use tidemill_bench::random::Random;

use super::pipeline::{Column, Format, Kind, Source};

/// Records of a file, at most.
const RECORDS_MAX: u64 = 9;

/// How many times as many where what is old enough is made final: that begins with 64 of a key.
const RECORDS_OF_ORDER: u64 = 30;

/// Bytes that nobody reads in each record of a long file, at most: a chunk has 512 KiB.
const PADDING_MAX: u64 = 400 << 10;

/// Returns whether something happens that does so in `percent` of all cases.
pub fn chance(random: &mut Random, percent: u64) -> bool {
    random.below(100) < percent
}

/// Returns a file that its source can read.
pub fn readable(source: &Source, random: &mut Random) -> Vec<u8> {
    let most = if source.is_of_order { RECORDS_MAX * RECORDS_OF_ORDER } else { RECORDS_MAX };
    let records = if chance(random, 8) { 0 } else { 1 + random.below(most) };
    let is_long = !source.is_of_order && chance(random, 1);
    let mut text = String::new();
    if source.format == Format::Csv {
        let names: Vec<&str> = source.fields.iter().map(|column| column.name.as_str()).collect();
        text += &names.join(",");
        text += if is_long { ",padding\n" } else { "\n" };
    }
    let mut last = String::new();
    for _ in 0..records {
        if last.is_empty() || !chance(random, 12) {
            last = record(source, random);
            if is_long {
                let padding = "-".repeat(random.below(PADDING_MAX) as usize);
                last = padded(source.format, &last, &padding);
            }
        }
        text += &last;
        text.push('\n');
    }
    if chance(random, 10) && text.ends_with('\n') {
        text.pop();
    }
    let bytes = text.into_bytes();
    match random.below(40) {
        0 => gzip(&bytes),
        1 => zstd::encode_all(&bytes[..], 1).unwrap(),
        _ => bytes,
    }
}

/// Returns a file that is refused as a whole: it says that it is packed, and is not.
pub fn damaged(random: &mut Random) -> Vec<u8> {
    let mut bytes = vec![0x1f, 0x8b, 0x08, 0x00];
    bytes.extend((0..20 + random.below(40)).map(|_| random.below(256) as u8));
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

/// Returns a record with a last field that is not declared.
fn padded(format: Format, record: &str, padding: &str) -> String {
    match format {
        Format::Csv => format!("{record},{padding}"),
        Format::Jsonl => match record.strip_suffix('}') {
            None => record.to_owned(),
            Some("{") => format!("{{\"padding\":\"{padding}\"}}"),
            Some(fields) => format!("{fields},\"padding\":\"{padding}\"}}"),
        },
    }
}

fn record(source: &Source, random: &mut Random) -> String {
    if chance(random, 3) {
        return if source.format == Format::Csv { "too,few" } else { "no record" }.to_owned();
    }
    let cells = source.fields.iter().map(|column| (column, cell(column, random)));
    match source.format {
        Format::Csv => {
            let cell = |(column, cell): (&Column, Option<String>)| match cell {
                None => String::new(),
                Some(text) if column.kind == Kind::Text => format!("\"{text}\""),
                Some(text) => text,
            };
            cells.map(cell).collect::<Vec<_>>().join(",")
        }
        Format::Jsonl => {
            let mut text = String::new();
            for (column, cell) in cells {
                let Some(cell) = cell else { continue };
                let quote = if matches!(column.kind, Kind::Text | Kind::Time) { "\"" } else { "" };
                let comma = if text.is_empty() { "" } else { "," };
                let _ = write!(text, "{comma}\"{}\":{quote}{cell}{quote}", column.name);
            }
            format!("{{{text}}}")
        }
    }
}

/// Returns a value, or NULL.
fn cell(column: &Column, random: &mut Random) -> Option<String> {
    if chance(random, 7) {
        return None;
    }
    if chance(random, 1) && matches!(column.kind, Kind::Int | Kind::Float) {
        // Not of its type; a string to JSON.
        return Some("true".to_owned());
    }
    Some(match (column.name.as_str(), column.kind) {
        ("id", _) => random.below(6).to_string(),
        (_, Kind::Int) => (random.below(24) as i64 - 4).to_string(),
        (_, Kind::Float) => {
            let values = ["0.1", "0.2", "0.3", "-1.5", "2.25", "1e3", "0.7", "-0.1", "7.0"];
            (*random.pick(&values)).to_owned()
        }
        ("g", _) => (*random.pick(&["x", "y"])).to_owned(),
        ("tags", _) => (*random.pick(&["", "p", "p,q", "q,,p", "r,r"])).to_owned(),
        (_, Kind::Text) => (*random.pick(&["a", "b", "c", "d", "a7", "b3", ""])).to_owned(),
        (_, Kind::Bool) => (*random.pick(&["true", "false"])).to_owned(),
        (_, Kind::Time) => {
            let (hour, minute) = (random.below(3), random.below(12) * 5);
            format!("2026-03-01T{hour:02}:{minute:02}:00Z")
        }
    })
}
