//! Submit: sends files, several at once, and prints one line for each.

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tidemill_client::{
    Client, Error, OnWait, Phase, Replaces, Submission, SubmissionId, SubmitOptions,
};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::command::Submit;
use crate::dry_run::{self, Asked};
use crate::output::Output;
use crate::{FAILED, QUARANTINED, human, json};

/// How many files may be waited for while others are being sent.
const WAITS_MAX: usize = 64;

/// Runs `submit`.
pub(crate) async fn run(command: Submit, output: &mut Output<'_>) -> anyhow::Result<u8> {
    if command.name.is_some() && command.files.len() > 1 {
        anyhow::bail!("--name is for one file; {} were given", command.files.len());
    }
    if command.id.is_some() && command.files.len() > 1 {
        anyhow::bail!("--id is for one file; {} were given", command.files.len());
    }
    if matches!(command.replace, Some(Some(_))) && command.files.len() > 1 {
        anyhow::bail!("--replace=ID is for one file; {} were given", command.files.len());
    }
    if matches!(command.replace, Some(Some(_))) && command.pipeline.len() > 1 {
        anyhow::bail!("--replace=ID is a file of one pipeline; --replace goes by the name in each");
    }
    let mut named = BTreeSet::new();
    if let Some(twice) = command.pipeline.iter().find(|name| !named.insert(*name)) {
        anyhow::bail!("--pipeline names {} twice", human::name(twice));
    }
    if command.dry_run && command.pipeline.len() > 1 {
        anyhow::bail!("--dry-run is for one pipeline; try them one after the other");
    }
    if command.dry_run {
        return try_out(command, output).await;
    }
    send(command, output).await
}

/// Shows what files would change, one after the other, and sends those that are wanted then.
async fn try_out(command: Submit, output: &mut Output<'_>) -> anyhow::Result<u8> {
    let client = Client::connect(&command.common.server).await?;
    let mut code = 0;
    for file in &command.files {
        let options = SubmitOptions {
            pipeline: command.pipeline.first().cloned(),
            name: command.name.clone(),
            replaces: replaces(&command),
            ..SubmitOptions::default()
        };
        let path = file.display().to_string();
        let before = looks(file);
        let bar = bar(std::slice::from_ref(file), output.progress);
        let tried = client.try_file(file, &options, |done, _| bar.set_position(done)).await;
        bar.finish_and_clear();
        let told = match tried {
            Ok(told) => told,
            Err(error) => {
                dry_run::refused(&path, &error, command.common.json, output)?;
                code = FAILED;
                continue;
            }
        };
        let would_fail = told.failure.is_some();
        let asked = Asked { yes: command.yes, json: command.common.json };
        let outcome = match dry_run::show(&told, &path, asked, output)? {
            false if would_fail => QUARANTINED,
            false => 0,
            true if looks(file) != before => {
                anyhow::bail!(
                    "{} was changed since it was tried; nothing is sent",
                    human::name(&path)
                )
            }
            true => {
                // What was shown is what is replaced.
                let replace = told.corrects.map_or(command.replace, |id| Some(Some(id)));
                let files = vec![file.clone()];
                send(Submit { files, replace, dry_run: false, ..command.clone() }, output).await?
            }
        };
        code = if code == FAILED || outcome == 0 { code } else { outcome };
    }
    Ok(code)
}

/// Returns what tells a file from a changed one.
fn looks(file: &Path) -> Option<(u64, Option<std::time::SystemTime>)> {
    let metadata = std::fs::metadata(file).ok()?;
    Some((metadata.len(), metadata.modified().ok()))
}

fn replaces(command: &Submit) -> Replaces {
    match command.replace {
        None => Replaces::Nothing,
        Some(None) => Replaces::SameName,
        Some(Some(id)) => Replaces::Submission(id),
    }
}

/// Sends files, several at once.
async fn send(command: Submit, output: &mut Output<'_>) -> anyhow::Result<u8> {
    let job = Arc::new(Job {
        client: Client::connect(&command.common.server).await?,
        replaces: replaces(&command),
        pipelines: command.pipeline,
        name: command.name,
        id: command.id,
        resend_for: Duration::from_secs(command.resend),
        wait: command.wait.then(|| Duration::from_secs(command.timeout)),
        sending: Semaphore::new(command.parallel.into()),
        bar: bar(&command.files, output.progress),
        told: Mutex::default(),
    });
    let in_flight_max = usize::from(command.parallel) + if command.wait { WAITS_MAX } else { 0 };
    let mut files: VecDeque<PathBuf> = command.files.into();
    let mut in_flight = JoinSet::new();
    let mut code = 0;
    loop {
        while in_flight.len() < in_flight_max
            && let Some(file) = files.pop_front()
        {
            let job = Arc::clone(&job);
            in_flight.spawn(async move {
                let results = Arc::clone(&job).submit(&file).await;
                (file, results)
            });
        }
        let Some(done) = in_flight.join_next().await else { break };
        let (file, results) = done?;
        for result in &results {
            let shown = || print(output, command.common.json, &file, result, &job.pipelines);
            let outcome = job.bar.suspend(shown)?;
            // A failure says more than a quarantined file.
            code = if code == FAILED || outcome == 0 { code } else { outcome };
        }
    }
    job.bar.finish_and_clear();
    Ok(code)
}

/// What is the same for all files of one command.
struct Job {
    client: Client,
    pipelines: Vec<String>,
    name: Option<String>,
    id: Option<SubmissionId>,
    replaces: Replaces,
    resend_for: Duration,
    wait: Option<Duration>,
    sending: Semaphore,
    bar: ProgressBar,
    /// Why files have to wait, as far as that was said.
    told: Mutex<BTreeSet<String>>,
}

impl Job {
    /// Sends a file; returns what became of it in each pipeline, or why nothing did.
    async fn submit(self: Arc<Self>, file: &Path) -> Vec<Result<Submission, Error>> {
        let sent = match self.send(file).await {
            Ok(sent) => sent,
            Err(error) => return vec![Err(error)],
        };
        let mut all = Vec::with_capacity(sent.len());
        for one in sent {
            all.push(match self.wait {
                Some(timeout) if !one.phase.is_final() => self.client.wait(one.id, timeout).await,
                _ => Ok(one),
            });
        }
        all
    }

    async fn send(self: &Arc<Self>, file: &Path) -> Result<Vec<Submission>, Error> {
        // An error would mean that the semaphore was closed, which nobody does.
        let _turn = self.sending.acquire().await;
        let options = SubmitOptions {
            pipeline: self.pipelines.first().cloned(),
            also_to: self.pipelines.iter().skip(1).cloned().collect(),
            name: self.name.clone(),
            id: self.id,
            replaces: self.replaces,
            resend_for: self.resend_for,
            on_wait: Some(self.on_wait(file)),
        };
        let mut shown = 0;
        let progress = |done: u64, _all| {
            self.bar.inc(done.saturating_sub(shown));
            shown = done;
        };
        self.client.submit_file_to_all(file, options, progress).await
    }

    /// Returns what says, once for each reason, why files have to wait.
    fn on_wait(self: &Arc<Self>, file: &Path) -> OnWait {
        let (job, path) = (Arc::clone(self), file.display().to_string());
        OnWait(Arc::new(move |error: &Error, left: Duration| {
            // What is about to begin or has much to do says nothing a person could do.
            if !matches!(error.word(), Some("paused" | "no_space")) {
                return;
            }
            let mut told = job.told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.insert(error.to_string()) {
                let (path, seconds) = (human::name(&path), left.as_secs_f64().ceil());
                let text = json::chain(error);
                // Beside the answer, so that a script that reads the lines is not confused.
                #[allow(clippy::print_stderr, reason = "this is a command of a terminal")]
                job.bar.suspend(|| {
                    eprintln!(
                        "tidemill: {path}: {text}; waiting, for {seconds} s at most (--resend)"
                    );
                });
            }
        }))
    }
}

/// Returns a progress bar over the bytes of all files; hidden when not wanted.
fn bar(files: &[PathBuf], wanted: bool) -> ProgressBar {
    if !wanted {
        return ProgressBar::hidden();
    }
    let size = |file: &PathBuf| std::fs::metadata(file).map_or(0, |metadata| metadata.len());
    let bar = ProgressBar::with_draw_target(
        Some(files.iter().map(size).sum()),
        ProgressDrawTarget::stderr(),
    );
    let template = "{bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  {eta}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// Prints the line of one file and returns the exit code that it asks for.
fn print(
    output: &mut Output<'_>,
    as_json: bool,
    file: &Path,
    result: &Result<Submission, Error>,
    pipelines: &[String],
) -> std::io::Result<u8> {
    let path = file.display().to_string();
    match (result, as_json) {
        (Ok(submission), true) => writeln!(output.out, "{}", json::submission(submission))?,
        (Ok(submission), false) => writeln!(output.out, "{}", line(submission, pipelines))?,
        (Err(error), true) => writeln!(output.out, "{}", json::failure(&path, error))?,
        (Err(error), false) => {
            // Beside the answer, so that a script that reads the lines is not confused.
            #[allow(clippy::print_stderr, reason = "this is a command of a terminal")]
            match error {
                Error::File { .. } | Error::NotAFile { .. } | Error::Changed { .. } => {
                    eprintln!("tidemill: {}", human::name(&json::chain(error)));
                }
                _ => eprintln!("tidemill: {}: {}", human::name(&path), json::chain(error)),
            }
        }
    }
    Ok(match result {
        Ok(submission) if submission.phase == Phase::Quarantined => QUARANTINED,
        Ok(_) => 0,
        Err(_) => FAILED,
    })
}

fn line(submission: &Submission, pipelines: &[String]) -> String {
    let Submission { id, phase, .. } = submission;
    let mut name = human::name(&submission.name);
    if pipelines.len() > 1 {
        name.push_str(&format!("  {}", human::name(&submission.pipeline)));
    }
    match &submission.reason {
        None => format!("{id}  {name}  {phase}"),
        Some(reason) => {
            let (code, text) = (human::name(&reason.code), human::name(&reason.text));
            format!("{id}  {name}  {phase}  {code}: {text}")
        }
    }
}
