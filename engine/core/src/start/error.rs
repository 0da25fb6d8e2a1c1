//! Error: why an engine did not start, by what was tried.
//!
//! Holds no more than the reasons; the exit code is decided in `exit`.

use tidemill_store::checkpoint::CheckpointError;
use tidemill_store::{DiskError, Full, HomeError, JournalError, RecoverError};

use crate::mesh::MeshError;

/// Why an engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The home cannot be used.
    #[error("open the home")]
    Home(#[from] HomeError),
    /// The journal cannot be used.
    #[error("open the journal")]
    Journal(#[from] JournalError),
    /// What a crash left cannot be repaired.
    #[error("recover the home")]
    Recover(#[from] RecoverError),
    /// The processes do not come together.
    #[error("meet the other processes")]
    Mesh(#[from] MeshError),
    /// The disk refuses.
    #[error("look for the files of an earlier life")]
    Disk(#[from] DiskError),
    /// A thread cannot be started, or a folder not be made.
    #[error("start")]
    Io(#[from] std::io::Error),
    /// An unfinished file belongs to a source that is not in the pipeline any more.
    #[error(
        "pipeline {pipeline}: {name} was accepted for the source {source_name}, which is not in the \
         pipeline file any more, and no other source takes it; bring the source back, or let the \
         old pipeline file finish it first"
    )]
    NoSource {
        /// The pipeline.
        pipeline: String,
        /// The name under which the file came.
        name: String,
        /// The source that took it.
        source_name: String,
    },
    /// Inputs are gone that the tables of a pipeline must be rebuilt from.
    #[error(
        "pipeline {pipeline}: its tables cannot be rebuilt: {count} committed files are not in \
         processed/ as they were (first: {name}, {detail}); put them back, or let the tables lose \
         their rows with --forget-missing"
    )]
    InputsGone {
        /// The pipeline.
        pipeline: String,
        /// How many.
        count: usize,
        /// The first of them.
        name: String,
        /// What is wrong with it.
        detail: String,
    },
    /// An input that tables must be rebuilt from cannot be read by its source any more.
    #[error(
        "pipeline {pipeline}: its tables cannot be rebuilt: {name} was committed before, and source \
         {source_name} cannot read it any more: {detail}; start with the pipeline file as it was, or give the \
         new one another pipeline name, or sources that take other names"
    )]
    Unreadable {
        /// The pipeline.
        pipeline: String,
        /// The file.
        name: String,
        /// The source that takes it.
        source_name: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A checkpoint was whole when it was looked at, and cannot be taken up.
    #[error(
        "pipeline {pipeline}: take up a checkpoint; to build the state from processed/ instead, \
         remove ckpt/{pipeline} from the home"
    )]
    Checkpoint {
        /// The pipeline.
        pipeline: String,
        /// What is wrong with it.
        source: CheckpointError,
    },
    /// The dataflow cannot be started.
    #[error("start the dataflow: {0}")]
    Dataflow(String),
}

impl Full for StartError {
    fn is_full(&self) -> bool {
        match self {
            StartError::Home(error) => error.is_full(),
            StartError::Journal(error) => error.is_full(),
            StartError::Recover(error) => error.is_full(),
            StartError::Disk(error) => error.is_full(),
            StartError::Io(error) => error.is_full(),
            _ => false,
        }
    }
}
