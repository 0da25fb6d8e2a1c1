//! Shrink: the smallest history that still fails.

use std::time::{Duration, Instant};

use super::campaign::Failure;
use super::fleet::Life;
use super::history::{History, ROUNDS, Step};

/// How long the search may take.
const SHRINK_MAX: Duration = Duration::from_secs(90);

/// Searches for the smallest history that still fails; `wrong` runs one and says what is wrong.
pub fn smallest(
    mut failure: Failure,
    wrong: impl Fn(&History, &[Life]) -> Option<String>,
) -> Failure {
    let until = Instant::now() + SHRINK_MAX;
    let mut smaller = true;
    while smaller && Instant::now() < until {
        smaller = false;
        for (history, lives) in attempts(&failure.history, &failure.lives) {
            if Instant::now() >= until {
                break;
            }
            if let Some(text) = wrong(&history, &lives) {
                failure = Failure { history, lives, text, ..failure };
                smaller = true;
                break;
            }
        }
    }
    failure
}

/// Returns smaller histories, the ones that save most first.
fn attempts(history: &History, lives: &[Life]) -> Vec<(History, Vec<Life>)> {
    let mut all = Vec::new();
    if lives.iter().any(|life| *life != Life::CALM) {
        all.push((history.clone(), vec![Life::CALM; lives.len()]));
    }
    for case in 0..history.cases.len() {
        if history.cases.len() > 1 {
            let (mut smaller, mut lives) = (history.clone(), lives.to_vec());
            smaller.cases.remove(case);
            lives.drain((case * ROUNDS).min(lives.len())..((case + 1) * ROUNDS).min(lives.len()));
            all.push((smaller, lives));
        }
    }
    for at in 0..history.pipeline.sinks.len() {
        if let Some(pipeline) = history.pipeline.without_sink(at) {
            let mut cases = history.cases.clone();
            for round in cases.iter_mut().flat_map(|case| &mut case.rounds) {
                round.retain(|step| pipeline.sources.iter().any(|one| one.has(step.name())));
            }
            all.push((History { pipeline, cases }, lives.to_vec()));
        }
    }
    for place in places(history) {
        let mut smaller = history.clone();
        let gone = smaller.round(place).remove(place.2);
        // What removes or replaces it would have nothing to do.
        let later = smaller.cases[place.0].rounds.iter().flatten();
        if later.filter(|step| step.name() == gone.name()).count() > 0 {
            let name = gone.name();
            let mut without = smaller.clone();
            for round in &mut without.cases[place.0].rounds {
                round.retain(|step| step.name() != name);
            }
            all.push((without, lives.to_vec()));
            if !matches!(gone, Step::Remove { .. }) {
                continue;
            }
        }
        all.push((smaller, lives.to_vec()));
    }
    for (at, life) in lives.iter().enumerate() {
        if *life != Life::CALM {
            let mut calmer = lives.to_vec();
            calmer[at] = Life::CALM;
            all.push((history.clone(), calmer));
        }
    }
    for place in places(history) {
        let step = &history.cases[place.0].rounds[place.1][place.2];
        let Step::Put { name, body, is_damaged: false, .. } = step else { continue };
        if std::str::from_utf8(body).is_err() {
            continue; // packed: without a part of its bytes it would be damaged, which is another story
        }
        // The first line of a CSV file names its columns.
        let first = usize::from(name.ends_with(".csv"));
        for line in first..body.split(|byte| *byte == b'\n').count() {
            let kept = body.split_inclusive(|byte| *byte == b'\n').enumerate();
            let kept: Vec<u8> =
                kept.filter(|(at, _)| *at != line).flat_map(|(_, line)| line).copied().collect();
            if kept.len() < body.len() {
                let mut smaller = history.clone();
                if let Step::Put { body, .. } = &mut smaller.round(place)[place.2] {
                    *body = kept;
                }
                all.push((smaller, lives.to_vec()));
            }
        }
    }
    all
}

/// Case, round and step.
type Place = (usize, usize, usize);

impl History {
    fn round(&mut self, (case, round, _): Place) -> &mut Vec<Step> {
        &mut self.cases[case].rounds[round]
    }
}

fn places(history: &History) -> Vec<Place> {
    let mut places = Vec::new();
    for (case, one) in history.cases.iter().enumerate() {
        for (round, steps) in one.rounds.iter().enumerate() {
            places.extend((0..steps.len()).map(|at| (case, round, at)));
        }
    }
    places
}
