//! Set: the ledger's part in files that are committed together or not at all.
//!
//! The files of a set were accepted in one transaction, so their epochs follow one another. Their answers
//! wait until all of them are there; then they are committed in one transaction too, or set aside, all of
//! them, if one failed. What operators keep of the others cannot be taken out of a running dataflow: then
//! the journal refuses all of the set, nothing is committed behind it, and this life makes room for one
//! that begins without it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tidemill_store::{AcceptedFile, JournalError, failpoint};

use crate::answer::Answer;
use crate::code::FileCode;
use crate::fault;
use crate::intake::gate::with_its_set;
use crate::ledger::Ledger;
use crate::plan::Plan;
use crate::retry::Class;
use crate::start::Next;

/// A file of a set that is under way.
pub(super) struct Member {
    /// What the set is called.
    label: String,
    /// How many files it has.
    pub(super) files: usize,
}

/// How a life of the engine ends so that the next one begins with the same plans.
pub struct HandOver {
    /// Says which plan takes over.
    pub next: Arc<Mutex<Option<Next>>>,
    /// Ends this life.
    pub stop: Arc<AtomicBool>,
    /// The plans that run.
    pub plans: Vec<Plan>,
}

impl Ledger {
    /// Takes note that a file is of a set, if it is.
    pub(super) fn remember_set(
        &mut self,
        pipeline: usize,
        file: &AcceptedFile,
    ) -> Result<(), JournalError> {
        if !self.arrival_refuses(pipeline, file) {
            return Ok(());
        }
        let Some((set, files)) = self.journal.set_of(file.id)? else { return Ok(()) };
        if files.open == files.all {
            self.sets.insert(file.id, Member { label: set.label, files: files.all });
            return Ok(());
        }
        // The start has set another one aside: it crashed the process.
        let code = FileCode::CrashesTheProcess.word();
        let (code, text) =
            with_its_set(&set.label, "another file", code, "it is set aside already");
        let Self { journal, space, .. } = self;
        space.insist("writing the journal", || {
            journal.refuse(&[(file.id, code.clone(), text.clone())])
        })
    }

    /// Returns whether a file may be refused before it is read, or be of a set.
    pub(super) fn arrival_refuses(&self, pipeline: usize, file: &AcceptedFile) -> bool {
        let line = &self.lines[pipeline];
        let source = line.sources.iter().position(|name| *name == file.source);
        source.and_then(|at| line.arrival_refuses.get(at)).copied().unwrap_or_default()
    }

    /// Returns why an answer of a set waits.
    pub(super) fn waits_for_set(&self, answer: &Answer) -> Option<String> {
        let member = self.sets.get(&answer.submission)?;
        Some(format!("the other files of the set {} ({} in all)", member.label, member.files))
    }

    /// Decides on a set of which all answers are there: all of them fail if one does. Returns whether
    /// they may go on; if not, they stay as they are, and this life ends.
    pub(super) fn decide_set(
        &mut self,
        pipeline: usize,
        answers: &mut [Answer],
    ) -> Result<bool, JournalError> {
        let mut culprit = None;
        for answer in answers.iter_mut() {
            let Some(file) = self.running.get(&answer.submission) else { continue };
            if !file.is_removal() {
                self.check_again(pipeline, file, answer);
            }
            if let (None, Some((code, text))) = (&culprit, &answer.failure) {
                let label = &self.sets[&answer.submission].label;
                culprit = Some(with_its_set(label, &file.name, code, text));
            }
        }
        let Some(why) = culprit else { return Ok(true) };
        if self.lines[pipeline].keeps_state && answers.iter().any(|one| one.failure.is_none()) {
            self.refuse_set(pipeline, answers, &why)?;
            return Ok(false);
        }
        for answer in answers {
            answer.failure.get_or_insert_with(|| why.clone());
            // It is the set that fails: none of it is tried again by itself.
            answer.class = Class::Permanent;
        }
        Ok(true)
    }

    /// Writes down that no file of a set counts, and lets the next life begin without them.
    fn refuse_set(
        &mut self,
        pipeline: usize,
        answers: &[Answer],
        why: &(String, String),
    ) -> Result<(), JournalError> {
        let refusal = |answer: &Answer| {
            let (code, text) = answer.failure.as_ref().unwrap_or(why);
            (answer.submission, code.clone(), text.clone())
        };
        let refusals: Vec<_> = answers.iter().map(refusal).collect();
        let Self { journal, space, .. } = self;
        space.insist("writing the journal", || journal.refuse(&refusals))?;
        failpoint::reach("set-refused").unwrap_or_else(|error| fault::disk("refuse a set", &error));
        let plan = &self.handover.plans[pipeline];
        tracing::warn!(
            pipeline = plan.name,
            files = answers.len(),
            "{}; operators keep something of the others, so their state is taken up anew",
            why.1
        );
        self.deployed = Some(plan.name.clone());
        *self.handover.next.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Next::TakesOver(Box::new(plan.clone())));
        self.handover.stop.store(true, Ordering::Relaxed);
        Ok(())
    }
}
