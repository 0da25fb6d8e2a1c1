//! Flags: what can be typed. Holds no behaviour.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use tidemill_cli::ClientCommand;
pub use tidemill_cli::ParamFlags;

/// Files in, routed and aggregated files out, exactly once.
///
/// A pipeline file says which files to take, what to do with their records and what to write. Drop
/// files into HOME/PIPELINE/unprocessed/ or send them with `tidemill submit`; find the outputs,
/// whole or not at all, in HOME/PIPELINE/out/.
#[derive(Debug, Parser)]
#[command(name = "tidemill", version, propagate_version = true)]
pub struct Tidemill {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run pipelines
    Run(RunFlags),
    /// Check pipeline files: all mistakes at once, each with its place and a hint
    Check(CheckFlags),
    /// Write a first pipeline file from samples of the files it is for
    New(NewFlags),
    /// Run the tests that stand in pipeline files (0: all hold, 1: some do not)
    Test(TestFlags),
    /// Draw a pipeline as Mermaid text or SVG
    Graph(GraphFlags),
    /// Print the settings that are in force, and where each comes from
    Config(ConfigFlags),
    /// Print the JSON schema of pipeline files, for editors: `tidemill schema > tidemill.schema.json`
    Schema,
    /// Prove that a pipeline survives: kill it again and again over copies of the inputs, and compare
    /// every byte with a run that nobody disturbed (0 if all is equal)
    Torture(TortureFlags),
    /// Examine a home, running or not: what is wrong, what it means, what to do. Changes nothing
    ///
    /// Exit code 0 when nothing needs a person, 1 when something does, 65 when something is damaged.
    Doctor(DoctorFlags),
    /// Print completions for a shell: `tidemill completions bash > /etc/bash_completion.d/tidemill`
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Talk to a running server.
    #[command(flatten)]
    Client(ClientCommand),
}

/// Flags of `run`.
#[derive(Clone, Debug, Args)]
#[command(disable_help_flag = true)]
pub struct RunFlags {
    /// The pipeline files
    #[arg(required = true, value_name = "PIPELINE.yaml")]
    pub pipelines: Vec<PathBuf>,
    /// Take what is there, commit it and exit (3 if a file went to quarantine)
    #[arg(long)]
    pub once: bool,
    /// Start although inputs are gone from processed/ that tables are rebuilt from: the tables lose
    /// their rows
    #[arg(long)]
    pub forget_missing: bool,
    /// Forget what was deployed into this home while it ran: the files given here count
    #[arg(long)]
    pub redeploy: bool,
    /// What is given to parameters.
    #[command(flatten)]
    pub params: ParamFlags,
    /// What can also be set by environment and file.
    #[command(flatten)]
    pub settings: SettingFlags,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
}

/// Flags of `config`.
#[derive(Clone, Debug, Args)]
#[command(disable_help_flag = true)]
pub struct ConfigFlags {
    /// What can also be set by environment and file.
    #[command(flatten)]
    pub settings: SettingFlags,
    /// Print JSON instead of text
    #[arg(long)]
    pub json: bool,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
}

/// Settings as flags. Each can also be set by the environment (TIDEMILL_HOME, ...) or in the
/// settings file (home: ..., ...); flags win over the environment, the environment over the file.
#[derive(Clone, Debug, Default, Args)]
pub struct SettingFlags {
    /// Where everything is kept [default: ./tidemill-home]
    #[arg(long, value_name = "DIR")]
    pub home: Option<String>,
    /// Workers (threads) per process [default: the number of cores]
    #[arg(short = 'w', long, value_name = "N")]
    pub workers: Option<String>,
    /// Processes; without -p all of them are started on this host, and again when one is lost
    /// [default: 1]
    #[arg(short = 'n', long, value_name = "N")]
    pub processes: Option<String>,
    /// Which of the processes this one is, from 0
    #[arg(short = 'p', long, value_name = "INDEX")]
    pub process: Option<String>,
    /// A file with the address (host:port) of each process, one a line, in order
    #[arg(short = 'h', long, value_name = "FILE")]
    pub hostfile: Option<String>,
    /// Where to serve gRPC; port 0 takes any free one [default: 127.0.0.1:7171]
    #[arg(long, value_name = "ADDR")]
    pub grpc: Option<String>,
    /// Whether clients may ask the gRPC server for its schema: true or false [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub reflection: Option<String>,
    /// How long a dropped file must be unchanged when neither its closing nor its renaming was seen
    /// [default: 2s]
    #[arg(long, value_name = "DURATION")]
    pub quiet: Option<String>,
    /// How often the folders are scanned, whatever the system tells of changes [default: 2s]
    #[arg(long, value_name = "DURATION")]
    pub scan: Option<String>,
    /// How much of the disk stays free, as a size like 64MiB or a share like 1%: below it no file is
    /// taken in [default: 64MiB or 1%, whichever is less]
    #[arg(long, value_name = "SIZE")]
    pub reserve: Option<String>,
    /// The least time between two checkpoints of the state of a pipeline; 0s: only at a clean end
    /// [default: 60s]
    #[arg(long, value_name = "DURATION")]
    pub checkpoint_every: Option<String>,
    /// How long the processes of a run wait for each other at the start [default: 60s]
    #[arg(long, value_name = "DURATION")]
    pub meet: Option<String>,
    /// How long a process of a run may be silent before it counts as lost; the same for all of them
    /// [default: 12s]
    #[arg(long, value_name = "DURATION")]
    pub silence: Option<String>,
    /// What is logged: error, warn, info, debug, or a filter like `tidemill_engine=debug`
    /// [default: info]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// How it is logged: text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// The settings file [default: ./tidemill.settings.yaml if it is there]
    #[arg(long, value_name = "FILE")]
    pub settings: Option<PathBuf>,
}

/// Flags of `doctor`.
#[derive(Clone, Debug, Args)]
pub struct DoctorFlags {
    /// The home
    #[arg(value_name = "HOME", default_value = "./tidemill-home")]
    pub home: PathBuf,
    /// Read every input and output and compare its hash with the journal
    #[arg(long)]
    pub deep: bool,
    /// Print JSON instead of text; codes and field names are stable
    #[arg(long)]
    pub json: bool,
}

/// Flags of `check`.
#[derive(Clone, Debug, Args)]
pub struct CheckFlags {
    /// The pipeline files
    #[arg(required = true, value_name = "PIPELINE.yaml")]
    pub pipelines: Vec<PathBuf>,
    /// Print JSON instead of text
    #[arg(long)]
    pub json: bool,
    /// Print the pipeline file flat: with all that it includes, without parameters and groups
    #[arg(long, conflicts_with = "json")]
    pub flat: bool,
    /// What is given to parameters.
    #[command(flatten)]
    pub params: ParamFlags,
}

/// Flags of `new`.
#[derive(Clone, Debug, Args)]
pub struct NewFlags {
    /// Samples: csv, jsonl or text, also packed with gzip or zstd; their first MiB is read
    #[arg(required = true, value_name = "FILE")]
    pub samples: Vec<PathBuf>,
    /// Where to write the pipeline file; one that is there is never overwritten
    #[arg(long, value_name = "PIPELINE.yaml", default_value = "pipeline.yaml")]
    pub out: PathBuf,
    /// The name of the pipeline [default: made from the names of the samples]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Print JSON instead of text
    #[arg(long)]
    pub json: bool,
}

/// Flags of `test`.
#[derive(Clone, Debug, Args)]
pub struct TestFlags {
    /// The pipeline files
    #[arg(required = true, value_name = "PIPELINE.yaml")]
    pub pipelines: Vec<PathBuf>,
    /// Run only the tests whose name holds this text
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
    /// Show what each operator did with each record: by which tag it left, why it was rejected, into
    /// which key it was merged
    #[arg(long)]
    pub step: bool,
    /// The same for one record: the line of a file of the test
    #[arg(long, value_name = "FILE:LINE")]
    pub record: Option<String>,
    /// Write a report for build servers
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Print JSON instead of text; field names are stable
    #[arg(long)]
    pub json: bool,
    /// What is given to parameters.
    #[command(flatten)]
    pub params: ParamFlags,
}

/// Flags of `graph`.
#[derive(Clone, Debug, Args)]
pub struct GraphFlags {
    /// The pipeline file
    #[arg(value_name = "PIPELINE.yaml")]
    pub pipeline: PathBuf,
    /// How to draw it
    #[arg(long, value_enum, default_value = "mermaid")]
    pub format: Drawing,
    /// Print nodes and edges as JSON instead
    #[arg(long)]
    pub json: bool,
    /// What is given to parameters.
    #[command(flatten)]
    pub params: ParamFlags,
}

/// Flags of `torture`.
#[derive(Clone, Debug, Args)]
pub struct TortureFlags {
    /// The pipeline file
    #[arg(value_name = "PIPELINE.yaml")]
    pub pipeline: PathBuf,
    /// Inputs, or folders of inputs; they are copied and never touched
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<PathBuf>,
    /// How many kills at random instants, for each shape
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub kills: usize,
    /// Workers per process, one or several numbers: each is a shape
    #[arg(short = 'w', long, value_name = "LIST", value_delimiter = ',', default_value = "1,2")]
    pub workers: Vec<usize>,
    /// Processes, one or several numbers: each with each number of workers is a shape
    #[arg(short = 'n', long, value_name = "LIST", value_delimiter = ',', default_value = "1")]
    pub processes: Vec<usize>,
    /// What the instants are drawn from: the same seed draws the same
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
    /// Replace and remove some of the inputs, too, once they are committed
    ///
    /// Whatever their sources say of `on_same_name` and `on_delete`; not those that say `append_only`,
    /// `corrections: off` or `dedupe`.
    #[arg(long)]
    pub corrections: bool,
    /// Kill at each named step of the protocol too, and once more in the recovery from it
    #[arg(long)]
    pub points: bool,
    /// Make the homes in this folder and keep them, also if all is equal
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
    /// What is given to parameters.
    #[command(flatten)]
    pub params: ParamFlags,
}

/// How a graph is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Drawing {
    /// Text that Markdown viewers draw.
    Mermaid,
    /// A picture.
    Svg,
}
