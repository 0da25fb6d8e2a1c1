//! Found: what an engine left behind, as rows and as lines. Reads outputs as files, the way whoever
//! uses them would, with the parsers that read inputs; a table is asked while the engine runs.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use arrow_buffer::Buffer;
use tidemill_operators::format::{
    CsvOptions, Field, Format, Header, HeaderEnd, OutputFormat, Parser, ReadPlan, TableFormat,
    header_end,
};
use tidemill_operators::{Column, Schema};

use super::Target;
use super::cells::cell;
use super::run::TestError;
use super::seen::Seen;
use crate::engine::Engine;
use crate::engine::tables::{Cell, Question};
use crate::plan::{Plan, SinkKind};
use crate::report::SubmissionReport;

/// How much of the outputs of a sink is read, in bytes.
const OUTPUT_BYTES_MAX: u64 = 256 << 20;
/// The longest record of an output, in bytes; those of inputs are shorter.
const RECORD_BYTES_MAX: usize = 256 << 20;

/// Returns the rows of a table as of now.
pub(super) fn table(
    engine: &Engine,
    name: &str,
    columns: &[Column],
) -> Result<Vec<Vec<Cell>>, TestError> {
    let unreadable = |error: &dyn std::error::Error| TestError::Output {
        name: name.to_owned(),
        reason: error.to_string(),
    };
    let names = columns.iter().map(|column| column.name.clone()).collect();
    let question = Question { columns: names, ..Question::default() };
    let handle = engine.table(None, name).map_err(|error| unreadable(&error))?;
    let mut scan = handle.scan(&question, None, None).map_err(|error| unreadable(&error))?;
    let mut rows = Vec::new();
    while let Some(some) = scan.more().map_err(|error| unreadable(&error))? {
        for row in some {
            for _ in 1..row.times {
                rows.push(row.cells.clone());
            }
            rows.push(row.cells);
        }
    }
    Ok(rows)
}

/// Returns which submission each output belongs to, by its path below `out/`.
pub(super) fn owners(submissions: &[SubmissionReport]) -> BTreeMap<String, u64> {
    let mut owners = BTreeMap::new();
    for file in submissions {
        for output in &file.outputs {
            let of = output.of.unwrap_or(file.id);
            let owner = owners.entry(output.path.clone()).or_insert(of);
            *owner = of.min(*owner);
        }
    }
    owners
}

/// The outputs of one sink, in the order in which their inputs came.
pub(super) struct Outputs {
    name: String,
    bytes: Vec<Vec<u8>>,
}

impl Outputs {
    /// Reads what a sink published below `out`.
    pub(super) fn read(
        plan: &Plan,
        target: Target,
        out: &Path,
        owners: &BTreeMap<String, u64>,
    ) -> Result<Self, TestError> {
        let (Target::Sink(at) | Target::Changes(at)) = target;
        let sink = &plan.sinks[at].name;
        let name = match target {
            Target::Sink(_) => sink.clone(),
            Target::Changes(_) => crate::sink::changes::folder(sink),
        };
        let failed = |error: std::io::Error| TestError::Output {
            name: name.clone(),
            reason: error.to_string(),
        };
        let folder = out.join(&name);
        let mut files: Vec<(u64, String, PathBuf)> = Vec::new();
        let listed = match std::fs::read_dir(&folder) {
            Ok(listed) => Some(listed),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        for entry in listed.into_iter().flatten() {
            let entry = entry.map_err(failed)?;
            let file = entry.file_name().to_string_lossy().into_owned();
            if file.ends_with(".about.json") {
                continue;
            }
            let owner = owners.get(&format!("{name}/{file}")).copied().unwrap_or(u64::MAX);
            files.push((owner, file, entry.path()));
        }
        files.sort();
        let mut left = OUTPUT_BYTES_MAX;
        let mut bytes = Vec::with_capacity(files.len());
        for (_, _, path) in files {
            let mut some = Vec::new();
            let file = std::fs::File::open(&path).map_err(failed)?;
            let count = file.take(left + 1).read_to_end(&mut some).map_err(failed)? as u64;
            if count > left {
                let reason = format!("it holds more than {OUTPUT_BYTES_MAX} bytes");
                return Err(TestError::Output { name, reason });
            }
            left -= count;
            bytes.push(some);
        }
        Ok(Self { name, bytes })
    }

    /// Returns all lines.
    pub(super) fn lines(&self) -> Vec<String> {
        let lines = self.bytes.iter().flat_map(|bytes| lines(bytes));
        lines.collect()
    }

    /// Returns the columns of each row.
    pub(super) fn rows(
        &self,
        plan: &Plan,
        target: Target,
        columns: &[Column],
    ) -> Result<Vec<Vec<Cell>>, TestError> {
        let seen = Seen::of(plan, target);
        if seen.is_raw {
            return Ok(self.lines().into_iter().map(|line| vec![Cell::String(line)]).collect());
        }
        let format = format_of(plan, target);
        let reading = reading(&format, &seen.schema);
        let mut rows = Vec::new();
        for bytes in &self.bytes {
            rows.extend(
                parsed(&reading, bytes, columns)
                    .map_err(|reason| TestError::Output { name: self.name.clone(), reason })?,
            );
        }
        Ok(rows)
    }
}

/// Returns the lines of some bytes; what is not UTF-8 is replaced.
pub(super) fn lines(bytes: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect()
}

fn format_of(plan: &Plan, target: Target) -> OutputFormat {
    let (Target::Sink(at) | Target::Changes(at)) = target;
    match &plan.sinks[at].kind {
        SinkKind::Files { format, .. } => format.clone(),
        SinkKind::Table { changelog: Some(format), .. } if matches!(target, Target::Changes(_)) => {
            format.clone()
        }
        SinkKind::Table { format: Some(TableFormat::Rows(format)), .. } => format.clone(),
        SinkKind::Table { .. } | SinkKind::Rejects => OutputFormat::Jsonl,
    }
}

/// Returns how an output is read back.
fn reading(format: &OutputFormat, schema: &Schema) -> ReadPlan {
    let columns = schema.columns();
    let field = |column: &Column| Field {
        name: column.name.clone(),
        kind: column.kind,
        path: vec![column.name.clone()],
    };
    ReadPlan {
        format: match format {
            OutputFormat::Csv { delimiter, header } => Format::Csv(CsvOptions {
                header: *header,
                delimiter: *delimiter,
                multiline: true,
                ..CsvOptions::default()
            }),
            OutputFormat::Jsonl | OutputFormat::Raw => Format::Jsonl,
        },
        fields: columns.iter().map(field).collect(),
        names: columns.iter().map(|column| column.name.clone()).collect(),
        raw: false,
        positions: false,
        record_bytes_max: RECORD_BYTES_MAX,
    }
}

fn parsed(reading: &ReadPlan, bytes: &[u8], columns: &[Column]) -> Result<Vec<Vec<Cell>>, String> {
    let (header, start) = match header_end(reading, bytes) {
        HeaderEnd::None => (None, 0),
        HeaderEnd::Incomplete => return Ok(Vec::new()),
        HeaderEnd::At(end) => {
            let header = Header::parse(reading, bytes.get(..end).unwrap_or_default());
            (Some(header.map_err(|error| error.to_string())?), end)
        }
    };
    let buffer = Buffer::from(bytes);
    let parsed = Parser::new(reading.clone()).parse(&buffer, start..bytes.len(), header.as_ref());
    if let Some(reject) = parsed.rejects.first() {
        return Err(format!(
            "its record on line {} cannot be read: {}",
            reject.line + 1,
            reject.message
        ));
    }
    let Some(batch) = parsed.batch else { return Ok(Vec::new()) };
    let picked = batch.pick(&Schema::new(columns.to_vec()));
    let row = |row: usize| picked.columns().iter().map(|column| cell(column, row)).collect();
    Ok((0..batch.len()).map(row).collect())
}
