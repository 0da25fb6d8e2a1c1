//! Command: the client commands as they are typed. Holds flags and their help, no behaviour.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand, ValueEnum};
use tidemill_client::{Phase, SubmissionId};

/// The commands that talk to a running server.
#[derive(Clone, Debug, Subcommand)]
pub enum ClientCommand {
    /// Send files to a running server
    ///
    /// Prints one line per file once it is durable on the server, or with --wait once it is
    /// committed or quarantined. Exit code 3 when a file was quarantined while waiting.
    Submit(Submit),
    /// List files, newest first: where each stands
    Files(Files),
    /// Show everything about one file: phase, outputs, times, reason, and where each record went
    File(File),
    /// Try quarantined files again, and at once those that wait to be tried again
    ///
    /// A quarantined file becomes a new submission under its old name, as it lies in quarantine/
    /// now. Exit code 1 when one of them cannot be tried again.
    Retry(Retry),
    /// Take committed files away, and everything that came of them
    ///
    /// Outputs disappear, aggregates and tables are what they would be without the file. Prints the
    /// submission that does it. Exit code 1 when one of them cannot be removed.
    Remove(Remove),
    /// Show what each operator does: records, bytes, time, backlog, frontier
    Stats(Stats),
    /// Show how long files take, stage by stage
    Latency(Latency),
    /// List the tables that can be asked: rows, memory, epoch
    Tables(Tables),
    /// Show the rows of a table, all as of one epoch, and follow its changes
    ///
    /// Rows come in the order of the key. Exit code 1 when the table cannot be asked.
    Table(TableRows),
    /// Let a changed pipeline file take over in a running server, or add a pipeline
    ///
    /// Files under way are finished by the old file, the next ones by the new one. With --dry-run it
    /// only says what would happen to each part. Exit code 1 when a file does not take over; then
    /// everything is as it was.
    Deploy(Deploy),
    /// Let a pipeline leave that was deployed into a running server
    ///
    /// Its files under way are finished, then it runs no more, also after a restart; its folder stays.
    /// A pipeline of a file that the server was started with does not leave. Exit code 1 when one does
    /// not leave; then it goes on as before.
    Undeploy(Undeploy),
    /// Let a pipeline, or one of its sources or sinks, wait until it is resumed
    ///
    /// A pipeline or a source that is paused takes no new files: they stay in unprocessed/. A sink
    /// that is paused holds the commit of the files that reach it, and of all behind them. It stays
    /// so after a restart.
    Pause(Pause),
    /// Let go on what was paused or drained
    Resume(Pause),
    /// Take nothing new, finish what is under way, and say when that is done
    ///
    /// Waits until all is committed and visible. The pipeline stays drained, also after a restart,
    /// until it is resumed. Exit code 1 when it is not done in time.
    Drain(Drain),
}

/// What every client command takes.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// The server to talk to
    #[arg(
        long,
        value_name = "ADDR",
        env = "TIDEMILL_SERVER",
        default_value = "http://127.0.0.1:7171"
    )]
    pub server: String,
    /// Print JSON instead of text; field names are stable
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `submit`.
#[derive(Clone, Debug, Args)]
pub struct Submit {
    /// The files to send
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The pipeline to send them to, or several, separated by commas; needed when several run
    ///
    /// A file for several is sent once. Each pipeline makes a submission of its own of it, and each has
    /// its own line.
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        value_parser = NonEmptyStringValueParser::new()
    )]
    pub pipeline: Vec<String>,
    /// Wait until each file is committed or quarantined
    #[arg(long)]
    pub wait: bool,
    /// Give up waiting after so many seconds
    #[arg(long, value_name = "SECONDS", requires = "wait", default_value_t = 3600)]
    pub timeout: u64,
    /// Send under this name instead of the file's own; one file only
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// The id of the submission: a UUID of version 7; one file only
    ///
    /// However often a file is sent under one id, it is taken once. Without this flag an id is made
    /// for each file, and sent again with each attempt.
    #[arg(long, value_name = "UUID")]
    pub id: Option<SubmissionId>,
    /// Take the place of the newest file of the same name, or of the submission ID
    ///
    /// What came of the old version is taken back in the same step in which the new one is
    /// committed. A name that nobody has yet is a plain new file.
    #[arg(long, value_name = "ID", num_args = 0..=1, require_equals = true)]
    pub replace: Option<Option<u64>>,
    /// With --replace: show what would change, and change nothing
    ///
    /// On a terminal you are asked then whether to do it; else nothing is done, unless --yes says so.
    #[arg(long, requires = "replace", conflicts_with = "id")]
    pub dry_run: bool,
    /// With --dry-run: do it then, without asking
    #[arg(long, requires = "dry_run")]
    pub yes: bool,
    /// Send again for so many seconds while the server is away; 0 sends once
    ///
    /// The time counts from the last byte that got through. An upload that broke off goes on where
    /// it ended.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub resend: u64,
    /// How many files to send at once
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub parallel: u8,
    /// What every client command takes.
    #[command(flatten)]
    pub common: Common,
}

/// Arguments of `files`.
#[derive(Clone, Debug, Args)]
pub struct Files {
    /// Only files of this pipeline
    #[arg(long, value_name = "NAME")]
    pub pipeline: Option<String>,
    /// Only files in this phase
    #[arg(long, value_enum)]
    pub phase: Option<PhaseArgument>,
    /// Only files with exactly this name
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub limit: usize,
    /// What every client command takes.
    #[command(flatten)]
    pub common: Common,
}

/// Arguments of `file`.
#[derive(Clone, Debug, Args)]
pub struct File {
    /// The file's id, as `submit` and `files` print it
    #[arg(value_name = "ID")]
    pub id: u64,
    /// What every client command takes.
    #[command(flatten)]
    pub common: Common,
}

/// Arguments of `retry`.
#[derive(Clone, Debug, Args)]
pub struct Retry {
    /// The id of a file that is quarantined or waits to be tried again, as `files` prints it
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    pub id: Option<u64>,
    /// All quarantined files that were not tried again yet
    #[arg(long)]
    pub all: bool,
    /// With --all: only those with this code, such as too_many_rejects
    #[arg(long, value_name = "CODE", requires = "all")]
    pub code: Option<String>,
    /// With --all: only those of this pipeline
    #[arg(long, value_name = "NAME", requires = "all")]
    pub pipeline: Option<String>,
    /// What every client command takes.
    #[command(flatten)]
    pub common: Common,
}

/// Arguments of `remove`.
#[derive(Clone, Debug, Args)]
pub struct Remove {
    /// Committed files: by the id that `files` prints, or by name (the newest of that name)
    #[arg(required = true, value_name = "ID|NAME")]
    pub files: Vec<String>,
    /// The pipeline of the names; needed when several run
    #[arg(long, value_name = "NAME")]
    pub pipeline: Option<String>,
    /// Take what is given for a name, even if it is a number
    #[arg(long)]
    pub by_name: bool,
    /// Show what would change, and change nothing
    ///
    /// On a terminal you are asked then whether to do it; else nothing is done, unless --yes says so.
    #[arg(long)]
    pub dry_run: bool,
    /// With --dry-run: do it then, without asking
    #[arg(long, requires = "dry_run")]
    pub yes: bool,
    /// Wait until each is done
    #[arg(long)]
    pub wait: bool,
    /// Give up waiting after so many seconds
    #[arg(long, value_name = "SECONDS", requires = "wait", default_value_t = 3600)]
    pub timeout: u64,
    /// What every client command takes.
    #[command(flatten)]
    pub common: Common,
}

/// Arguments of `stats`.
#[derive(Clone, Debug, Args)]
pub struct Stats {
    /// Only operators of this pipeline
    #[arg(long, value_name = "NAME")]
    pub pipeline: Option<String>,
    /// One row per worker instead of their sum
    #[arg(long)]
    pub workers: bool,
    /// Print again every second until interrupted; with --json one document per line
    #[arg(long)]
    pub watch: bool,
    /// What every client command takes.
    #[command(flatten)]
    pub common: Common,
}

/// Arguments of `latency`.
#[derive(Clone, Debug, Args)]
pub struct Latency {
    /// Only stages of this pipeline
    #[arg(long, value_name = "NAME")]
    pub pipeline: Option<String>,
    /// What every client command takes.
    #[command(flatten)]
    pub common: Common,
}

/// Arguments of `tables`.
#[derive(Clone, Debug, Args)]
pub struct Tables {
    /// Only tables of this pipeline
    #[arg(long, value_name = "NAME")]
    pub pipeline: Option<String>,
    /// What every client command takes.
    #[command(flatten)]
    pub common: Common,
}

/// Arguments of `table`.
#[derive(Clone, Debug, Args)]
pub struct TableRows {
    /// The table: the name of its sink
    #[arg(value_name = "NAME")]
    pub table: String,
    /// The pipeline; needed when several have such a table
    #[arg(long, value_name = "NAME")]
    pub pipeline: Option<String>,
    /// Only rows with this value of a key column; may be given for the first columns of the key
    ///
    /// Rows are then found without looking at others. A value is written as in a csv; nothing behind
    /// the = is an empty text, or NULL where the column is no string.
    #[arg(long, value_name = "COLUMN=VALUE")]
    pub key: Vec<String>,
    /// Only rows for which this SQL condition is true
    #[arg(long = "where", value_name = "SQL")]
    pub condition: Option<String>,
    /// Only these columns, in this order
    #[arg(long, value_name = "COLUMN,...", value_delimiter = ',')]
    pub columns: Vec<String>,
    /// At most so many rows; 0 for all [default: 100 as text, else all]
    #[arg(long, value_name = "N", conflicts_with = "follow")]
    pub limit: Option<u64>,
    /// Go on with what each committed epoch changes, until interrupted
    #[arg(long)]
    pub follow: bool,
    /// With --follow: begin with what came after this epoch, instead of all rows
    #[arg(long, value_name = "EPOCH", requires = "follow")]
    pub after: Option<u64>,
    /// Print csv instead of text; with --follow the columns epoch and diff come first
    #[arg(long, conflicts_with = "json")]
    pub csv: bool,
    /// What every client command takes.
    #[command(flatten)]
    pub common: Common,
}

/// Arguments of `deploy`.
#[derive(Clone, Debug, Args)]
pub struct Deploy {
    /// The pipeline files
    #[arg(required = true, value_name = "PIPELINE.yaml")]
    pub pipelines: Vec<PathBuf>,
    /// What to send in the place of each file, or the mistakes in it; without it, the file's own text.
    #[arg(skip)]
    pub flat: Vec<Result<FlatFile, String>>,
    /// Only say what would happen: what is kept, what is rebuilt, what is refused
    #[arg(long)]
    pub dry_run: bool,
    /// Give up, and change nothing, when files under way are not finished after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub timeout: u64,
    /// What is given to parameters.
    #[command(flatten)]
    pub params: ParamFlags,
    /// What every client command takes.
    #[command(flatten)]
    pub common: Common,
}

/// What is given to the parameters of pipeline files. Flags win over the environment
/// (TIDEMILL_PARAM_NAME), the environment over the file.
#[derive(Clone, Debug, Default, Args)]
pub struct ParamFlags {
    /// Give a parameter of the pipeline its value; once for each
    #[arg(long, value_name = "NAME=VALUE")]
    pub param: Vec<String>,
    /// A file with values for parameters: `NAME: VALUE`, one a line
    #[arg(long, value_name = "FILE")]
    pub params: Option<PathBuf>,
}

/// A pipeline file with all that it includes and the values of its parameters.
#[derive(Clone, Debug)]
pub struct FlatFile {
    /// Its text.
    pub text: String,
    /// What its parameters were given, to be remembered.
    pub params: BTreeMap<String, String>,
}

/// Arguments of `undeploy`.
#[derive(Clone, Debug, Args)]
pub struct Undeploy {
    /// The pipelines
    #[arg(required = true, value_name = "PIPELINE")]
    pub pipelines: Vec<String>,
    /// Give up, and change nothing, when files under way are not finished after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub timeout: u64,
    /// What every client command takes.
    #[command(flatten)]
    pub common: Common,
}

/// Arguments of `pause` and `resume`.
#[derive(Clone, Debug, Args)]
pub struct Pause {
    /// What: a pipeline, or one of its sources or sinks
    ///
    /// Where a source and a sink have one name: PIPELINE.source:NAME or PIPELINE.sink:NAME.
    #[arg(required = true, value_name = "PIPELINE[.SOURCE|.SINK]")]
    pub targets: Vec<String>,
    /// What every client command takes.
    #[command(flatten)]
    pub common: Common,
}

/// Arguments of `drain`.
#[derive(Clone, Debug, Args)]
pub struct Drain {
    /// The pipeline; all that run when it is left out
    #[arg(value_name = "PIPELINE")]
    pub pipeline: Option<String>,
    /// End the server when all is done; it is not drained any more when it starts again
    #[arg(long)]
    pub then_stop: bool,
    /// Give up waiting after so many seconds; the pipeline stays drained
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
    /// What every client command takes.
    #[command(flatten)]
    pub common: Common,
}

/// A phase as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PhaseArgument {
    /// Durable on the server, waiting
    Accepted,
    /// Being read
    Reading,
    /// Read whole, not yet committed
    Answered,
    /// Done: outputs are visible
    Committed,
    /// Set aside with a reason
    Quarantined,
    /// Not run: it repeats an earlier file
    Duplicate,
}

impl From<PhaseArgument> for Phase {
    fn from(argument: PhaseArgument) -> Self {
        match argument {
            PhaseArgument::Accepted => Phase::Accepted,
            PhaseArgument::Reading => Phase::Reading,
            PhaseArgument::Answered => Phase::Answered,
            PhaseArgument::Committed => Phase::Committed,
            PhaseArgument::Quarantined => Phase::Quarantined,
            PhaseArgument::Duplicate => Phase::Duplicate,
        }
    }
}
