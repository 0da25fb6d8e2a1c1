//! Deploy: the ledger's part in letting another text take over a pipeline.
//!
//! The boundary is one transaction of the journal, written when no file of the pipeline is open. From
//! then on nothing begins any more in this life: what is accepted meanwhile is for the next one.

use tidemill_store::{Deployed, JournalError, NewDeployment};

use crate::ledger::Ledger;

impl Ledger {
    /// Lets a text take over, if all files of its pipeline are finished.
    pub(super) fn deploy(&mut self, new: &NewDeployment) -> Result<Deployed, JournalError> {
        if self.stopping || self.deployed.is_some() {
            // It is too late for this life; whoever asked hears that the engine ends.
            return Ok(Deployed::Open { files: 0 });
        }
        let Self { journal, space, .. } = self;
        let deployed = space.insist("writing the journal", || journal.deploy(new))?;
        if let Deployed::Durable { version, first_epoch } = deployed {
            tracing::info!(
                pipeline = new.pipeline,
                version,
                first_epoch,
                plan = new.plan_hash,
                "another pipeline file takes over"
            );
            self.deployed = Some(new.pipeline.clone());
        }
        Ok(deployed)
    }
}
