//! What the formats promise: tables of cases, and comparisons with slower programs.

use std::fmt::Write;

use arrow_buffer::Buffer;

use super::*;
use crate::batch::{position_line, position_offset};

mod csv;
mod decimal;
mod encode;
mod json;
mod lines;

/// Reads `name kind path` triples, or `name kind` where the path is the name: `id int user.id`.
fn plan(format: Format, fields: &str) -> ReadPlan {
    let field = |words: &str| {
        let words: Vec<&str> = words.split_whitespace().collect();
        let path = words.get(2).unwrap_or(&words[0]);
        Field {
            name: words[0].to_owned(),
            kind: Type::from_name(words[1]).unwrap(),
            path: path.split('.').map(str::to_owned).collect(),
        }
    };
    ReadPlan {
        format,
        fields: fields.split(',').filter(|f| !f.trim().is_empty()).map(field).collect(),
        names: Vec::new(),
        raw: true,
        positions: true,
        record_bytes_max: 1000,
    }
}

/// What a parser says about some bytes, in a form that is easily compared.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    /// The good rows as JSON lines.
    rows: String,
    /// `line@offset code: reason` of each reject.
    rejects: String,
    lines: u32,
    records: u32,
}

/// Parses `bytes` out of the middle of a buffer and checks what always holds: raw records and
/// rejects lie where they say.
fn said(parser: &mut Parser, plan: &ReadPlan, bytes: &[u8], header: Option<&Header>) -> Said {
    let buffer = Buffer::from_vec([b"before\n", bytes, b"after,\"\\\n"].concat());
    let range = 7..7 + bytes.len();
    let parsed = parser.parse(&buffer, range, header);
    let mut rows = Vec::new();
    let mut good = 0;
    if let Some(batch) = &parsed.batch {
        good = batch.len();
        assert_eq!((batch.diff, batch.origin), (1, crate::batch::Origin::default()));
        assert_eq!(batch.columns.schema(), plan.schema().arrow());
        Encoder::new(OutputFormat::Jsonl, &plan.schema()).encode(batch, &mut rows);
        let (raw, positions) = (batch.raw.as_ref().unwrap(), batch.positions.as_ref().unwrap());
        let mut record_ends = 0;
        for row in 0..good {
            let offset = position_offset(positions.value(row)) as usize;
            let record = raw.value(row);
            assert_eq!(record, &bytes[offset..offset + record.len()]);
            assert!(offset >= record_ends);
            record_ends = offset + record.len();
            let lines_before = bytes[..offset].iter().filter(|byte| **byte == b'\n').count();
            assert_eq!(position_line(positions.value(row)) as usize, lines_before);
        }
        let together: Vec<u8> = raw_runs(raw).flatten().copied().collect();
        let apart: Vec<u8> = (0..good).flat_map(|row| raw.value(row).to_vec()).collect();
        assert_eq!(together, apart);
    }
    let mut rejects = String::new();
    for reject in &parsed.rejects {
        let offset = reject.offset as usize;
        assert_eq!(reject.raw, &bytes[offset..offset + reject.raw.len()]);
        writeln!(rejects, "{}@{} {}: {}", reject.line, offset, reject.code, reject.message)
            .unwrap();
    }
    assert_eq!(parsed.records as usize, good + parsed.rejects.len());
    let ends = bytes.iter().filter(|byte| **byte == b'\n').count();
    let open = bytes.last().is_some_and(|byte| *byte != b'\n');
    assert_eq!(parsed.lines as usize, ends + usize::from(open));
    let rows = String::from_utf8(rows).unwrap();
    Said { rows, rejects, lines: parsed.lines, records: parsed.records }
}
