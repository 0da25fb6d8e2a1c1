//! History: a pipeline and its cases, one after the other: what is done to it round by round, and
//! which files are left in the end. Behind each case everything that can be removed is removed.

use std::collections::BTreeMap;

use tidemill_bench::random::Random;

use super::files::{self, chance};
use super::grow;
use super::pipeline::{Pipeline, Source};

/// Cases of a history. Dataflows cost more to build than files to run, and what one case leaves
/// behind the next one would find.
pub const CASES: usize = 4;

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

    /// Returns the name of the file, if it is dropped into the folder.
    pub fn dropped(&self) -> Option<String> {
        match self {
            Self::Put { name, way: Way::ByHand, .. } => Some(name.clone()),
            _ => None,
        }
    }
}

/// What is done to a pipeline, from no files to a comparison.
#[derive(Clone, Debug, Default)]
pub struct Case {
    /// The rounds, in order.
    pub rounds: Vec<Vec<Step>>,
}

impl Case {
    /// Returns how many steps it has.
    pub fn steps(&self) -> usize {
        self.rounds.iter().map(Vec::len).sum()
    }

    /// Returns the files that are left in the end, if what is damaged is refused and nothing else.
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

/// A pipeline and its cases.
#[derive(Clone, Debug)]
pub struct History {
    /// The pipeline.
    pub pipeline: Pipeline,
    /// The cases, in order.
    pub cases: Vec<Case>,
}

impl History {
    /// Returns the history of this number; everything in it follows from the seed.
    pub fn random(seed: u64, number: u64) -> Self {
        let random = &mut Random::new(seed, number);
        let mut pipeline = grow::pipeline(&format!("p{number}"), random);
        let is_corrected = |source: &&mut Source| !source.is_append_only;
        let by_hand = !pipeline.is_of_order() && !pipeline.may_refuse() && chance(random, 40);
        if by_hand {
            let kept = *random.pick(&["forever", "{ days: 3 }"]);
            for source in pipeline.sources.iter_mut().filter(is_corrected) {
                source.settings.push("on_same_name: replace".to_owned());
                source.settings.push("on_delete: retract".to_owned());
                source.settings.push(format!("corrections: {kept}"));
            }
        }
        let mut history = Self { pipeline, cases: Vec::new() };
        for _ in 0..CASES {
            let case = history.case(by_hand, random);
            history.cases.push(case);
        }
        history
    }

    fn case(&self, by_hand: bool, random: &mut Random) -> Case {
        let mut case = Case::default();
        for _ in 0..ROUNDS {
            let way = if by_hand && chance(random, 60) { Way::ByHand } else { Way::Sent };
            case.rounds.push(Vec::new());
            for _ in 0..=random.below(STEPS_MAX) {
                let step = self.step(&case, way, random);
                case.rounds.last_mut().unwrap().push(step);
            }
        }
        case
    }

    /// Returns a next step of a case.
    fn step(&self, case: &Case, way: Way, random: &mut Random) -> Step {
        let sources = &self.pipeline.sources;
        let corrected = |name: &&str| {
            let source = sources.iter().find(|one| one.has(name));
            source.is_some_and(|one| !one.is_append_only)
        };
        let survivors = case.survivors();
        let known: Vec<&str> = survivors.into_keys().filter(corrected).collect();
        let drawn = random.below(10);
        // Of a file that may be refused it is not known whether it is there, nor who has its name.
        if drawn < 5 && !known.is_empty() && !self.pipeline.may_refuse() {
            let name = (*random.pick(&known)).to_owned();
            if drawn < 2 {
                return Step::Remove { name, way };
            }
            if let Some(source) = sources.iter().find(|one| one.has(&name)) {
                return put(name, source, way, random);
            }
        }
        let source = random.pick(sources);
        let name = format!("{}-{}.{}", source.name, random.below(1 << 30), source.format.word());
        put(name, source, way, random)
    }
}

fn put(name: String, source: &Source, way: Way, random: &mut Random) -> Step {
    let is_damaged = chance(random, 6);
    let body = if is_damaged { files::damaged(random) } else { files::readable(source, random) };
    Step::Put { name, body, is_damaged, way }
}
