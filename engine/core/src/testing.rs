//! Testing: the tests that the author of a pipeline writes beside it: these files in, these rows out.
//!
//! Owns what a test is, how it is run and how what came out is compared; a test runs in a home of its
//! own through the engine's own door, so that what is tested is what runs. Never prints: it answers
//! with values. Derived: nothing of a test survives it.
//!
//! Map: `read` (YAML to tests, with all mistakes), `records` (rows as a source would get them), `names`
//! (names that a source takes), [`run`] (a home, an engine, its outputs), `found` (outputs as rows), `seen`
//! (what can be seen of an output),
//! [`compare`] (what is missing, too many, different), [`tap`] and [`walk`] (what each operator did with
//! a record), [`sample`] (the first bytes of a file), `cells` (columns as cells).

mod cells;
pub mod compare;
mod found;
mod names;
pub(crate) mod read;
mod records;
pub mod run;
pub mod sample;
mod seen;
pub mod tap;
pub mod walk;

use std::path::{Path, PathBuf};

use tidemill_operators::Column;

use crate::diagnostic::Diagnostic;
use crate::engine::tables::Cell;
use crate::plan::Plan;

/// A place in the pipeline file, both counted from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct At {
    /// The line.
    pub line: u32,
    /// The character in it.
    pub column: u32,
}

/// A test: files that come, one step after the other, and what must be there then.
#[derive(Clone, Debug)]
pub struct AuthorTest {
    /// Its name, unique in its file.
    pub name: String,
    /// Where it stands.
    pub at: At,
    /// What happens; each step begins when all files of the one before are finished.
    pub steps: Vec<Step>,
    /// What sinks must hold; one that is not named may hold anything.
    pub expect: Vec<Expectation>,
    /// What must lie in `rejects`; `None`: nothing.
    pub rejects: Option<Expectation>,
    /// The files that must have gone to quarantine: all of them.
    pub quarantined: Vec<Quarantine>,
}

/// One step of a test.
#[derive(Clone, Debug)]
pub enum Step {
    /// Files come.
    Add(Vec<GivenFile>),
    /// Files come, each in the place of the one of its name.
    Replace(Vec<GivenFile>),
    /// The files of these names are removed.
    Remove(Vec<(String, At)>),
}

/// A file of a test.
#[derive(Clone, Debug)]
pub struct GivenFile {
    /// The source that takes it.
    pub source: String,
    /// The name under which it comes.
    pub name: String,
    /// What is in it.
    pub content: Content,
    /// Where it stands in the pipeline file.
    pub at: At,
}

/// What is in a file of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// These bytes.
    Bytes(Vec<u8>),
    /// Those of a file, beside the pipeline file unless the path is absolute.
    File(PathBuf),
}

/// Where outputs are that a test speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A sink, by its place in the plan.
    Sink(usize),
    /// The changelog of a table, by the place of its sink.
    Changes(usize),
}

/// What must be in a sink.
#[derive(Clone, Debug)]
pub struct Expectation {
    /// Its name as it is written under `expect`.
    pub name: String,
    /// Where that is.
    pub target: Target,
    /// Where this stands in the pipeline file.
    pub at: At,
    /// What must be there.
    pub expected: Expected,
}

/// What must be in a sink, in one of the ways to say it.
#[derive(Clone, Debug)]
pub enum Expected {
    /// These rows.
    Rows {
        /// The columns that are compared: those that some row names.
        columns: Vec<Column>,
        /// The rows.
        rows: Vec<ExpectedRow>,
        /// Whether their order counts.
        order: Order,
    },
    /// These lines.
    Text(Vec<(At, String)>),
    /// The lines of a file, beside the pipeline file unless the path is absolute.
    File(PathBuf),
}

/// Whether the order of rows counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// It does.
    Exact,
    /// It does not.
    Unordered,
}

/// A row that must be there.
#[derive(Clone, Debug)]
pub struct ExpectedRow {
    /// Where it stands in the pipeline file.
    pub at: At,
    /// Its cells, one for each column that is compared.
    pub cells: Vec<Cell>,
}

/// A file that must go to quarantine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantine {
    /// Its name.
    pub name: String,
    /// The code of its reason, if that matters.
    pub code: Option<String>,
    /// Where it stands in the pipeline file.
    pub at: At,
}

/// Returns a mistake for each file that a test names and that is not there; `folder` is that of the
/// pipeline file.
pub fn missing_files(plan: &Plan, folder: &Path) -> Vec<Diagnostic> {
    let mut missing = Vec::new();
    for test in &plan.tests {
        let given = test.steps.iter().flat_map(|step| match step {
            Step::Add(files) | Step::Replace(files) => files.as_slice(),
            Step::Remove(_) => &[],
        });
        let given = given.filter_map(|file| match &file.content {
            Content::File(path) => Some((file.at, path)),
            Content::Bytes(_) => None,
        });
        let expected = test.expect.iter().chain(&test.rejects).filter_map(|one| {
            if let Expected::File(path) = &one.expected { Some((one.at, path)) } else { None }
        });
        for (at, path) in given.chain(expected) {
            let full = folder.join(path);
            let problem = match std::fs::metadata(&full) {
                Ok(there) if there.is_file() => continue,
                Ok(_) => "is no file".to_owned(),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    "is not there".to_owned()
                }
                Err(error) => format!("cannot be read: {error}"),
            };
            missing.push(Diagnostic {
                line: at.line,
                column: at.column,
                length: 1,
                path: format!("tests.{}", test.name),
                message: format!("{} {problem}", full.display()),
                hint: Some("paths are relative to the folder of the pipeline file".to_owned()),
                file: None,
                within: None,
                excerpt: None,
            });
        }
    }
    missing
}
