//! Control: the ledger's part in what a person holds back.
//!
//! A commit is one transaction over all sinks, and commits come in the order of epochs. So while a sink
//! is paused, the first answer that reaches it waits here, and all behind it; the backlog of the
//! pipeline counts them, and the coordinator begins no more files when they become too many. Answers
//! are derived: a process that ends forgets them, and the next one reads their files again.

use std::sync::mpsc::Sender;

use tidemill_store::{Held, JournalError};

use crate::answer::Answer;
use crate::code::FileCode;
use crate::ledger::{Ledger, Line};

/// What is to be held back, or not any more.
pub struct Change {
    /// Which pipeline.
    pub pipeline: usize,
    /// What of it.
    pub what: Held,
    /// Whether it is to be held back.
    pub hold: bool,
    /// Told whether that was new, once it is durable.
    pub reply: Sender<bool>,
}

impl Ledger {
    /// Writes down what is held back, then lets it be so.
    pub(super) fn change(&mut self, change: Change) -> Result<(), JournalError> {
        let Change { pipeline, what, hold, reply } = change;
        let Self { journal, space, .. } = self;
        let name = &self.lines[pipeline].name;
        let before = self.control.is_held(pipeline, &what);
        let is_new = if hold {
            let since = space.insist("writing the journal", || journal.hold(name, &what))?;
            self.control.hold(pipeline, what, since);
            !before
        } else {
            let was = space.insist("writing the journal", || journal.let_go(name, &what))?;
            self.control.let_go(pipeline, &what);
            was
        };
        if !hold {
            let released: Vec<_> = self.lines[pipeline].held.drain(..).collect();
            self.board.stuck(pipeline, false);
            // Another sink may still hold some of them.
            let released = released.into_iter().map(|answer| (pipeline, answer)).collect();
            let free = self.hold_back(released);
            self.finish(free)?;
        }
        // Whoever asked may have gone; it is so all the same.
        let _ = reply.send(is_new);
        Ok(())
    }

    /// Pauses a pipeline behind a file that must be the last one, as a person would. Durable before
    /// the verdict on the file is: after a crash in between the file is judged again.
    pub(super) fn stop_behind(
        &mut self,
        pipeline: usize,
        file: &str,
        failure: Option<&(String, String)>,
    ) -> Result<(), JournalError> {
        let stops = failure.is_some_and(|(code, _)| code == FileCode::StoppedPipeline.word());
        if !stops || self.control.is_held(pipeline, &Held::Paused) {
            return Ok(());
        }
        let Self { journal, space, .. } = self;
        let name = &self.lines[pipeline].name;
        let since = space.insist("writing the journal", || journal.hold(name, &Held::Paused))?;
        self.control.hold(pipeline, Held::Paused, since);
        tracing::error!(
            pipeline = name,
            file,
            "stopped: one of its records may not be rejected; when the cause is mended: tidemill \
             resume {name}"
        );
        Ok(())
    }

    /// Keeps the answers back that a paused sink holds, and all behind them; returns the others.
    pub(super) fn hold_back(&mut self, answers: Vec<(usize, Answer)>) -> Vec<(usize, Answer)> {
        let mut free = Vec::with_capacity(answers.len());
        for (pipeline, answer) in answers {
            let line = &mut self.lines[pipeline];
            let paused = self.control.paused_sinks(pipeline);
            // What is read again was committed before.
            let held_by =
                (!answer.replay).then(|| paused.iter().find(|s| reaches(line, &answer, s)));
            let why = match held_by.flatten() {
                Some(sink) => format!("sink {sink} is paused"),
                None if !line.held.is_empty() => {
                    "an earlier file waits for a sink that is paused".to_owned()
                }
                None => {
                    free.push((pipeline, answer));
                    continue;
                }
            };
            self.board.waits(pipeline, answer.submission, why);
            self.board.stuck(pipeline, true);
            line.held.push_back(answer);
        }
        free
    }
}

/// Returns whether something of a file goes to a sink, or to the changelog of one.
fn reaches(line: &Line, answer: &Answer, sink: &str) -> bool {
    // A file that failed leaves nothing.
    let whole = answer.failure.is_none();
    let is_it = |at: usize| {
        line.sinks
            .get(at)
            .is_some_and(|name| name == sink || *name == crate::sink::changes::folder(sink))
    };
    let mut parts = answer.parts.iter().map(|part| part.sink);
    let mut rows = answer.rows.iter().map(|(at, _)| *at);
    whole && (parts.any(is_it) || rows.any(is_it))
}
