//! Fake: an engine that remembers what it was given and says what a test tells it to.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use tidemill_engine::control::ControlError;
use tidemill_engine::dry_run::DryRun;
use tidemill_engine::engine::tables::{TableError, TableHandle, TableObserver, TableReport};
use tidemill_engine::engine::{
    ClientId, Deploy, DeployError, DeployReport, Draining, Observer, Replaces, Subject,
    SubmitError, Target, Undeploy, UndeployReport, Upload, spool,
};
use tidemill_engine::report::{
    Condition, Corrections, EdgeReport, NodeReport, OperatorReport, OutputReport, Phase,
    PipelineReport, PipelineShape, ReceiptReport, StageLatency, SubmissionFilter, SubmissionReport,
};
use tidemill_server::Backend;

/// A fake engine with the pipelines `logs` and `bills`; `logs` takes `*.jsonl`.
#[derive(Clone)]
pub(crate) struct Fake(Arc<Inner>);

struct Inner {
    spool: TempDir,
    state: Mutex<State>,
}

type Hook = Box<dyn FnOnce(&Fake) + Send>;

#[derive(Default)]
struct State {
    reports: BTreeMap<u64, SubmissionReport>,
    contents: BTreeMap<u64, Vec<u8>>,
    ids: BTreeMap<ClientId, u64>,
    receipts: BTreeMap<u64, ReceiptReport>,
    observers: Vec<Observer>,
    after_look: Option<Hook>,
    unavailable: Option<String>,
}

impl Fake {
    /// Returns an engine without submissions.
    pub(crate) fn new() -> Self {
        let spool = tempfile::tempdir().unwrap();
        Self(Arc::new(Inner { spool, state: Mutex::default() }))
    }

    /// Accepts a submission that no one uploaded.
    pub(crate) fn accept(&self, name: &str) -> u64 {
        self.insert("logs", name, b"", Phase::Accepted)
    }

    /// Changes a submission and tells the observers.
    pub(crate) fn change(&self, id: u64, phase: Phase, bytes_read: u64) {
        let (report, observers) = {
            let mut state = self.state();
            let report = state.reports.get_mut(&id).unwrap();
            report.phase = phase;
            report.bytes_read = bytes_read;
            if phase == Phase::Quarantined {
                report.reason = Some(("bad_format".into(), "not a jsonl file".into()));
            }
            if phase.is_final() {
                report.finished_at = Some(moment(3));
            }
            (report.clone(), state.observers.clone())
        };
        observers.iter().for_each(|observer| observer(&report));
    }

    /// Does something between the next look at a submission and the answer to it.
    pub(crate) fn after_look(&self, hook: impl FnOnce(&Fake) + Send + 'static) {
        self.state().after_look = Some(Box::new(hook));
    }

    /// Gives a submission a receipt.
    pub(crate) fn receive_receipt(&self, id: u64, receipt: ReceiptReport) {
        self.state().receipts.insert(id, receipt);
    }

    /// Takes no files from now on.
    pub(crate) fn refuse(&self, reason: &str) {
        self.state().unavailable = Some(reason.to_owned());
    }

    /// Returns the bytes that were submitted under each id.
    pub(crate) fn contents(&self) -> BTreeMap<u64, Vec<u8>> {
        self.state().contents.clone()
    }

    /// Returns how many files lie in the spool.
    pub(crate) fn spooled(&self) -> usize {
        std::fs::read_dir(self.0.spool.path()).unwrap().count()
    }

    /// Returns where the upload with this id is received.
    pub(crate) fn spool_file(&self, id: &str) -> PathBuf {
        spool::path_of(self.0.spool.path(), &ClientId::parse(id).unwrap())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    fn insert(&self, pipeline: &str, name: &str, bytes: &[u8], phase: Phase) -> u64 {
        let mut state = self.state();
        let id = state.reports.len() as u64 + 1;
        let report = SubmissionReport {
            id,
            pipeline: pipeline.into(),
            epoch: id,
            name: name.into(),
            source: "in".into(),
            bytes: bytes.len() as u64,
            hash: Some(blake3::hash(bytes).to_string()),
            phase,
            bytes_read: 0,
            records: 0,
            rejected: 0,
            reason: None,
            outputs: vec![OutputReport {
                path: format!("errors/{name}"),
                bytes: 7,
                ..OutputReport::default()
            }],
            seen_at: moment(1),
            accepted_at: moment(2),
            finished_at: None,
            retry_of: None,
            retried_as: None,
            corrections: Corrections::default(),
            retained_bytes: None,
            waits_for: None,
            attempts: Vec::new(),
        };
        state.reports.insert(id, report);
        state.contents.insert(id, bytes.to_vec());
        id
    }
}

/// Returns a fixed moment.
pub(crate) fn moment(second: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_790_000_000_000 + second * 1000)
}

impl Backend for Fake {
    fn tables(&self, pipeline: Option<&str>) -> Result<Vec<TableReport>, TableError> {
        match pipeline {
            None | Some("logs" | "bills") => Ok(Vec::new()),
            Some(name) => Err(TableError::Pipeline(format!("no pipeline is called {name}"))),
        }
    }

    fn table(&self, _pipeline: Option<&str>, name: &str) -> Result<TableHandle, TableError> {
        match name {
            "slow" => Err(TableError::Rebuilding { table: name.to_owned(), files: 3 }),
            name => Err(TableError::Unknown(format!("no table is called {name}"))),
        }
    }

    fn observe_tables(&self, _observer: TableObserver) {}

    fn deploy(&self, _deploy: &Deploy) -> Result<DeployReport, DeployError> {
        Err(DeployError::Busy)
    }

    fn undeploy(&self, _undeploy: &Undeploy) -> Result<UndeployReport, DeployError> {
        Err(DeployError::Busy)
    }

    fn pause(&self, subject: &Subject) -> Result<bool, ControlError> {
        match subject.part.as_deref() {
            None | Some("in" | "out") => Ok(true),
            Some(name) => Err(ControlError::Part {
                kind: "source or sink",
                pipeline: subject.pipeline.clone(),
                name: name.to_owned(),
                known: "in, out".into(),
            }),
        }
    }

    fn resume(&self, _subject: &Subject) -> Result<bool, ControlError> {
        Ok(false)
    }

    fn drain(&self, pipeline: Option<&str>) -> Result<Vec<Draining>, ControlError> {
        let pipeline = pipeline.unwrap_or("logs").to_owned();
        Ok(vec![Draining { pipeline, accepted: 0, done: true, holds: Vec::new() }])
    }

    fn stop_drained(&self, _pipeline: Option<&str>) -> Result<(), ControlError> {
        self.refuse("it is stopping");
        Ok(())
    }

    fn retry(&self, id: u64) -> Result<Option<SubmissionReport>, SubmitError> {
        let Some(old) = self.state().reports.get(&id).cloned() else { return Ok(None) };
        if old.phase != Phase::Quarantined {
            return Err(SubmitError::NoRetry { id, reason: "it is committed".into() });
        }
        let new = self.insert(&old.pipeline, &old.name, b"again", Phase::Accepted);
        let mut state = self.state();
        Ok(state.reports.get_mut(&new).map(|report| {
            report.retry_of = Some(id);
            report.clone()
        }))
    }

    fn conditions(&self) -> Vec<Condition> {
        vec![Condition {
            code: Condition::DISK_FULL.into(),
            since: moment(5),
            text: "no space".into(),
            hint: "free some".into(),
        }]
    }

    fn generation(&self) -> u64 {
        7
    }

    fn spool(&self) -> &Path {
        self.0.spool.path()
    }

    fn try_upload(&self, upload: &Upload) -> Result<DryRun, SubmitError> {
        let bytes = std::fs::read(&upload.path).expect("the upload lies where it is said to lie");
        let (name, records) = (upload.name.clone(), bytes.len() as u64);
        Ok(DryRun { name, records, ..DryRun::default() })
    }

    fn try_removal(&self, target: &Target) -> Result<Option<DryRun>, SubmitError> {
        let Target::Id(id) = target else { return Ok(None) };
        let known = self.state().reports.contains_key(id);
        Ok(known.then(|| DryRun { corrects: Some(*id), removes: true, ..DryRun::default() }))
    }

    fn remove(&self, target: &Target) -> Result<Option<SubmissionReport>, SubmitError> {
        let of = match target {
            Target::Id(id) => Some(*id),
            Target::Name { name, .. } => {
                let state = self.state();
                state.reports.values().find(|report| report.name == *name).map(|report| report.id)
            }
        };
        let old = of.and_then(|of| self.state().reports.get(&of).cloned());
        let Some(old) = old else { return Ok(None) };
        if old.phase != Phase::Committed {
            let (what, reason) = (format!("submission {}", old.id), "it is not finished".into());
            return Err(SubmitError::NoCorrection { what, reason });
        }
        let new = self.insert(&old.pipeline, &old.name, b"", Phase::Accepted);
        let mut state = self.state();
        Ok(state.reports.get_mut(&new).map(|report| {
            report.corrections.removes = Some(old.id);
            report.clone()
        }))
    }

    fn check_upload(
        &self,
        pipeline: Option<&str>,
        name: &str,
        _replaces: Replaces,
    ) -> Result<(), SubmitError> {
        if let Some(reason) = self.state().unavailable.clone() {
            return Err(SubmitError::Unavailable { reason });
        }
        match pipeline {
            Some("bills") => Ok(()),
            Some("logs") if name.ends_with(".jsonl") => Ok(()),
            Some("logs") => Err(SubmitError::NoSource {
                pipeline: "logs".into(),
                name: name.into(),
                patterns: "*.jsonl".into(),
            }),
            other => Err(SubmitError::UnknownPipeline {
                name: other.unwrap_or_default().into(),
                running: "logs, bills".into(),
            }),
        }
    }

    fn upload(&self, id: &ClientId) -> Result<Option<SubmissionReport>, SubmitError> {
        let state = self.state();
        Ok(state.ids.get(id).map(|id| state.reports[id].clone()))
    }

    fn submit(&self, upload: Upload) -> Result<SubmissionReport, SubmitError> {
        let known = upload.client_id.and_then(|id| self.state().ids.get(&id).copied());
        if let Some(known) = known {
            return Ok(self.state().reports[&known].clone());
        }
        let bytes = std::fs::read(&upload.path).unwrap();
        let mode = std::fs::metadata(&upload.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "a spool file is its owner's alone");
        assert_eq!(bytes.len() as u64, upload.bytes);
        assert_eq!(blake3::hash(&bytes), blake3::Hash::from_bytes(upload.hash));
        std::fs::remove_file(&upload.path).unwrap();
        let pipeline = upload.pipeline.unwrap();
        let id = self.insert(&pipeline, &upload.name, &bytes, Phase::Accepted);
        if let Some(client_id) = upload.client_id {
            self.state().ids.insert(client_id, id);
        }
        Ok(self.state().reports[&id].clone())
    }

    fn submission(&self, id: u64) -> Result<Option<SubmissionReport>, SubmitError> {
        let (report, hook) = {
            let mut state = self.state();
            (state.reports.get(&id).cloned(), state.after_look.take())
        };
        if let Some(hook) = hook {
            hook(self);
        }
        Ok(report)
    }

    fn receipt(&self, id: u64) -> Result<Option<ReceiptReport>, SubmitError> {
        Ok(self.state().receipts.get(&id).cloned())
    }

    fn submissions(&self, filter: &SubmissionFilter) -> Result<Vec<SubmissionReport>, SubmitError> {
        let state = self.state();
        let wanted = |report: &&SubmissionReport| {
            filter.pipeline.as_ref().is_none_or(|pipeline| *pipeline == report.pipeline)
                && filter.phase.is_none_or(|phase| phase == report.phase)
                && filter.name.as_ref().is_none_or(|name| *name == report.name)
                && filter.before.is_none_or(|before| report.id < before)
        };
        Ok(state.reports.values().rev().filter(wanted).take(filter.limit).cloned().collect())
    }

    fn observe(&self, observer: Observer) {
        self.state().observers.push(observer);
    }

    fn shape_of(&self, pipeline: &str) -> Option<PipelineShape> {
        Some(PipelineShape {
            yaml: format!("pipeline: {pipeline}\n"),
            nodes: vec![NodeReport {
                name: "in".into(),
                role: "source".into(),
                kind: "jsonl".into(),
                detail: "*.jsonl".into(),
            }],
            edges: vec![EdgeReport {
                from: "in".into(),
                tag: String::new(),
                to: "out".into(),
                columns: vec!["status: int".into()],
            }],
        })
    }

    fn pipelines(&self) -> Vec<PipelineReport> {
        let pipeline = |name: &str| PipelineReport {
            name: name.into(),
            plan_hash: "abc".into(),
            folder: "/srv/secret".into(),
            accepted: 1,
            committed: 2,
            quarantined: 3,
            committed_epoch: 4,
            holds: Vec::new(),
        };
        vec![pipeline("logs"), pipeline("bills")]
    }

    fn operators(&self) -> Vec<OperatorReport> {
        let row = |pipeline: &str, worker| OperatorReport {
            pipeline: pipeline.into(),
            operator: "in".into(),
            kind: "source jsonl".into(),
            worker,
            records_in: 1,
            records_out: 2,
            bytes_in: 3,
            bytes_out: 4,
            rejected: 5,
            elapsed_ns: 6,
            activations: 7,
            backlog: 8,
            frontier: Some((9, u64::MAX)),
            state_entries: 10,
            state_bytes: 1_000,
            retained_bytes: 77,
        };
        vec![row("logs", 0), row("logs", 1), row("bills", 0)]
    }

    fn latencies(&self) -> Vec<StageLatency> {
        let mut histogram = hdrhistogram::Histogram::new(3).unwrap();
        (1..=1000).for_each(|micros| histogram.record(micros).unwrap());
        vec![
            StageLatency { pipeline: "logs".into(), stage: "total", histogram: histogram.clone() },
            StageLatency { pipeline: "bills".into(), stage: "total", histogram },
        ]
    }
}
