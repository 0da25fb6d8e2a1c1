//! Deploy: the ledger's part in letting another text take over a pipeline.
//!
//! The boundary is one transaction of the journal, written when no file of the pipeline is open. From
//! then on nothing begins any more in this life: what is accepted meanwhile is for the next one.

use std::sync::mpsc::Sender;

use tidemill_store::{Deployed, JournalError, NewDeployment, NewFile, Retried};

use crate::ledger::{AcceptReply, Ledger, Removal};

/// What begins behind the last file of a pipeline.
#[derive(Debug)]
pub enum Boundary {
    /// A text takes over.
    TakesOver(NewDeployment),
    /// Nothing: the pipeline of this name runs no more.
    Leaves(String),
}

impl Boundary {
    /// Returns the name of the pipeline.
    pub fn pipeline(&self) -> &str {
        match self {
            Boundary::TakesOver(new) => &new.pipeline,
            Boundary::Leaves(pipeline) => pipeline,
        }
    }
}

impl Ledger {
    /// Draws the line, if all files of its pipeline are finished.
    pub(super) fn deploy(&mut self, boundary: &Boundary) -> Result<Deployed, JournalError> {
        if self.stopping || self.deployed.is_some() {
            // It is too late for this life; whoever asked hears that the engine ends.
            return Ok(Deployed::Open { files: 0 });
        }
        let Self { journal, space, .. } = self;
        let deployed = space.insist("writing the journal", || match boundary {
            Boundary::TakesOver(new) => journal.deploy(new),
            Boundary::Leaves(pipeline) => journal.undeploy(pipeline),
        })?;
        if let Deployed::Durable { version, first_epoch } = deployed {
            let pipeline = boundary.pipeline();
            match boundary {
                Boundary::TakesOver(new) => tracing::info!(
                    pipeline,
                    version,
                    first_epoch,
                    plan = new.plan_hash,
                    "another pipeline file takes over"
                ),
                Boundary::Leaves(_) => tracing::info!(pipeline, "it is undeployed"),
            }
            self.deployed = Some(pipeline.to_owned());
        }
        Ok(deployed)
    }

    /// Leaves what comes for a pipeline behind its boundary to the next life: its files lie where that
    /// one finds them, and whoever waits asks again.
    pub(super) fn leave_to_the_next(
        &self,
        accepts: &mut Vec<(Vec<NewFile>, Option<AcceptReply>)>,
        retries: &mut Vec<(u64, Box<NewFile>, Sender<Retried>)>,
        removals: &mut Vec<Removal>,
    ) {
        let Some(deployed) = &self.deployed else { return };
        let is_other = |file: &NewFile| file.pipeline != *deployed;
        accepts.retain(|(files, _)| files.iter().all(is_other));
        retries.retain(|(_, file, _)| is_other(file));
        removals.clear();
    }
}
