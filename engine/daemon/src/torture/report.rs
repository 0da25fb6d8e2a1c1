//! Report: what a campaign found, as a table for people and as JSON for programs.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::outcome::Verdict;
use super::site::Shape;

/// The most differences that are told.
const DIFFERENCES_MAX: usize = 50;

/// What the torture of one shape found.
#[derive(Debug, Default, Serialize)]
pub struct Tally {
    /// Processes.
    pub processes: usize,
    /// Workers in each.
    pub workers: usize,
    /// Kills, at random instants and at failpoints, that ended a life.
    pub kills: usize,
    /// How many of them hit one process of several and not all.
    pub kills_of_one: usize,
    /// Random kills that came after the end of their life.
    pub late: usize,
    /// Starts after a kill.
    pub recoveries: usize,
    /// Homes that were compared.
    pub homes: usize,
    /// What random kills hit: the first word of the last failpoint before them.
    pub phases: BTreeMap<String, usize>,
    /// The failpoints at which a life was killed.
    pub points: Vec<&'static str>,
    /// How many recoveries from them were killed too.
    pub points_twice: usize,
    /// Failpoints that this pipeline does not reach with these inputs.
    pub unreached: Vec<&'static str>,
    /// What was missing, over all homes.
    pub lost: usize,
    /// What was there too often.
    pub doubled: usize,
    /// What had other bytes.
    pub different: usize,
    /// What was left where nothing may be.
    pub left: usize,
    /// Lives that ended as they should not.
    pub failed: usize,
    /// The differences, and in which kept home each is.
    pub differences: Vec<String>,
    /// The homes in which something differs.
    pub kept: Vec<PathBuf>,
    /// How long an undisturbed run takes, in seconds.
    pub undisturbed_seconds: f64,
    /// How long it all took, in seconds.
    pub seconds: f64,
}

impl Tally {
    /// Returns an empty tally of a shape.
    pub fn new(shape: Shape) -> Self {
        let Shape { processes, workers } = shape;
        Self { processes, workers, ..Self::default() }
    }

    /// Counts one compared home, and where it is if something is wrong with it.
    pub fn count(&mut self, verdict: &Verdict, kept: PathBuf) {
        self.homes += 1;
        self.lost += verdict.lost.len();
        self.doubled += verdict.doubled.len();
        self.different += verdict.different.len();
        self.left += verdict.left.len();
        self.failed += verdict.failed.len();
        if verdict.is_equal() {
            return;
        }
        for line in verdict.lines() {
            if self.differences.len() < DIFFERENCES_MAX {
                self.differences.push(format!("{}: {line}", kept.display()));
            }
        }
        self.kept.push(kept);
    }

    /// Returns whether everything is equal.
    pub fn is_equal(&self) -> bool {
        self.kept.is_empty()
    }
}

/// What a campaign found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The pipeline.
    pub pipeline: String,
    /// The inputs of each home.
    pub inputs: usize,
    /// How often an input is replaced or removed in each home.
    pub corrected: usize,
    /// What the dice were thrown with.
    pub seed: u64,
    /// Whether every home ended like the undisturbed one.
    pub equal: bool,
    /// What was found for each shape.
    pub shapes: Vec<Tally>,
}

impl Report {
    /// Returns the report for people.
    pub fn text(&self) -> String {
        let mut rows = vec![
            [
                "shape",
                "kills",
                "recoveries",
                "homes",
                "lost",
                "doubled",
                "different",
                "left",
                "failed",
                "time",
            ]
            .map(str::to_owned),
        ];
        for one in &self.shapes {
            rows.push([
                Shape { processes: one.processes, workers: one.workers }.to_string(),
                one.kills.to_string(),
                one.recoveries.to_string(),
                one.homes.to_string(),
                one.lost.to_string(),
                one.doubled.to_string(),
                one.different.to_string(),
                one.left.to_string(),
                one.failed.to_string(),
                format!("{:.1} s", one.seconds),
            ]);
        }
        let corrected = match self.corrected {
            0 => String::new(),
            times => format!(", {times} times replaced or removed"),
        };
        let Self { pipeline, inputs, seed, .. } = self;
        let mut text = format!("{pipeline}, {inputs} inputs{corrected}, seed {seed}\n\n");
        text += &table(&rows);
        for one in &self.shapes {
            text += &details(one);
        }
        text += if self.equal {
            "\nEverything is equal: nothing lost, nothing doubled, every byte as in a run that nobody \
             disturbed.\n"
        } else {
            "\nNOT EQUAL. The homes named above are kept, with what each life logged in lives/.\n"
        };
        text
    }
}

fn table(rows: &[[String; 10]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..10).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            // A String takes everything.
            let _ = match column {
                0 => write!(text, "{cell:<width$}"),
                _ => write!(text, "  {cell:>width$}"),
            };
        }
        text.push('\n');
    }
    text
}

fn details(one: &Tally) -> String {
    let mut text = format!("\n{}:\n", Shape { processes: one.processes, workers: one.workers });
    if !one.phases.is_empty() {
        let phases: Vec<String> =
            one.phases.iter().map(|(phase, count)| format!("{phase} {count}")).collect();
        let _ = writeln!(
            text,
            "  random kills hit after: {}; {} came after the end; {} hit one process of several",
            phases.join(", "),
            one.late,
            one.kills_of_one
        );
    }
    if !one.points.is_empty() {
        let _ = writeln!(
            text,
            "  killed at {} failpoints, and {} times again in the recovery from it",
            one.points.len(),
            one.points_twice
        );
    }
    if !one.unreached.is_empty() {
        let _ = writeln!(text, "  never reached here: {}", one.unreached.join(", "));
    }
    for line in &one.differences {
        let _ = writeln!(text, "  {line}");
    }
    text
}

/// Returns seconds as a number for reports.
pub fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_counted_told_and_its_home_named() {
        let mut tally = Tally::new(Shape { processes: 2, workers: 3 });
        tally.count(&Verdict::default(), "fine".into());
        assert!(tally.is_equal());
        let verdict = Verdict {
            lost: vec!["out/a".into(), "out/b".into()],
            failed: vec!["exit status: 70".into()],
            ..Verdict::default()
        };
        tally.count(&verdict, "bad".into());
        assert!(!tally.is_equal());
        assert_eq!((tally.homes, tally.lost, tally.doubled, tally.failed), (2, 2, 0, 1));
        let report = Report {
            pipeline: "p".into(),
            inputs: 4,
            corrected: 0,
            seed: 9,
            equal: false,
            shapes: vec![tally],
        };
        let text = report.text();
        for part in ["-n 2 -w 3", "bad: lost: out/b", "bad: failed: exit status: 70", "NOT EQUAL"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }
}
