//! Control: the ledger's part in what a person holds back.
//!
//! A commit is one transaction over all sinks, and commits come in the order of epochs. So while a sink
//! is paused, the first answer that reaches it waits here, and all behind it; the backlog of the
//! pipeline counts them, and the coordinator begins no more files when they become too many. Answers
//! are derived: a process that ends forgets them, and the next one reads their files again.

use std::collections::BTreeMap;
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
            let (mut free, all) = (Vec::new(), self.lines[pipeline].held.len());
            self.board.stuck(pipeline, false);
            // Another sink may still hold some of them.
            self.let_through(pipeline, all, &mut free)?;
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

    /// Keeps the answers back that a paused sink or the rest of their set holds, and all behind them;
    /// returns the others.
    pub(super) fn hold_back(
        &mut self,
        answers: Vec<(usize, Answer)>,
    ) -> Result<Vec<(usize, Answer)>, JournalError> {
        let mut new: BTreeMap<usize, usize> = BTreeMap::new();
        for (pipeline, answer) in answers {
            let line = &mut self.lines[pipeline];
            if self.sets.contains_key(&answer.submission) {
                // The rest of its set must not wait for room that only it can make.
                line.backlog.release(answer.weight());
            }
            line.held.push_back(answer);
            *new.entry(pipeline).or_default() += 1;
        }
        let mut free = Vec::new();
        for (pipeline, new) in new {
            self.let_through(pipeline, new, &mut free)?;
        }
        Ok(free)
    }

    /// Lets through what nothing holds back any more; says of the `new` ones among the others why they
    /// wait.
    fn let_through(
        &mut self,
        pipeline: usize,
        new: usize,
        free: &mut Vec<(usize, Answer)>,
    ) -> Result<(), JournalError> {
        let paused = self.control.paused_sinks(pipeline);
        let is_paused = |line: &Line, answer: &Answer| {
            // What is read again was committed before.
            paused.iter().find(|sink| !answer.replay && reaches(line, answer, sink)).cloned()
        };
        let mut stuck = false;
        while let Some(first) = self.lines[pipeline].held.front() {
            let line = &self.lines[pipeline];
            let member = self.sets.get(&first.submission);
            let count = member.map_or(1, |member| member.files);
            let is_over = self.deployed.as_ref() == Some(&line.name) && !first.replay;
            if is_over || line.held.len() < count {
                break;
            }
            stuck = line.held.iter().take(count).any(|one| is_paused(line, one).is_some());
            if stuck {
                break;
            }
            let is_set = member.is_some();
            let mut together: Vec<Answer> = self.lines[pipeline].held.drain(..count).collect();
            if is_set && !self.decide_set(pipeline, &mut together)? {
                together
                    .into_iter()
                    .rev()
                    .for_each(|one| self.lines[pipeline].held.push_front(one));
                break;
            }
            free.extend(together.into_iter().map(|answer| (pipeline, answer)));
        }
        if stuck {
            self.board.stuck(pipeline, true);
        }
        let line = &self.lines[pipeline];
        for answer in line.held.iter().rev().take(new) {
            let why = match (is_paused(line, answer), self.waits_for_set(answer)) {
                (Some(sink), _) => format!("sink {sink} is paused"),
                (None, Some(set)) => set,
                (None, None) if stuck => {
                    "an earlier file waits for a sink that is paused".to_owned()
                }
                (None, None) => "an earlier file waits for the rest of its set".to_owned(),
            };
            self.board.waits(pipeline, answer.submission, why);
        }
        Ok(())
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
