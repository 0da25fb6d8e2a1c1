//! Retry: the ledger's part in trying a file of `quarantine/` again.

use tidemill_store::{JournalError, NewFile, Retried, queue};

use crate::fault;
use crate::ledger::Ledger;

impl Ledger {
    /// Accepts a file of `quarantine/` anew and moves it back.
    pub(super) fn retry(&mut self, of: u64, file: &NewFile) -> Result<Retried, JournalError> {
        let found = self.lines.iter().position(|line| line.name == file.pipeline);
        let Some(pipeline) = found else { return Ok(Retried::NotQuarantined) };
        let Self { journal, space, .. } = self;
        let retried = space.insist("writing the journal", || journal.retry(of, file))?;
        if let Retried::Accepted(accepted) = &retried {
            let folders = &self.lines[pipeline].folders;
            let (stored, claimed) = (&accepted.stored_name, &accepted.claimed_name);
            self.space
                .insist("moving a file back from quarantine/", || {
                    queue::take_back(folders, stored, claimed)
                })
                .unwrap_or_else(|error| fault::disk("move a file back from quarantine/", &error));
            self.board.retries(pipeline, accepted, of);
            self.order(pipeline, (**accepted).clone(), false)?;
        }
        Ok(retried)
    }
}
