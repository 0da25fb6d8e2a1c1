//! Lines: each part's end of each pipeline.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use tidemill_store::{Folders, Frame};
use timely::scheduling::activate::SyncActivator;

use crate::checkpoint::find::Base;
use crate::checkpoint::keeper::PackPlace;
use crate::checkpoint::restore::restore_table;
use crate::checkpoint::schedule::Schedule;
use crate::checkpoint::{table_fingerprint, table_state};
use crate::dry_run::TableShape;
use crate::engine::tables::Place;
use crate::graph::BEHIND_STATE;
use crate::ingest::backlog::Backlog;
use crate::ingest::coordinator::Command;
use crate::intake::{self, Patterns};
use crate::ledger;
use crate::plan::{OnDelete, Plan, SinkKind, SinkPlan, SourcePlan};
use crate::publish::{self, Published};
use crate::receipt;
use crate::sink::table::{Columns, Table};
use crate::start::{Config, StartError};

/// Returns the publisher's lines, with the tables as their checkpoints have them, and where these are
/// read.
pub(super) fn publisher_lines(
    plans: &[Plan],
    folders: &[Folders],
    found: &[Base],
    generation: u64,
    backlogs: &[Backlog],
    finished: &[u64],
) -> Result<(Vec<publish::Line>, Vec<Place>), StartError> {
    let (mut lines, mut places) = (Vec::with_capacity(plans.len()), Vec::new());
    let ends = found.iter().zip(backlogs).zip(finished);
    for ((plan, folders), ((found, backlog), finished)) in plans.iter().zip(folders).zip(ends) {
        let mut tables = BTreeMap::new();
        for (at, sink) in plan.sinks.iter().enumerate() {
            let SinkKind::Table { format, key, schema, publish_every, .. } = &sink.kind else {
                continue;
            };
            let Some(format) = format else {
                let columns = Columns::new(schema.clone(), key);
                places.push(Place::without_rows(lines.len(), &sink.name, columns));
                continue;
            };
            let mut table = Table::new(format.clone(), schema.clone(), key);
            let packs = PackPlace {
                folder: found.folder.clone(),
                generation,
                state: table_state(&sink.name),
                fingerprint: table_fingerprint(plan, at),
                suffix: format!("t{at}"),
            };
            if let Some(manifest) = found.manifest.as_ref().filter(|_| found.keeps(&packs.state)) {
                restore_table(&found.folder, manifest, &packs.state, &mut table).map_err(
                    |source| StartError::Checkpoint { pipeline: plan.name.clone(), source },
                )?;
            }
            places.push(Place {
                pipeline: lines.len(),
                name: sink.name.clone(),
                columns: table.columns(),
                shared: Some(table.shared()),
            });
            let file_name = Table::file_name(&sink.name, format);
            let every = *publish_every;
            let restored = if found.keeps(&packs.state) { found.epoch() } else { 0 };
            let published = Published {
                sink: sink.name.clone(),
                file_name,
                table,
                packs,
                shows_nothing: sink.name != BEHIND_STATE,
                every,
                last: None,
                took: Duration::ZERO,
                restored,
                retry: sink.retry,
                refused: None,
            };
            tables.insert(at, published);
        }
        let logs = plan.changelogs().map(|(sink, _)| plan.sinks[sink].retry);
        let policies = plan.sinks.iter().map(|sink| sink.retry).chain(logs);
        lines.push(publish::Line {
            name: plan.name.clone(),
            plan_hash: plan.hash.clone(),
            folders: folders.clone(),
            retaining: retaining(plan),
            tables,
            finished_epoch: *finished,
            backlog: backlog.clone(),
            retry: plan.output_folders().into_iter().zip(policies).collect(),
            queue: VecDeque::new(),
            refused: None,
        });
    }
    Ok((lines, places))
}

/// Returns the sources whose inputs get a second name in `retained/`.
pub(super) fn retaining(plan: &Plan) -> Vec<String> {
    let links = |source: &&SourcePlan| source.taking.correcting.retention.links();
    plan.sources.iter().filter(links).map(|source| source.name.clone()).collect()
}

/// Returns the sources whose files have lines that are no records.
pub(super) fn frames(plan: &Plan) -> Vec<(String, Frame)> {
    let all = plan.sources.iter().map(|source| (source.name.clone(), source.frame()));
    all.filter(|(_, frame)| !frame.is_empty()).collect()
}

/// Returns the ledger's lines.
pub(super) fn ledger_lines(
    config: &Config,
    folders: &[Folders],
    commands: Vec<Sender<Command>>,
    wakes: Vec<SyncActivator>,
    found: Vec<Base>,
    backlogs: &[Backlog],
) -> Vec<ledger::Line> {
    let ends = commands.into_iter().zip(wakes).zip(found).zip(backlogs);
    let line = |((plan, folders), (((commands, wake), found), backlog)): ((&Plan, &Folders), _)| {
        let found: Base = found;
        ledger::Line {
            name: plan.name.clone(),
            folders: folders.clone(),
            sources: plan.sources.iter().map(|source| source.name.clone()).collect(),
            sinks: plan.output_folders(),
            keeps_state: plan.operators.iter().any(|operator| operator.kind.keeps_state()),
            book: receipt::book(plan),
            commands,
            wake,
            backlog: Backlog::clone(backlog),
            plan_hash: plan.hash.clone(),
            stateful: (0..plan.sources.len()).map(|at| plan.keeps_state_of(at)).collect(),
            retry: plan.sources.iter().map(|one| one.taking.retry).collect(),
            arrival_refuses: plan.sources.iter().map(|one| one.taking.arrival.refuses()).collect(),
            retention: plan.sources.iter().map(|one| one.taking.correcting.retention).collect(),
            restored: found.reads_from(),
            // Changelogs are not compared.
            linear: (plan.sinks.iter().map(|sink| plan.is_linear(sink)))
                .chain(plan.changelogs().map(|_| false))
                .collect(),
            versions: plan.versions(),
            read_again: HashSet::new(),
            skips: false,
            checkpoints: found.folder,
            behind: VecDeque::new(),
            trial: None,
            tables: table_shapes(plan),
            held: VecDeque::new(),
            corrects: false,
            // What an earlier life left.
            may_discard: true,
            schedule: match found.partial {
                None => Schedule::new(found.states, config.checkpoint_every, found.manifest),
                Some(partial) => {
                    Schedule::behind(found.states, config.checkpoint_every, partial.epoch)
                }
            },
        }
    };
    config.plans.iter().zip(folders).zip(ends).map(line).collect()
}

/// Returns the columns of the tables of a plan, by the sink's place.
fn table_shapes(plan: &Plan) -> BTreeMap<usize, TableShape> {
    let shape = |(at, sink): (usize, &SinkPlan)| {
        let SinkKind::Table { key, schema, .. } = &sink.kind else { return None };
        let columns = Arc::new(Columns::new(schema.clone(), key));
        Some((at, TableShape { name: sink.name.clone(), columns }))
    };
    plan.sinks.iter().enumerate().filter_map(shape).collect()
}

/// Returns the sources whose inputs are removed when somebody deletes them from `processed/`.
fn retracts(plan: &Plan) -> Vec<String> {
    let retracts = |source: &&SourcePlan| source.taking.correcting.on_delete == OnDelete::Retract;
    plan.sources.iter().filter(retracts).map(|source| source.name.clone()).collect()
}

/// Returns the intake's lines.
pub(super) fn intake_lines(
    plans: &[Plan],
    folders: Vec<Folders>,
    patterns: Vec<Patterns>,
) -> Vec<intake::Line> {
    let line = |((plan, folders), patterns): ((&Plan, Folders), Patterns)| intake::Line {
        name: plan.name.clone(),
        folders,
        patterns,
        retracts: retracts(plan),
    };
    plans.iter().zip(folders).zip(patterns).map(line).collect()
}
