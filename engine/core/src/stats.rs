//! Statistics: what each operator on each worker does. Derived; observing never blocks the data
//! path.
//!
//! A worker writes counters and gauges without locks; whoever asks reads them from another thread.
//! Time spent comes from the dataflow's own schedule log. The other processes of a run send what
//! they know to process 0 over the control connection.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidemill_operators::Time;
use tidemill_operators::meter::Meter;
use timely::logging::{StartStop, TimelyEvent, TimelyEventBuilder};
use timely::worker::Worker;

use crate::plan::{NodeId, Plan};
use crate::report::{Condition, OperatorReport};

/// Stands before the name of a sink where names of nodes must differ: a sink may be called like an
/// operator.
pub const SINK: &str = "sink:";

/// What a worker says about one of its operators besides its meter.
#[derive(Clone, Debug, Default)]
pub struct Gauge {
    cells: Arc<Cells>,
}

#[derive(Debug, Default)]
struct Cells {
    elapsed_ns: AtomicU64,
    activations: AtomicU64,
    /// The frontier: 0 while unknown, 1 when it is empty, else epoch + 2.
    frontier_epoch: AtomicU64,
    frontier_chunk: AtomicU64,
}

impl Gauge {
    /// Says where the frontier is; `None` when nothing more can come.
    pub fn frontier(&self, frontier: Option<Time>) {
        let (epoch, chunk) = frontier.map_or((1, 0), |time| (time.epoch + 2, time.chunk));
        self.cells.frontier_chunk.store(chunk, Ordering::Relaxed);
        self.cells.frontier_epoch.store(epoch, Ordering::Relaxed);
    }

    fn ran(&self, took: Duration) {
        self.cells.elapsed_ns.fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
        self.cells.activations.fetch_add(1, Ordering::Relaxed);
    }
}

/// One operator on one worker of this process.
#[derive(Clone, Debug)]
struct Seat {
    pipeline: String,
    operator: String,
    kind: String,
    worker: usize,
    meter: Meter,
    gauge: Gauge,
    /// Which ports feed it: the operator's name and the tag's number.
    fed_by: Vec<(String, usize)>,
}

/// Returns what tells a node from all others of its pipeline.
fn node_key(operator: &str, kind: &str) -> String {
    if kind.starts_with("sink") { format!("{SINK}{operator}") } else { operator.to_owned() }
}

/// What every operator of this process, and as far as they told of the others, does.
#[derive(Clone, Default)]
pub struct Stats {
    seats: Arc<Mutex<Vec<Seat>>>,
    /// What the other processes told last, by their index.
    told: Arc<Mutex<BTreeMap<usize, Told>>>,
}

/// What one process tells another: its rows, and what was given out by each port.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Told {
    rows: Vec<OperatorReport>,
    /// What keeps its work waiting.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// Pipeline, operator, tag: records given out.
    given: Vec<(String, String, usize, u64)>,
}

impl Stats {
    /// Registers an operator of this worker.
    pub fn seat(
        &self,
        plan: &Plan,
        operator: &str,
        kind: &str,
        worker: usize,
        tags: usize,
        fed_by: Vec<(String, usize)>,
    ) -> (Meter, Gauge) {
        let (meter, gauge) = (Meter::new(tags), Gauge::default());
        let seat = Seat {
            pipeline: plan.name.clone(),
            operator: operator.to_owned(),
            kind: kind.to_owned(),
            worker,
            meter: meter.clone(),
            gauge: gauge.clone(),
            fed_by,
        };
        lock(&self.seats).push(seat);
        (meter, gauge)
    }

    /// Returns what this process knows of itself, to be told to process 0.
    pub fn tell(&self) -> Told {
        let seats = lock(&self.seats).clone();
        let row = |seat: &Seat| {
            let readings = seat.meter.read();
            let cells = &seat.gauge.cells;
            let epoch = cells.frontier_epoch.load(Ordering::Relaxed);
            let chunk = cells.frontier_chunk.load(Ordering::Relaxed);
            OperatorReport {
                pipeline: seat.pipeline.clone(),
                operator: seat.operator.clone(),
                kind: seat.kind.clone(),
                worker: seat.worker,
                records_in: readings.records_in,
                records_out: readings.records_out,
                bytes_in: readings.bytes_in,
                bytes_out: readings.bytes_out,
                rejected: readings.rejected,
                elapsed_ns: cells.elapsed_ns.load(Ordering::Relaxed),
                activations: cells.activations.load(Ordering::Relaxed),
                backlog: 0,
                frontier: match epoch {
                    0 => Some((0, 0)),
                    1 => None,
                    epoch => Some((epoch - 2, chunk)),
                },
                state_entries: readings.state_entries,
                state_bytes: readings.state_bytes,
                retained_bytes: 0,
            }
        };
        let given = |seat: &Seat| {
            (0..seat.meter.tags())
                .map(|tag| {
                    let given = seat.meter.given(tag);
                    (seat.pipeline.clone(), node_key(&seat.operator, &seat.kind), tag, given)
                })
                .collect::<Vec<_>>()
        };
        Told {
            rows: seats.iter().map(row).collect(),
            given: seats.iter().flat_map(given).collect(),
            conditions: Vec::new(),
        }
    }

    /// Takes what another process told.
    pub fn hear(&self, process: usize, told: Told) {
        lock(&self.told).insert(process, told);
    }

    /// Returns every operator on every worker, in the order of the plan, then of the workers.
    pub fn operators(&self) -> Vec<OperatorReport> {
        let own = self.tell();
        let mut all = vec![own];
        all.extend(lock(&self.told).values().cloned());
        let mut given: HashMap<(&str, &str, usize), u64> = HashMap::new();
        let mut taken: HashMap<(&str, String), u64> = HashMap::new();
        for told in &all {
            for (pipeline, operator, tag, count) in &told.given {
                *given.entry((pipeline, operator, *tag)).or_default() += count;
            }
            for row in &told.rows {
                let key = (&*row.pipeline, node_key(&row.operator, &row.kind));
                *taken.entry(key).or_default() += row.records_in;
            }
        }
        // Every process has the same operators, so the feeds of this one speak for all.
        let mut backlogs: HashMap<(String, String), u64> = HashMap::new();
        let mut order: Vec<(String, String)> = Vec::new();
        for seat in lock(&self.seats).iter() {
            let key = (seat.pipeline.clone(), node_key(&seat.operator, &seat.kind));
            if backlogs.contains_key(&key) {
                continue;
            }
            let sent: u64 = seat
                .fed_by
                .iter()
                .filter_map(|(from, tag)| given.get(&(&*seat.pipeline, &**from, *tag)))
                .sum();
            let got = taken.get(&(&*key.0, key.1.clone())).copied().unwrap_or(0);
            let backlog = if seat.fed_by.is_empty() { 0 } else { sent.saturating_sub(got) };
            order.push(key.clone());
            backlogs.insert(key, backlog);
        }
        let mut rows: Vec<OperatorReport> = all.iter().flat_map(|told| told.rows.clone()).collect();
        for row in &mut rows {
            let key = (row.pipeline.clone(), node_key(&row.operator, &row.kind));
            row.backlog = backlogs.get(&key).copied().unwrap_or(0);
        }
        let place = |row: &OperatorReport| {
            let key = node_key(&row.operator, &row.kind);
            order.iter().position(|(pipeline, node)| *pipeline == row.pipeline && *node == key)
        };
        rows.sort_by_key(|row| (place(row), row.worker));
        rows
    }

    /// Lets the gauges of this worker follow the dataflow's schedule log. To be called before the
    /// dataflows are built.
    pub fn follow(&self, worker: &Worker) {
        let Some(mut log) = worker.log_register() else { return };
        let seats = Arc::clone(&self.seats);
        let index = worker.index();
        let followed = Rc::new(RefCell::new(Followed::default()));
        log.insert::<TimelyEventBuilder, _>("timely", move |_upto, events| {
            let Some(events) = events else { return };
            let mut followed = followed.borrow_mut();
            for (at, event) in events.drain(..) {
                followed.take(at, event, &seats, index);
            }
        });
    }
}

/// What the schedule log has said so far.
#[derive(Default)]
struct Followed {
    /// The node, as `pipeline/operator`, of each timely operator of ours.
    names: HashMap<usize, String>,
    gauges: HashMap<usize, Option<Gauge>>,
    started: HashMap<usize, Duration>,
}

impl Followed {
    fn take(&mut self, at: Duration, event: TimelyEvent, seats: &Mutex<Vec<Seat>>, worker: usize) {
        match event {
            TimelyEvent::Operates(operator) => {
                if let Some((_, node)) = operator.name.rsplit_once(' ') {
                    self.names.insert(operator.id, node.to_owned());
                }
            }
            TimelyEvent::Schedule(schedule) if schedule.start_stop == StartStop::Start => {
                self.started.insert(schedule.id, at);
            }
            TimelyEvent::Schedule(schedule) => {
                let Some(start) = self.started.remove(&schedule.id) else { return };
                let names = &self.names;
                let gauge = self.gauges.entry(schedule.id).or_insert_with(|| {
                    let (pipeline, operator) = names.get(&schedule.id)?.split_once('/')?;
                    let seats = lock(seats);
                    let seat = seats.iter().find(|seat| {
                        seat.worker == worker
                            && seat.pipeline == pipeline
                            && node_key(&seat.operator, &seat.kind) == operator
                    })?;
                    Some(seat.gauge.clone())
                });
                if let Some(gauge) = gauge {
                    gauge.ran(at.saturating_sub(start));
                }
            }
            _ => {}
        }
    }
}

/// Returns the ports that feed a node, by name.
pub fn feeds(plan: &Plan, inputs: &[crate::plan::Input]) -> Vec<(String, usize)> {
    inputs
        .iter()
        .map(|input| (plan.node_name(input.from.node).to_owned(), input.from.port))
        .collect()
}

/// Returns the word for the kind of a node.
pub fn kind_word(plan: &Plan, node: NodeId) -> String {
    match node {
        NodeId::Source(at) => {
            use tidemill_operators::format::Format;
            let format = match plan.sources[at].read.format {
                Format::Text => "text",
                Format::Jsonl => "jsonl",
                Format::Csv(_) => "csv",
            };
            format!("source {format}")
        }
        NodeId::Operator(at) => plan.operators[at].kind.word().to_owned(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic ends the process; what is half written in a list of counters harms nobody until then.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
