//! Control: pausing, resuming and draining, asked for from outside.
//!
//! Asks the ledger, which writes it down; holds nothing itself.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use tidemill_store::Held;

use super::Engine;
use crate::control::ControlError;
use crate::ledger::{Change, Event};
use crate::report::HoldReport;

/// How long one question may wait until everything is visible.
const REFRESH_MAX: Duration = Duration::from_secs(5);

/// What is to be paused or resumed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The pipeline.
    pub pipeline: String,
    /// One of its sources or sinks; `None` for all of it.
    pub part: Option<String>,
}

/// How far the draining of one pipeline is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draining {
    /// The pipeline.
    pub pipeline: String,
    /// Files accepted and not finished.
    pub accepted: u64,
    /// Whether nothing is left to do, and everything is visible.
    pub done: bool,
    /// What of it is held back: a sink that is paused keeps it from being done.
    pub holds: Vec<HoldReport>,
}

impl Engine {
    /// Holds something back; returns whether that is new. Durable on return. Blocks for the disk.
    pub fn pause(&self, subject: &Subject) -> Result<bool, ControlError> {
        let (pipeline, what) =
            self.parts.control.find(&subject.pipeline, subject.part.as_deref())?;
        self.change(pipeline, what.unwrap_or(Held::Paused), true)
    }

    /// Lets something go on; returns whether it was held back. A pipeline that is resumed as a whole
    /// is neither paused nor drained any more; a source or sink that was paused by its name stays so.
    pub fn resume(&self, subject: &Subject) -> Result<bool, ControlError> {
        let (pipeline, what) =
            self.parts.control.find(&subject.pipeline, subject.part.as_deref())?;
        match what {
            Some(what) => self.change(pipeline, what, false),
            None => {
                let paused = self.change(pipeline, Held::Paused, false)?;
                Ok(self.change(pipeline, Held::Drained, false)? || paused)
            }
        }
    }

    /// Lets a pipeline, or all, take nothing new until it is resumed, and says how far what is under
    /// way has got. Asked again, it only says that.
    pub fn drain(&self, pipeline: Option<&str>) -> Result<Vec<Draining>, ControlError> {
        let wanted = self.this_or_all(pipeline)?;
        for at in &wanted {
            if !self.parts.control.is_held(*at, &Held::Drained) {
                self.change(*at, Held::Drained, true)?;
            }
        }
        let is_through =
            |at: &usize| self.parts.board.pending(*at) == 0 && !self.parts.board.is_rebuilding(*at);
        let through: Vec<bool> = wanted.iter().map(is_through).collect();
        let visible = through.contains(&true) && self.is_visible()?;
        let report = |(at, through): (&usize, bool)| Draining {
            pipeline: self.parts.plans[*at].name.clone(),
            accepted: self.parts.board.pending(*at) as u64,
            done: through && visible,
            holds: self.parts.control.holds(*at),
        };
        Ok(wanted.iter().zip(through).map(report).collect())
    }

    /// Ends the engine once everything is drained; what was drained for that is not drained any more
    /// when it starts again.
    pub fn stop_drained(&self, pipeline: Option<&str>) -> Result<(), ControlError> {
        let wanted = self.this_or_all(pipeline)?;
        // First: nothing comes in any more when it is let go.
        self.stop();
        for at in wanted {
            self.change(at, Held::Drained, false)?;
        }
        Ok(())
    }

    /// Returns the place of one pipeline, or those of all.
    fn this_or_all(&self, pipeline: Option<&str>) -> Result<Vec<usize>, ControlError> {
        match pipeline {
            Some(name) => Ok(vec![self.parts.control.find(name, None)?.0]),
            None => Ok((0..self.parts.plans.len()).collect()),
        }
    }

    /// Returns whether everything that is finished is visible, waiting a moment for it.
    fn is_visible(&self) -> Result<bool, ControlError> {
        let (reply, answer) = channel();
        self.parts.events.send(Event::Refresh(reply)).map_err(|_| ControlError::Stopping)?;
        match answer.recv_timeout(REFRESH_MAX) {
            Ok(visible) => Ok(visible),
            Err(RecvTimeoutError::Timeout) => Ok(false),
            Err(RecvTimeoutError::Disconnected) => Err(ControlError::Stopping),
        }
    }

    fn change(&self, pipeline: usize, what: Held, hold: bool) -> Result<bool, ControlError> {
        let (reply, answer) = channel();
        // Whoever is about to let a file in is through when this returns.
        let _closed = self.parts.control.close();
        if self.is_handing_over() {
            // The next life has other sources and sinks.
            return Err(ControlError::Stopping);
        }
        let change = Change { pipeline, what, hold, reply };
        self.parts.events.send(Event::Control(change)).map_err(|_| ControlError::Stopping)?;
        answer.recv().map_err(|_| ControlError::Stopping)
    }
}
