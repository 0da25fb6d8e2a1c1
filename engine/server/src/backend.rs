//! Backend: what the server asks of an engine. Every call may block; the server makes them on
//! threads that may.

use std::path::Path;

use tidemill_engine::Engine;
use tidemill_engine::control::ControlError;
use tidemill_engine::dry_run::DryRun;
use tidemill_engine::engine::tables::{TableError, TableHandle, TableObserver, TableReport};
use tidemill_engine::engine::{
    ClientId, Deploy, DeployError, DeployReport, Draining, Observer, Replaces, Subject,
    SubmitError, Target, Undeploy, UndeployReport, Upload,
};
use tidemill_engine::report::{
    Condition, OperatorReport, PipelineReport, PipelineShape, ReceiptReport, StageLatency,
    SubmissionFilter, SubmissionReport,
};

/// An engine as the server sees it. [`Engine`] is one; tests bring their own.
pub trait Backend: Clone + Send + Sync + 'static {
    /// Returns the number of the generation that answers.
    fn generation(&self) -> u64;

    /// Returns the folder where uploads are received.
    fn spool(&self) -> &Path;

    /// Checks, before the first byte is received, that an upload of this name could be taken.
    fn check_upload(
        &self,
        pipeline: Option<&str>,
        name: &str,
        replaces: Replaces,
    ) -> Result<(), SubmitError>;

    /// Returns what the upload with this id became; `None` if it was never taken.
    fn upload(&self, id: &ClientId) -> Result<Option<SubmissionReport>, SubmitError>;

    /// Takes a received file and makes it durable; one whose id is known is left where it is.
    fn submit(&self, upload: Upload) -> Result<SubmissionReport, SubmitError>;

    /// Returns one submission.
    fn submission(&self, id: u64) -> Result<Option<SubmissionReport>, SubmitError>;

    /// Returns the receipt of a committed file; `None` for any other.
    fn receipt(&self, id: u64) -> Result<Option<ReceiptReport>, SubmitError>;

    /// Returns submissions, newest first.
    fn submissions(&self, filter: &SubmissionFilter) -> Result<Vec<SubmissionReport>, SubmitError>;

    /// Tries a quarantined file again; `None`: there is no such submission.
    fn retry(&self, id: u64) -> Result<Option<SubmissionReport>, SubmitError>;

    /// Takes a committed file away; `None`: there is no such submission.
    fn remove(&self, target: &Target) -> Result<Option<SubmissionReport>, SubmitError>;

    /// Tries what [`Backend::submit`] would do with a correction, and changes nothing.
    fn try_upload(&self, upload: &Upload) -> Result<DryRun, SubmitError>;

    /// Tries what [`Backend::remove`] would do, and changes nothing; `None`: there is no such submission.
    fn try_removal(&self, target: &Target) -> Result<Option<DryRun>, SubmitError>;

    /// Returns what keeps work waiting.
    fn conditions(&self) -> Vec<Condition>;

    /// Registers a function that hears of each change of each submission.
    fn observe(&self, observer: Observer);

    /// Returns the pipelines that run.
    fn pipelines(&self) -> Vec<PipelineReport>;

    /// Returns what a pipeline is made of, if it runs.
    fn shape_of(&self, pipeline: &str) -> Option<PipelineShape>;

    /// Returns every operator on every worker.
    fn operators(&self) -> Vec<OperatorReport>;

    /// Returns the latency histograms of every stage of every pipeline.
    fn latencies(&self) -> Vec<StageLatency>;

    /// Returns what is known about the tables of one pipeline or of all.
    fn tables(&self, pipeline: Option<&str>) -> Result<Vec<TableReport>, TableError>;

    /// Returns a table, to be asked.
    fn table(&self, pipeline: Option<&str>, name: &str) -> Result<TableHandle, TableError>;

    /// Registers a function that hears when some table has changed.
    fn observe_tables(&self, observer: TableObserver);

    /// Lets a pipeline file take over; `Ok` is durable.
    fn deploy(&self, deploy: &Deploy) -> Result<DeployReport, DeployError>;

    /// Lets a pipeline that was deployed leave; `Ok` is durable.
    fn undeploy(&self, undeploy: &Undeploy) -> Result<UndeployReport, DeployError>;

    /// Holds something back; returns whether that is new.
    fn pause(&self, subject: &Subject) -> Result<bool, ControlError>;

    /// Lets something go on; returns whether it was held back.
    fn resume(&self, subject: &Subject) -> Result<bool, ControlError>;

    /// Lets a pipeline, or all, take nothing new, and says how far what is under way has got.
    fn drain(&self, pipeline: Option<&str>) -> Result<Vec<Draining>, ControlError>;

    /// Ends the engine once everything is drained.
    fn stop_drained(&self, pipeline: Option<&str>) -> Result<(), ControlError>;
}

impl Backend for Engine {
    fn generation(&self) -> u64 {
        Engine::generation(self)
    }

    fn spool(&self) -> &Path {
        Engine::spool(self)
    }

    fn check_upload(
        &self,
        pipeline: Option<&str>,
        name: &str,
        replaces: Replaces,
    ) -> Result<(), SubmitError> {
        Engine::check_upload(self, pipeline, name, replaces)
    }

    fn upload(&self, id: &ClientId) -> Result<Option<SubmissionReport>, SubmitError> {
        Engine::upload(self, id)
    }

    fn submit(&self, upload: Upload) -> Result<SubmissionReport, SubmitError> {
        Engine::submit(self, upload)
    }

    fn submission(&self, id: u64) -> Result<Option<SubmissionReport>, SubmitError> {
        Engine::submission(self, id)
    }

    fn receipt(&self, id: u64) -> Result<Option<ReceiptReport>, SubmitError> {
        Engine::receipt(self, id)
    }

    fn submissions(&self, filter: &SubmissionFilter) -> Result<Vec<SubmissionReport>, SubmitError> {
        Engine::submissions(self, filter)
    }

    fn retry(&self, id: u64) -> Result<Option<SubmissionReport>, SubmitError> {
        Engine::retry(self, id)
    }

    fn remove(&self, target: &Target) -> Result<Option<SubmissionReport>, SubmitError> {
        Engine::remove(self, target)
    }

    fn try_upload(&self, upload: &Upload) -> Result<DryRun, SubmitError> {
        Engine::try_upload(self, upload)
    }

    fn try_removal(&self, target: &Target) -> Result<Option<DryRun>, SubmitError> {
        Engine::try_removal(self, target)
    }

    fn conditions(&self) -> Vec<Condition> {
        Engine::conditions(self)
    }

    fn observe(&self, observer: Observer) {
        Engine::observe(self, observer);
    }

    fn pipelines(&self) -> Vec<PipelineReport> {
        Engine::pipelines(self)
    }

    fn shape_of(&self, pipeline: &str) -> Option<PipelineShape> {
        Engine::shape_of(self, pipeline)
    }

    fn operators(&self) -> Vec<OperatorReport> {
        Engine::operators(self)
    }

    fn latencies(&self) -> Vec<StageLatency> {
        Engine::latencies(self)
    }

    fn tables(&self, pipeline: Option<&str>) -> Result<Vec<TableReport>, TableError> {
        Engine::tables(self, pipeline)
    }

    fn table(&self, pipeline: Option<&str>, name: &str) -> Result<TableHandle, TableError> {
        Engine::table(self, pipeline, name)
    }

    fn observe_tables(&self, observer: TableObserver) {
        Engine::observe_tables(self, observer);
    }

    fn deploy(&self, deploy: &Deploy) -> Result<DeployReport, DeployError> {
        Engine::deploy(self, deploy)
    }

    fn undeploy(&self, undeploy: &Undeploy) -> Result<UndeployReport, DeployError> {
        Engine::undeploy(self, undeploy)
    }

    fn pause(&self, subject: &Subject) -> Result<bool, ControlError> {
        Engine::pause(self, subject)
    }

    fn resume(&self, subject: &Subject) -> Result<bool, ControlError> {
        Engine::resume(self, subject)
    }

    fn drain(&self, pipeline: Option<&str>) -> Result<Vec<Draining>, ControlError> {
        Engine::drain(self, pipeline)
    }

    fn stop_drained(&self, pipeline: Option<&str>) -> Result<(), ControlError> {
        Engine::stop_drained(self, pipeline)
    }
}
