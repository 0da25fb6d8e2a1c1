//! Who takes part, and the command line of each.
//!
//! It owns the peers' scripts and the pipelines (both are part of this binary) and what a run needs
//! in its folder before the clock starts.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Job;

const SCRIPTS: [(&str, &str); 4] = [
    ("run.sh", include_str!("../../peers/run.sh")),
    ("j1.awk", include_str!("../../peers/j1.awk")),
    ("j2.awk", include_str!("../../peers/j2.awk")),
    ("merge.awk", include_str!("../../peers/merge.awk")),
];

/// Returns the pipeline file of a job.
pub fn pipeline(job: Job) -> &'static str {
    match job {
        Job::J1 => include_str!("../../pipelines/j1.yaml"),
        Job::J2 => include_str!("../../pipelines/j2.yaml"),
        Job::J4 => include_str!("../../pipelines/j4.yaml"),
        Job::J7 => include_str!("../../pipelines/j7.yaml"),
    }
}

/// A program that does the jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contestant {
    /// The hand-written program of this crate.
    Limit,
    /// Two processes of `mawk`.
    Mawk,
    /// The engine.
    Tidemill,
}

impl Contestant {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 3] = [Self::Limit, Self::Mawk, Self::Tidemill];

    /// Returns the name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Mawk => "mawk",
            Self::Tidemill => "tidemill",
        }
    }
}

/// Whether a contestant can be run here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It can.
    Yes,
    /// It cannot, for this reason.
    No(String),
}

/// The programs that were found on this machine.
#[derive(Clone, Debug)]
pub struct Tools {
    bench: PathBuf,
    mawk: Option<PathBuf>,
    tidemill: Option<PathBuf>,
    workers: usize,
}

/// A command that is ready to be timed.
#[derive(Debug)]
pub struct Prepared {
    /// The command.
    pub command: Command,
    /// The folder that will hold `server_error/`, `client_error/`, `ok/` and `traffic/`.
    pub outputs: PathBuf,
}

impl Tools {
    /// Looks for the programs. A `tidemill` that was named but is not there is an error.
    pub fn find(bench: PathBuf, tidemill: Option<&Path>, workers: usize) -> Result<Self> {
        let tidemill = match tidemill {
            Some(path) => Some(
                path.canonicalize()
                    .with_context(|| format!("find the tidemill binary {}", path.display()))?,
            ),
            None => Some(bench.with_file_name("tidemill")).filter(|path| path.is_file()),
        };
        Ok(Self { bench, mawk: in_path("mawk"), tidemill, workers })
    }

    /// Says whether a contestant can be run.
    pub fn has(&self, contestant: Contestant) -> Found {
        match contestant {
            Contestant::Mawk if self.mawk.is_none() => {
                Found::No("mawk is not installed (it is not in PATH)".into())
            }
            Contestant::Tidemill if self.tidemill.is_none() => Found::No(
                "there is no binary `tidemill` beside this program; build it or name it with \
                 --tidemill"
                    .into(),
            ),
            _ => Found::Yes,
        }
    }

    /// Fills the folder of a run and returns its command. Every contestant gets copies of its own:
    /// what the copying does to the memory of the machine then happens to all of them alike.
    pub fn prepare(
        &self,
        contestant: Contestant,
        job: Job,
        inputs: &[PathBuf],
        place: &Path,
    ) -> Result<Prepared> {
        let outputs = place.join("out");
        let input = place.join("in");
        if contestant != Contestant::Tidemill {
            fs::create_dir(&input).context("create the folder of the inputs")?;
            receive(&input, inputs)?;
        }
        let command = match contestant {
            Contestant::Limit => {
                let mut command = Command::new(&self.bench);
                command.arg("limit").arg(job.limit_job_name()).arg(&input).arg(&outputs);
                command
            }
            Contestant::Mawk => {
                let scripts = place.join("peers");
                fs::create_dir(&scripts).context("create the folder of the scripts")?;
                for (name, content) in SCRIPTS {
                    fs::write(scripts.join(name), content)
                        .with_context(|| format!("write {name}"))?;
                }
                let mut command = Command::new("sh");
                command.arg(scripts.join("run.sh")).arg(job.limit_job_name()).arg(&input);
                command.arg(&outputs);
                command
            }
            Contestant::Tidemill => {
                let home = Home::new(place, job)?;
                receive(&home.unprocessed(), inputs)?;
                let mut command = self.tidemill_run(&home)?;
                command.arg("--once").args(["--grpc", "127.0.0.1:0"]);
                return Ok(Prepared { command, outputs: home.outputs() });
            }
        };
        Ok(Prepared { command, outputs })
    }

    /// Returns `tidemill run PIPELINE --home HOME -w WORKERS`.
    pub fn tidemill_run(&self, home: &Home) -> Result<Command> {
        let mut command = self.tidemill()?;
        command.arg("run").arg(&home.pipeline).arg("--home").arg(&home.root);
        command.arg("-w").arg(self.workers.to_string());
        Ok(command)
    }

    /// Returns the binary `tidemill` without arguments.
    pub fn tidemill(&self) -> Result<Command> {
        match &self.tidemill {
            Some(path) => Ok(Command::new(path)),
            None => bail!("there is no tidemill binary"),
        }
    }
}

impl Job {
    fn limit_job_name(self) -> &'static str {
        match self {
            Self::J7 => Self::J4.name(),
            _ => self.name(),
        }
    }
}

/// A home of tidemill with one pipeline.
#[derive(Clone, Debug)]
pub struct Home {
    /// The folder given as `--home`.
    pub root: PathBuf,
    /// The pipeline file.
    pub pipeline: PathBuf,
    name: &'static str,
}

impl Home {
    /// Makes the folders and the pipeline file of a job in `place`.
    pub fn new(place: &Path, job: Job) -> Result<Self> {
        let home = Self {
            root: place.join("home"),
            pipeline: place.join(format!("{}.yaml", job.name())),
            name: job.name(),
        };
        fs::write(&home.pipeline, pipeline(job)).context("write the pipeline file")?;
        fs::create_dir_all(home.unprocessed()).context("create the folder unprocessed")?;
        Ok(home)
    }

    /// Returns where files are dropped.
    pub fn unprocessed(&self) -> PathBuf {
        self.root.join(self.name).join("unprocessed")
    }

    /// Returns where a file is when it is done.
    pub fn processed(&self) -> PathBuf {
        self.root.join(self.name).join("processed")
    }

    /// Returns the folder of the sinks.
    pub fn outputs(&self) -> PathBuf {
        self.root.join(self.name).join("out")
    }
}

/// Copies the inputs into a folder. Hard links would be refused: a dropped file has one name.
fn receive(folder: &Path, inputs: &[PathBuf]) -> Result<()> {
    for input in inputs {
        let name = input.file_name().context("an input file has no name")?;
        let target = folder.join(name);
        fs::copy(input, &target).with_context(|| format!("copy {}", input.display()))?;
        // These files arrived long ago: nobody has to wait whether they still grow.
        let arrived = fs::metadata(input).and_then(|metadata| metadata.modified());
        arrived
            .and_then(|arrived| fs::File::open(&target)?.set_modified(arrived))
            .with_context(|| format!("date {}", target.display()))?;
    }
    Ok(())
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}
