//! Tables: the tables of all pipelines, as the outside asks them.
//!
//! Holds no rows: it knows where each table is read. An answer is of one epoch, all of it, and only
//! of what is committed. Asking never waits for the publisher, and the publisher never for who asks.

mod follow;
mod question;
mod scan;

use std::sync::{Arc, Mutex, PoisonError};

use tidemill_operators::value::Value;

pub use follow::{Begin, Follow, Told};
pub use question::Question;
pub use scan::{Scan, TableRow};

use super::Engine;
use crate::diagnostic::nearest;
use crate::plan::{Plan, SinkKind};
use crate::sink::table::Columns;
use crate::sink::table::shared::{Shared, View};

/// A cell of a row.
pub type Cell = Value;

/// Called when some table has changed, from an engine thread; must not block.
pub type TableObserver = Arc<dyn Fn() + Send + Sync>;

/// Why a table does not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// No such pipeline, or none named where several have such a table.
    #[error("{0}")]
    Pipeline(String),
    /// There is no such table.
    #[error("{0}")]
    Unknown(String),
    /// Its rows are not all there yet.
    #[error(
        "the table {table} is being rebuilt: {files} committed files are still to be read; try again later"
    )]
    Rebuilding {
        /// The table.
        table: String,
        /// How many files are to be read.
        files: usize,
    },
    /// It keeps no rows.
    #[error(
        "the table {table} keeps no rows: it has `snapshot: false`. What it changes is in out/{table}.changes/"
    )]
    KeepsNothing {
        /// The table.
        table: String,
    },
    /// The question cannot be asked of it: which part of the question, and why.
    #[error("{part}: {reason}")]
    Question {
        /// `where`, `columns`, `key`, ...
        part: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The changes after this epoch are not known any more.
    #[error(
        "the changes after epoch {seen} are not kept any more, only those after epoch {oldest}: take a new snapshot"
    )]
    Forgotten {
        /// What was asked for.
        seen: u64,
        /// The first epoch that could be asked for.
        oldest: u64,
    },
    /// No such epoch has come yet.
    #[error(
        "epoch {seen} has not come yet, the table is as of epoch {epoch}: is it that of another home?"
    )]
    Ahead {
        /// What was asked for.
        seen: u64,
        /// Where the table is.
        epoch: u64,
    },
}

/// What is known about a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableReport {
    /// Its pipeline.
    pub pipeline: String,
    /// The name of its sink.
    pub name: String,
    /// Its columns, name and type, the key first.
    pub columns: Vec<(String, String)>,
    /// How many of them are the key.
    pub key: usize,
    /// How many different rows it has.
    pub rows: u64,
    /// About how many bytes of memory these take.
    pub bytes: u64,
    /// About how many bytes of memory the changes of the last epochs take.
    pub history_bytes: u64,
    /// The epoch up to which it speaks.
    pub epoch: u64,
    /// Why it cannot be asked, if it cannot.
    pub refusal: Option<TableError>,
}

/// Where one table is read.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Which pipeline.
    pub(crate) pipeline: usize,
    /// The name of the sink.
    pub(crate) name: String,
    /// Its columns.
    pub(crate) columns: Arc<Columns>,
    /// `None`: it keeps no rows.
    pub(crate) shared: Option<Arc<Shared>>,
}

/// All tables, and who hears of their changes.
#[derive(Default)]
pub struct Tables {
    pub(crate) places: Vec<Place>,
    observers: Mutex<Vec<TableObserver>>,
}

impl Tables {
    /// Returns these tables.
    pub(crate) fn new(places: Vec<Place>) -> Self {
        Self { places, observers: Mutex::default() }
    }

    /// Tells everybody that some table has changed.
    pub(crate) fn tell(&self) {
        let observers = self.observers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        observers.iter().for_each(|observer| observer());
    }
}

impl Place {
    /// Returns the place of a table that keeps no rows.
    pub(crate) fn without_rows(pipeline: usize, name: &str, columns: Columns) -> Self {
        Self { pipeline, name: name.to_owned(), columns: Arc::new(columns), shared: None }
    }
}

/// One table, to be asked. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TableHandle {
    place: Place,
    /// How many files of earlier lives were to be read when the table was looked up.
    rebuilding: usize,
}

impl Engine {
    /// Registers a function that hears when some table has changed.
    pub fn observe_tables(&self, observer: TableObserver) {
        let observers = &self.parts.tables.observers;
        observers.lock().unwrap_or_else(PoisonError::into_inner).push(observer);
    }

    /// Returns what is known about the tables of one pipeline or of all.
    pub fn tables(&self, pipeline: Option<&str>) -> Result<Vec<TableReport>, TableError> {
        let wanted = pipeline.map(|name| self.pipeline_of(name)).transpose()?;
        let places = self.parts.tables.places.iter();
        let places = places.filter(|place| wanted.is_none_or(|at| at == place.pipeline));
        Ok(places.map(|place| self.report(place)).collect())
    }

    /// Returns the table of this name. The pipeline may be left out where only one has such a table.
    pub fn table(&self, pipeline: Option<&str>, name: &str) -> Result<TableHandle, TableError> {
        let wanted = pipeline.map(|name| self.pipeline_of(name)).transpose()?;
        let in_question: Vec<&Place> = (self.parts.tables.places.iter())
            .filter(|place| wanted.is_none_or(|at| at == place.pipeline))
            .collect();
        let mut named = in_question.iter().filter(|place| place.name == name);
        match (named.next(), named.next()) {
            (Some(place), None) => Ok(self.handle(place)),
            (Some(_), Some(_)) => {
                let named = in_question.iter().filter(|place| place.name == name);
                let names: Vec<&str> =
                    named.map(|place| self.parts.plans[place.pipeline].name.as_str()).collect();
                let names = names.join(", ");
                let text = format!("several pipelines have a table {name}: name one of {names}");
                Err(TableError::Pipeline(text))
            }
            (None, _) => Err(TableError::Unknown(self.unknown(name, wanted, &in_question))),
        }
    }

    fn handle(&self, place: &Place) -> TableHandle {
        let rebuilding = self.parts.board.rebuilding(place.pipeline);
        TableHandle { place: place.clone(), rebuilding }
    }

    fn pipeline_of(&self, name: &str) -> Result<usize, TableError> {
        let found = self.parts.plans.iter().position(|plan| plan.name == name);
        found.ok_or_else(|| {
            let names: Vec<&str> = self.parts.plans.iter().map(|plan| plan.name.as_str()).collect();
            let text =
                format!("no pipeline is called {}; running: {}", cut(name), names.join(", "));
            TableError::Pipeline(text)
        })
    }

    /// Returns what to say of a table that is not there.
    fn unknown(&self, name: &str, pipeline: Option<usize>, there: &[&Place]) -> String {
        let names: Vec<&str> = there.iter().map(|place| place.name.as_str()).collect();
        let begin = format!("no table is called {}", cut(name));
        // A sink that writes files is the likeliest mistake.
        let mut plans = self.parts.plans.iter().enumerate();
        let is_sink = plans.any(|(at, plan): (usize, &Plan)| {
            let mine = pipeline.is_none_or(|wanted| wanted == at);
            mine && plan
                .sinks
                .iter()
                .any(|sink| sink.name == name && !matches!(sink.kind, SinkKind::Table { .. }))
        });
        if is_sink {
            return format!(
                "the sink {} writes files; only a `table` sink can be asked",
                cut(name)
            );
        }
        match nearest(name, names.iter().copied()) {
            Some(near) => format!("{begin}; did you mean {near}?"),
            None if names.is_empty() => format!("{begin}: there is no table here"),
            None if pipeline.is_none() && self.parts.plans.len() > 1 => {
                let of = |place: &&Place| {
                    format!("{} of {}", place.name, self.parts.plans[place.pipeline].name)
                };
                let all: Vec<String> = there.iter().map(of).collect();
                format!("{begin}; the tables are: {}; name the pipeline, too", all.join(", "))
            }
            None => format!("{begin}; the tables are: {}", names.join(", ")),
        }
    }

    fn report(&self, place: &Place) -> TableReport {
        let handle = self.handle(place);
        let view = handle.view();
        let shared = place.shared.as_ref();
        let column =
            |column: &tidemill_operators::Column| (column.name.clone(), column.kind.to_string());
        TableReport {
            pipeline: self.parts.plans[place.pipeline].name.clone(),
            name: place.name.clone(),
            columns: place.columns.sorted.columns().iter().map(column).collect(),
            key: place.columns.key,
            rows: view.as_ref().map_or(0, |view| view.len() as u64),
            bytes: view.as_ref().map_or(0, |view| view.weight() as u64),
            history_bytes: shared.map_or(0, |shared| shared.history_weight() as u64),
            epoch: view.as_ref().map_or(0, |view| view.epoch),
            refusal: view.err(),
        }
    }
}

impl TableHandle {
    /// Returns the columns that can be asked for, name and type, the key first.
    pub fn columns(&self) -> Vec<(String, String)> {
        let columns = self.place.columns.sorted.columns().iter();
        columns.map(|column| (column.name.clone(), column.kind.to_string())).collect()
    }

    fn shared(&self) -> Result<&Arc<Shared>, TableError> {
        let keeps = self.place.shared.as_ref();
        keeps.ok_or_else(|| TableError::KeepsNothing { table: self.place.name.clone() })
    }

    fn view(&self) -> Result<View, TableError> {
        let view = self.shared()?.view();
        view.ok_or_else(|| TableError::Rebuilding {
            table: self.place.name.clone(),
            files: self.rebuilding,
        })
    }
}

/// Returns a name that a client gave, no longer than is worth repeating.
fn cut(name: &str) -> String {
    format!("{:?}", name.chars().take(100).collect::<String>())
}
