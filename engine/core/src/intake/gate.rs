//! Gate: the complete files of one pipeline that wait for something beside them: a marker, a manifest, the
//! rest of their set. Pure: it is told what lies in the folder and says what may be taken.
//!
//! Derived state: a start finds all of it again in the folder. Never opens a file. One look costs as much
//! as files wait, and is made only when something has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use super::manifest::Entry;
use super::waiting::Seen;
use crate::code::FileCode;
use crate::plan::{Arrival, HashKind, Overdue, SetOf};
use crate::report::Condition;

/// Sets and companions that are told one by one, at most, of each kind.
const TOLD_MAX: usize = 5;

/// A set that may be taken, or is refused as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ready {
    /// The place of its source in the plan.
    pub(super) source: usize,
    /// What it is called.
    pub(super) label: String,
    /// Its files, by name.
    pub(super) names: Vec<String>,
    /// Why it is set aside without being read.
    pub(super) refused: Option<String>,
}

/// What may be taken.
#[derive(Debug, Default)]
pub(super) struct Passed {
    /// Files that are of no set: source, name, when they were seen.
    pub(super) files: Vec<(usize, String, Seen)>,
    /// Sets.
    pub(super) sets: Vec<Ready>,
}

/// What a file is expected to be, and by which manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expected {
    /// The name of the manifest.
    pub(super) manifest: String,
    /// Which hash it holds.
    pub(super) kind: HashKind,
    /// What it says.
    pub(super) entry: Entry,
}

/// The gate of one pipeline.
pub(super) struct Gate {
    pipeline: String,
    /// By the place of the source in the plan: its name and what its files wait for.
    sources: Vec<(String, Arrival)>,
    held: BTreeMap<String, Held>,
    markers: BTreeMap<String, SystemTime>,
    manifests: BTreeMap<String, Listing>,
    changed: bool,
    conditions: Vec<Condition>,
}

struct Held {
    source: usize,
    seen: Seen,
    since: SystemTime,
}

/// A manifest that lies in the folder.
struct Listing {
    source: usize,
    since: SystemTime,
    /// What it lists, or why it cannot be read.
    entries: Result<BTreeMap<String, Entry>, String>,
    /// Which of that was taken.
    taken: BTreeSet<String>,
}

/// Names that wait for one thing, and since when the first does.
#[derive(Default)]
struct Waits<'g> {
    names: BTreeSet<&'g str>,
    since: Option<SystemTime>,
}

impl<'g> Waits<'g> {
    fn add(&mut self, name: &'g str, since: SystemTime) {
        self.names.insert(name);
        self.since = Some(self.since.map_or(since, |before| before.min(since)));
    }
}

impl Gate {
    /// Returns the gate of a pipeline whose sources are called so and wait for this.
    pub(super) fn new<'s>(
        pipeline: &str,
        sources: impl Iterator<Item = (&'s str, &'s Arrival)>,
    ) -> Self {
        Self {
            pipeline: pipeline.to_owned(),
            sources: sources.map(|(name, arrival)| (name.to_owned(), arrival.clone())).collect(),
            held: BTreeMap::new(),
            markers: BTreeMap::new(),
            manifests: BTreeMap::new(),
            changed: false,
            conditions: Vec::new(),
        }
    }

    /// Returns whether files of a source wait for anything.
    pub(super) fn asks(&self, source: usize) -> bool {
        self.sources.get(source).is_some_and(|(_, arrival)| !arrival.is_empty())
    }

    /// Returns whether any files do.
    pub(super) fn is_open(&self) -> bool {
        self.sources.iter().all(|(_, arrival)| arrival.is_empty())
    }

    /// A complete file lies there.
    pub(super) fn file(&mut self, name: &str, source: usize, seen: Seen, since: SystemTime) {
        self.held.insert(name.to_owned(), Held { source, seen, since });
        self.changed = true;
    }

    /// A marker lies there.
    pub(super) fn marker(&mut self, name: &str, since: SystemTime) {
        self.changed |= self.markers.insert(name.to_owned(), since).is_none();
    }

    /// A complete manifest of a source lies there.
    pub(super) fn manifest(
        &mut self,
        name: &str,
        source: usize,
        entries: Result<BTreeMap<String, Entry>, String>,
        since: SystemTime,
    ) {
        let before = self.manifests.remove(name).map(|listing| listing.taken).unwrap_or_default();
        let is_listed = |file: &String| entries.as_ref().is_ok_and(|all| all.contains_key(file));
        let taken = before.into_iter().filter(is_listed).collect();
        self.manifests.insert(name.to_owned(), Listing { source, since, entries, taken });
        self.changed = true;
    }

    /// Something of this name is not there any more, or is not what it was.
    pub(super) fn gone(&mut self, name: &str) {
        let held = self.held.remove(name).is_some();
        let marker = self.markers.remove(name).is_some();
        self.changed |= self.manifests.remove(name).is_some() || held || marker;
    }

    /// Files were accepted, or were in an earlier life: returns the names of the markers and manifests
    /// that have done their work.
    pub(super) fn taken<'n>(
        &mut self,
        source: usize,
        names: impl IntoIterator<Item = &'n str>,
    ) -> Vec<String> {
        let mut done = Vec::new();
        let Some((_, arrival)) = self.sources.get(source) else { return done };
        for name in names {
            let marker = arrival.marker.as_ref().map(|marker| marker.of(name));
            done.extend(marker.filter(|marker| self.markers.contains_key(marker)));
            for listing in self.manifests.values_mut().filter(|one| one.source == source) {
                if listing.entries.as_ref().is_ok_and(|entries| entries.contains_key(name)) {
                    listing.taken.insert(name.to_owned());
                }
            }
        }
        let is_through = |listing: &Listing| {
            listing.entries.as_ref().is_ok_and(|entries| entries.len() == listing.taken.len())
        };
        let through = self.manifests.iter().filter(|(_, listing)| is_through(listing));
        done.extend(through.map(|(name, _)| name.clone()));
        done
    }

    /// Returns what the listed files that are not there are called, by source, and since when their
    /// manifest is there: an earlier life may have taken them.
    pub(super) fn missing(&self) -> Vec<(usize, String, SystemTime)> {
        let missing = |listing: &Listing| {
            let names: Vec<_> = self
                .left(listing)
                .filter(|name| !self.held.contains_key(*name))
                .map(|name| (listing.source, name.to_owned(), listing.since))
                .collect();
            names
        };
        self.manifests.values().flat_map(missing).collect()
    }

    /// Returns the markers beside which no file lies, and since when they are there.
    pub(super) fn markers_alone(&self) -> impl Iterator<Item = (&str, SystemTime)> {
        let wanted: BTreeSet<String> = self
            .held
            .iter()
            .filter_map(|(name, held)| Some(self.sources[held.source].1.marker.as_ref()?.of(name)))
            .collect();
        self.markers
            .iter()
            .filter(move |(name, _)| !wanted.contains(*name))
            .map(|(name, since)| (name.as_str(), *since))
    }

    /// Returns the name of the marker of a file, if its source asks for one.
    pub(super) fn marker_of(&self, source: usize, name: &str) -> Option<String> {
        Some(self.sources.get(source)?.1.marker.as_ref()?.of(name))
    }

    /// Returns what a manifest says of a file, if its source asks for one.
    pub(super) fn expected(&self, source: usize, name: &str) -> Option<Expected> {
        let rule = self.sources.get(source)?.1.manifest.as_ref()?;
        let (manifest, entry) = self.listing_of(source, name)?;
        let (manifest, entry) = (manifest.to_owned(), entry.clone());
        Some(Expected { manifest, kind: rule.hash, entry })
    }

    /// Returns why files wait that are not taken yet.
    pub(super) fn conditions(&self) -> Vec<Condition> {
        self.conditions.clone()
    }

    /// Lets pass what may be taken at this time.
    pub(super) fn pass(&mut self, now: SystemTime) -> Passed {
        let mut passed = Passed::default();
        if !self.changed && !self.has_deadline() {
            return passed;
        }
        self.changed = false;
        let mut conditions = Vec::new();
        for source in 0..self.sources.len() {
            if self.asks(source) {
                self.pass_of(source, now, &mut passed, &mut conditions);
            }
        }
        self.tell_companions(&mut conditions);
        self.conditions = conditions;
        let of_sets = passed.sets.iter().flat_map(|set| &set.names);
        for name in passed.files.iter().map(|(_, name, _)| name).chain(of_sets) {
            self.held.remove(name);
        }
        passed
    }

    fn pass_of(
        &self,
        source: usize,
        now: SystemTime,
        passed: &mut Passed,
        conditions: &mut Vec<Condition>,
    ) {
        let (_, arrival) = &self.sources[source];
        let mut unmarked = Waits::default();
        let mut unlisted = Waits::default();
        let mut sets: BTreeMap<String, Waits<'_>> = BTreeMap::new();
        for (name, held) in self.held.iter().filter(|(_, held)| held.source == source) {
            let is_unmarked =
                |marker: &crate::plan::Marker| !self.markers.contains_key(&marker.of(name));
            if arrival.marker.as_ref().is_some_and(is_unmarked) {
                unmarked.add(name, held.since);
                continue;
            }
            let listed = self.listing_of(source, name).map(|(manifest, _)| manifest);
            if arrival.manifest.is_some() && listed.is_none() {
                unlisted.add(name, held.since);
                continue;
            }
            let label = match arrival.set.as_ref().map(|set| &set.of) {
                Some(SetOf::Names { pattern, .. }) => pattern.set_of(name),
                Some(SetOf::Manifest) => listed.map(str::to_owned),
                None => None,
            };
            match label {
                Some(label) => sets.entry(label).or_default().add(name, held.since),
                None => passed.files.push((source, name.clone(), held.seen)),
            }
        }
        let mut incomplete = Vec::new();
        for (label, waits) in sets {
            incomplete.extend(self.pass_set(source, label, &waits, now, passed));
        }
        self.tell_waiting(source, &unmarked, &unlisted, conditions);
        let more = incomplete.len().saturating_sub(TOLD_MAX);
        incomplete.truncate(TOLD_MAX);
        if let Some(last) = incomplete.last_mut().filter(|_| more > 0) {
            last.text.push_str(&format!("; and {more} more sets"));
        }
        conditions.extend(incomplete);
    }

    /// Lets a set pass that is complete, or late; else returns what it waits for.
    fn pass_set(
        &self,
        source: usize,
        label: String,
        waits: &Waits<'_>,
        now: SystemTime,
        passed: &mut Passed,
    ) -> Option<Condition> {
        let (source_name, arrival) = &self.sources[source];
        let rule = arrival.set.as_ref()?;
        let needed = match (&rule.of, self.manifests.get(&label)) {
            (SetOf::Names { count, .. }, _) => *count,
            (SetOf::Manifest, Some(listing)) => self.left(listing).count(),
            (SetOf::Manifest, None) => return None,
        };
        let here = waits.names.len();
        if here >= needed {
            // What is there beyond that begins another set.
            let names = waits.names.iter().take(needed).map(|name| (*name).to_owned()).collect();
            passed.sets.push(Ready { source, label, names, refused: None });
            return None;
        }
        let since = waits.since.unwrap_or(now);
        let late = rule
            .within
            .filter(|within| now.duration_since(since).is_ok_and(|waited| waited >= *within));
        let said = format!("{here} of {needed} files of the set {label} are there");
        if let (Some(within), Overdue::Quarantine) = (late, rule.then) {
            let refused =
                Some(format!("after {}, {said}{}", words(within), self.first_missing(&label)));
            let names = waits.names.iter().map(|name| (*name).to_owned()).collect();
            passed.sets.push(Ready { source, label, names, refused });
            return None;
        }
        let missing = needed - here;
        let late = late.map_or(String::new(), |within| format!(", late by its {}", words(within)));
        Some(Condition {
            code: Condition::WAITS_FOR_SET.into(),
            since,
            text: format!(
                "source {source_name} of {}: waiting for {missing} of {needed} of the set {label}{late}{}",
                self.pipeline,
                self.first_missing(&label)
            ),
            hint: "drop the rest; none of it is taken before".to_owned(),
        })
    }

    /// Says which listed file is the first that has not come.
    fn first_missing(&self, manifest: &str) -> String {
        let Some(listing) = self.manifests.get(manifest) else { return String::new() };
        let first = self.left(listing).find(|name| !self.held.contains_key(*name));
        first.map_or(String::new(), |name| format!(" (first missing: {name})"))
    }

    fn tell_waiting(
        &self,
        source: usize,
        unmarked: &Waits<'_>,
        unlisted: &Waits<'_>,
        conditions: &mut Vec<Condition>,
    ) {
        let (source_name, arrival) = &self.sources[source];
        let at = format!("source {source_name} of {}", self.pipeline);
        let mut tell = |code: &str, waits: &Waits<'_>, what: &str, hint: String| {
            let (Some(since), Some(first)) = (waits.since, waits.names.first()) else { return };
            let files = match waits.names.len() {
                1 => format!("{first} waits"),
                count => format!("{count} files wait, {first} first,"),
            };
            let text = format!("{at}: {files} in unprocessed/ for {what}");
            conditions.push(Condition { code: code.into(), since, text, hint });
        };
        if let Some(marker) = &arrival.marker {
            let first = unmarked.names.first().map(|name| marker.of(name)).unwrap_or_default();
            let hint = format!("drop {first} beside it when it is whole");
            tell(Condition::WAITS_FOR_MARKER, unmarked, "its marker", hint);
        }
        if let Some(manifest) = &arrival.manifest {
            let hint = format!("drop a manifest ({}) that lists it", manifest.names);
            tell(Condition::WAITS_FOR_MANIFEST, unlisted, "a manifest", hint);
        }
    }

    /// Tells markers without a file, manifests that cannot be read, and those whose files are missing.
    fn tell_companions(&self, conditions: &mut Vec<Condition>) {
        let alone: Vec<_> = self.markers_alone().collect();
        if let Some((first, since)) = alone.first() {
            let text = match alone.len() {
                1 => format!(
                    "{}: the marker {first} lies in unprocessed/ without its file",
                    self.pipeline
                ),
                count => format!(
                    "{}: {count} markers lie in unprocessed/ without their files, {first} first",
                    self.pipeline
                ),
            };
            let hint = "drop the file, or delete the marker".to_owned();
            conditions.push(Condition {
                code: Condition::MARKER_ALONE.into(),
                since: *since,
                text,
                hint,
            });
        }
        let mut told = 0;
        for (name, listing) in &self.manifests {
            let by_set = self.sources[listing.source].1.set.is_some();
            let is_started = self.left(listing).any(|file| self.held.contains_key(file));
            let text = match &listing.entries {
                Err(why) => format!("{}: the manifest {name} cannot be read: {why}", self.pipeline),
                // Its set says so.
                Ok(_) if by_set && is_started => continue,
                Ok(entries) => {
                    let missing = self.left(listing).filter(|file| !self.held.contains_key(*file));
                    match missing.count() {
                        0 => continue,
                        count => format!(
                            "{}: {count} of {} files of the manifest {name} have not come{}",
                            self.pipeline,
                            entries.len(),
                            self.first_missing(name)
                        ),
                    }
                }
            };
            told += 1;
            if told > TOLD_MAX {
                break;
            }
            let (code, hint) = match listing.entries {
                Err(_) => {
                    (Condition::BAD_MANIFEST, "drop a right one of the same name, or delete it")
                }
                Ok(_) => (Condition::WAITS_FOR_LISTED, "drop them, or delete the manifest"),
            };
            let hint = hint.to_owned();
            conditions.push(Condition { code: code.into(), since: listing.since, text, hint });
        }
    }

    /// Returns which listed files were not taken.
    fn left<'g>(&'g self, listing: &'g Listing) -> impl Iterator<Item = &'g str> {
        let entries = listing.entries.iter().flat_map(|entries| entries.keys());
        entries.filter(|name| !listing.taken.contains(*name)).map(String::as_str)
    }

    /// Returns the manifest that lists a file, the first by name, and what it says.
    fn listing_of(&self, source: usize, name: &str) -> Option<(&str, &Entry)> {
        self.manifests.iter().filter(|(_, listing)| listing.source == source).find_map(
            |(manifest, listing)| {
                let entry = listing.entries.as_ref().ok()?.get(name)?;
                Some((manifest.as_str(), entry)).filter(|_| !listing.taken.contains(name))
            },
        )
    }

    fn has_deadline(&self) -> bool {
        let within = |(_, arrival): &(String, Arrival)| {
            arrival.set.as_ref().is_some_and(|set| set.within.is_some())
        };
        !self.held.is_empty() && self.sources.iter().any(within)
    }
}

/// Returns the code and text with which the other files of a set are set aside.
pub(crate) fn with_its_set(label: &str, name: &str, code: &str, text: &str) -> (String, String) {
    let text = format!("the set {label} is set aside as a whole: {name}: {code}: {text}");
    (FileCode::SetFailed.word().to_owned(), text)
}

fn words(duration: Duration) -> String {
    match duration.as_secs() {
        0 => format!("{} ms", duration.as_millis()),
        seconds if seconds % 3600 == 0 => format!("{} h", seconds / 3600),
        seconds if seconds % 60 == 0 => format!("{} min", seconds / 60),
        seconds => format!("{seconds} s"),
    }
}

#[cfg(test)]
mod tests;
