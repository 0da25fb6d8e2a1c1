//! Torture: `tidemill torture`, the user's own proof that a pipeline survives anything that ends the
//! process.
//!
//! Runs the pipeline over copies of the inputs undisturbed, then again and again in new homes that
//! are killed while they work, and holds what they show against the first. Never touches the
//! inputs, nor any home but those it makes.
//!
//! Map: [`site`] (a home under torture), [`life`] (the program running on it), [`outcome`] (what it
//! shows, and how two differ), [`script`] (what is done to it), [`dice`] (when), [`mod@campaign`] (all of it for one shape), [`report`].

pub mod dice;

pub mod life;
pub mod outcome;
pub mod script;
pub mod site;

pub mod campaign;
pub mod report;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};

use crate::flags::TortureFlags;
use crate::pipeline::{Values, load_with};
use crate::torture::campaign::{Campaign, Wish};
use crate::torture::dice::Dice;
use crate::torture::outcome::Outcome;
use crate::torture::report::Report;
use crate::torture::site::{Shape, Subject, gather_inputs};
use crate::{USAGE, complain, say};

/// The exit code when something was lost, doubled or different.
const DIFFERENT: u8 = 1;

/// `tidemill torture`
pub fn torture(flags: &TortureFlags) -> anyhow::Result<u8> {
    let Some(report) = campaign(flags)? else { return Ok(USAGE) };
    let text =
        if flags.json { serde_json::to_string_pretty(&report)? + "\n" } else { report.text() };
    say(text.as_bytes())?;
    Ok(if report.equal { 0 } else { DIFFERENT })
}

/// Does what `tidemill torture` does, up to the report; `None` for a mistake in what was given, which
/// is told.
pub fn campaign(flags: &TortureFlags) -> anyhow::Result<Option<Report>> {
    let Some(values) = Values::gather(&flags.params)? else { return Ok(None) };
    let plan = match load_with(&flags.pipeline, &values)? {
        Ok(plan) => plan,
        Err(mistakes) => {
            mistakes.complain();
            return Ok(None);
        }
    };
    if !values.all_known() {
        return Ok(None);
    }
    if flags.workers.contains(&0) || flags.processes.contains(&0) {
        complain("error: a run has at least one process (-n) and one worker (-w)");
        return Ok(None);
    }
    let ground = Ground::create(flags.keep.as_deref())?;
    let yaml = ground.path.join("pipeline.yaml");
    // What it includes and the values of its parameters are in it.
    std::fs::write(&yaml, &plan.yaml)
        .with_context(|| format!("copy the pipeline file to {}", yaml.display()))?;
    let inputs = gather_inputs(&flags.inputs)?;
    let script = match flags.corrections {
        false => script::plain(&inputs),
        true => {
            let script = script::correcting(&inputs, &plan, &mut Dice::new(flags.seed));
            script.context(
                "no input can be replaced or removed: their sources say `append_only`, \
                 `corrections: off` or `dedupe`",
            )?
        }
    };
    let subject = Subject {
        script,
        program: std::env::current_exe().context("find this program")?,
        yaml,
        temporary: ground.path.clone(),
        pipeline: plan.name,
        inputs,
    };
    let wish = Wish { kills: flags.kills, points: flags.points, keep: flags.keep.is_some() };
    let report = torture_shapes(flags, &subject, &wish, &ground)?;
    if report.equal {
        ground.remove_unless_kept()?;
    }
    Ok(Some(report))
}

fn torture_shapes(
    flags: &TortureFlags,
    subject: &Subject,
    wish: &Wish,
    ground: &Ground,
) -> anyhow::Result<Report> {
    let mut dice = Dice::new(flags.seed);
    let mut shapes = Vec::new();
    let mut first: Option<Outcome> = None;
    let bar = bar(flags.processes.len() * flags.workers.len());
    for processes in &flags.processes {
        for workers in &flags.workers {
            let shape = Shape { processes: *processes, workers: *workers };
            bar.set_message(shape.to_string());
            let folder = ground.path.join(format!("n{processes}-w{workers}"));
            let dice = Dice::new(dice.roll());
            let mut campaign = Campaign::begin(subject, shape, folder, wish, dice)?;
            match &first {
                Some(first) => campaign.compare_with(first),
                None => first = Some(campaign.expected().clone()),
            }
            shapes.push(campaign.run()?);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(Report {
        pipeline: subject.pipeline.clone(),
        inputs: subject.inputs.len(),
        corrected: subject.actions() - subject.inputs.len(),
        seed: flags.seed,
        equal: shapes.iter().all(report::Tally::is_equal),
        shapes,
    })
}

/// Returns a bar over the shapes; it draws itself on a terminal only.
fn bar(shapes: usize) -> ProgressBar {
    let bar = ProgressBar::new(shapes as u64);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {pos}/{len} shapes  {msg} {elapsed}")
    {
        bar.set_style(style);
    }
    bar.enable_steady_tick(std::time::Duration::from_millis(200));
    bar
}

/// Returns a name for a new folder that no other campaign of this process or another uses.
fn new_name() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("tidemill-torture-{}-{number}", std::process::id())
}

/// The folder in which all homes of a campaign lie.
struct Ground {
    path: PathBuf,
    keep: bool,
}

impl Ground {
    /// Makes the folder: a new one in the system's folder for temporary files, or the one that is
    /// to be kept, which must be empty.
    fn create(keep: Option<&Path>) -> anyhow::Result<Self> {
        let path = match keep {
            Some(path) => path.to_path_buf(),
            None => std::env::temp_dir().join(new_name()),
        };
        let failed = || format!("create {}", path.display());
        std::fs::create_dir_all(&path).with_context(failed)?;
        let path = path.canonicalize().with_context(failed)?;
        let empty = std::fs::read_dir(&path).with_context(failed)?.next().is_none();
        anyhow::ensure!(empty, "{} is not empty; choose a new folder", path.display());
        Ok(Self { path, keep: keep.is_some() })
    }

    fn remove_unless_kept(self) -> anyhow::Result<()> {
        if !self.keep {
            std::fs::remove_dir_all(&self.path)
                .with_context(|| format!("remove {}", self.path.display()))?;
        }
        Ok(())
    }
}
