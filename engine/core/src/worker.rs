//! Worker: the loop of one timely worker.
//!
//! It steps the dataflows of all pipelines until they end, parks when nothing is to do, and wakes
//! what waits for the sinks when their frontier has moved. It never blocks on anything else.

use std::time::{Duration, Instant};

use timely::worker::Worker;

use crate::render::Rendered;

/// How long a worker sleeps when nothing wakes it.
const PARK: Duration = Duration::from_millis(250);

/// How often the frontiers that statistics show are refreshed.
const REFRESH: Duration = Duration::from_millis(20);

/// Runs the dataflows to their end.
pub fn run(worker: &mut Worker, mut pipelines: Vec<Rendered>) {
    let mut refreshed = Instant::now();
    while worker.has_dataflows() {
        worker.step_or_park(Some(PARK));
        for pipeline in &mut pipelines {
            let flow = pipeline.flow.least();
            if flow != pipeline.flow_seen {
                pipeline.flow_seen = flow;
                pipeline.waiting.iter().for_each(|waiting| waiting.activate());
            }
        }
        if refreshed.elapsed() >= REFRESH {
            refreshed = Instant::now();
            show_frontiers(&pipelines);
        }
    }
    show_frontiers(&pipelines);
}

fn show_frontiers(pipelines: &[Rendered]) {
    for (probe, gauge) in pipelines.iter().flat_map(|pipeline| &pipeline.frontiers) {
        gauge.frontier(probe.with_frontier(|frontier| frontier.first().copied()));
    }
}
