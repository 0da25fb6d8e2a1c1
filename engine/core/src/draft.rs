//! Draft: a first pipeline file from samples of the files it is for.
//!
//! Pure: the first bytes of some files in, the text of a pipeline out, with what was guessed and what was
//! unclear as comments. What it writes passes every check; that it runs is tried by whoever asked for it.
//!
//! Map: `shape` (what kind of file this is), `csv` and `json` (records and columns), `logs` (well-known
//! lines), `types` (what a column holds), `group` (files of one source, and its pattern), `write` (the
//! text).

mod csv;
mod group;
mod json;
mod logs;
mod shape;
mod types;
mod write;

use crate::engine::tables::Cell;
use crate::testing::run::Found;
use crate::testing::sample::Sample;

/// How many records of a file are looked at.
const RECORDS_MAX: usize = 5_000;
/// How many columns are taken.
const COLUMNS_MAX: usize = 200;

/// A file that a pipeline is drafted from.
#[derive(Clone, Debug)]
pub struct Sampled {
    /// Its name, without its folder.
    pub name: String,
    /// Its first bytes.
    pub sample: Sample,
}

/// Why a file is no sample.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {reason}")]
pub struct DraftError {
    /// Its name.
    pub name: String,
    /// Why, and what to do.
    pub reason: String,
}

/// A pipeline as it was drafted.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The name of the pipeline.
    pub pipeline: String,
    /// Its sources.
    pub sources: Vec<DraftSource>,
    /// Everything up to the tests.
    head: String,
}

/// A source as it was drafted.
#[derive(Clone, Debug)]
pub struct DraftSource {
    /// Its name.
    pub name: String,
    /// The samples that look like it.
    pub files: Vec<String>,
    /// What they are, for people.
    pub looks: String,
    /// What a person should look at.
    pub notes: Vec<String>,
    /// The first records, with the header, for a test; empty when they fit into none.
    lines: Vec<String>,
    /// The name of the first sample, without what packs it.
    file: String,
    /// The sinks that are fed from it.
    sinks: Vec<String>,
}

/// Drafts a pipeline. `pipeline` is its name, if one is given.
pub fn draft(pipeline: Option<&str>, files: &[Sampled]) -> Result<Draft, Vec<DraftError>> {
    let mut errors = Vec::new();
    let mut looks = Vec::new();
    for file in files {
        match shape::look(&file.name, &file.sample) {
            Ok(look) => looks.push((file, look)),
            Err(reason) => errors.push(DraftError { name: shown_name(&file.name), reason }),
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let groups = group::group(looks);
    let first = groups.first().map_or("files", |group| group.name.as_str());
    let pipeline = pipeline.unwrap_or(first).to_owned();
    Ok(write::draft(pipeline, groups))
}

impl Draft {
    /// Returns the text of the pipeline file without a test.
    pub fn without_tests(&self) -> String {
        self.head.clone()
    }

    /// Returns the text with one test for each source that has records for one, which expects nothing:
    /// to see what comes out.
    pub fn with_questions(&self) -> String {
        self.head.clone() + &write::tests(self, &|_, _| None)
    }

    /// Returns the text with tests that expect what came out: by test, then by sink.
    pub fn with_tests(&self, found: &[Vec<Found>]) -> String {
        let of = |test: usize, sink: &str| {
            found.get(test)?.iter().find(|found| found.name == sink).cloned()
        };
        self.head.clone() + &write::tests(self, &of)
    }
}

/// Returns a name of a file that harms no terminal and no comment.
fn shown_name(name: &str) -> String {
    name.chars().map(|one| if one.is_control() { '\u{fffd}' } else { one }).collect()
}

/// Returns a cell as YAML writes it.
fn yaml_cell(cell: &Cell) -> String {
    match cell {
        Cell::Null => "null".to_owned(),
        Cell::String(text) => write::quoted(text),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
