//! Case: a pipeline, what is done to it round by round, and which files are left in the end.

use std::collections::BTreeMap;

use tidemill_bench::random::Random;

use super::files::{self, chance};
use super::grow;
use super::pipeline::{Pipeline, Source};

/// Rounds of a case. After each the process may end.
pub const ROUNDS: usize = 3;

/// Steps of a round, at most.
const STEPS_MAX: u64 = 3;

/// How a step is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By a client.
    Sent,
    /// By hand, in the folders.
    ByHand,
}

/// One thing that is done.
#[derive(Clone, Debug)]
pub enum Step {
    /// A file comes: new, or in place of the one that had its name.
    Put {
        /// Its name.
        name: String,
        /// Its bytes.
        body: Vec<u8>,
        /// Whether it is refused as a whole.
        is_damaged: bool,
        /// How it comes.
        way: Way,
    },
    /// A file is removed.
    Remove {
        /// Its name.
        name: String,
        /// How.
        way: Way,
    },
}

impl Step {
    /// Returns the name of the file.
    pub fn name(&self) -> &str {
        match self {
            Self::Put { name, .. } | Self::Remove { name, .. } => name,
        }
    }
}

/// A pipeline and what is done to it.
#[derive(Clone, Debug)]
pub struct Case {
    /// The pipeline.
    pub pipeline: Pipeline,
    /// The rounds, in order.
    pub rounds: Vec<Vec<Step>>,
}

impl Case {
    /// Returns the case of this number; everything in it follows from the seed.
    pub fn random(seed: u64, number: u64) -> Self {
        let random = &mut Random::new(seed, number);
        let mut pipeline = grow::pipeline(&format!("p{number}"), random);
        let by_hand = chance(random, 40);
        if by_hand {
            let settings = ["on_same_name: replace", "on_delete: retract", "corrections: forever"];
            for source in &mut pipeline.sources {
                source.settings.extend(settings.map(str::to_owned));
            }
        }
        let mut case = Self { pipeline, rounds: Vec::new() };
        for _ in 0..ROUNDS {
            let way = if by_hand && chance(random, 60) { Way::ByHand } else { Way::Sent };
            case.rounds.push(Vec::new());
            for _ in 0..=random.below(STEPS_MAX) {
                let step = case.step(way, random);
                case.rounds.last_mut().unwrap().push(step);
            }
        }
        case
    }

    /// Returns a next step.
    fn step(&self, way: Way, random: &mut Random) -> Step {
        let known: Vec<String> = self.survivors().into_keys().map(str::to_owned).collect();
        let drawn = random.below(10);
        if drawn < 5 && !known.is_empty() {
            let name = random.pick(&known).clone();
            if drawn < 2 {
                return Step::Remove { name, way };
            }
            let mut sources = self.pipeline.sources.iter();
            if let Some(source) = sources.find(|one| name.starts_with(&one.name)) {
                return put(name, source, way, random);
            }
        }
        let source = random.pick(&self.pipeline.sources);
        let name = format!("{}-{}.{}", source.name, random.below(1 << 30), source.format.word());
        put(name, source, way, random)
    }

    /// Returns the files that are left in the end.
    pub fn survivors(&self) -> BTreeMap<&str, &[u8]> {
        let mut left = BTreeMap::new();
        for step in self.rounds.iter().flatten() {
            match step {
                Step::Put { name, body, is_damaged: false, .. } => {
                    left.insert(name.as_str(), body.as_slice());
                }
                // What is refused changes nothing.
                Step::Put { .. } => {}
                Step::Remove { name, .. } => {
                    left.remove(name.as_str());
                }
            }
        }
        left
    }
}

fn put(name: String, source: &Source, way: Way, random: &mut Random) -> Step {
    let is_damaged = chance(random, 6);
    let body = if is_damaged { files::damaged(random) } else { files::readable(source, random) };
    Step::Put { name, body, is_damaged, way }
}
