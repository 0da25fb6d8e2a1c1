//! What was measured, as a Markdown table and as JSON.
//!
//! It owns medians and quantiles. It never measures.

use std::fmt::Write;

use serde::Serialize;

use super::machine::Machine;
use super::process::Numbers;

/// Everything one call of the runner found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where.
    pub machine: Machine,
    /// Timed runs of each contestant.
    pub runs: usize,
    /// Workers of tidemill.
    pub workers: usize,
    /// One result a job.
    pub jobs: Vec<JobResult>,
}

/// One job.
#[derive(Clone, Debug, Serialize)]
pub struct JobResult {
    /// Its name.
    pub job: String,
    /// What it does.
    pub about: String,
    /// Number of input files.
    pub input_files: u64,
    /// Their bytes together.
    pub input_bytes: u64,
    /// One row a contestant.
    pub rows: Vec<Row>,
    /// For a job that measures files one by one: one row for each way in.
    pub latencies: Vec<Latency>,
}

/// One contestant in one job.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Who.
    pub contestant: String,
    /// What came out.
    pub outcome: Outcome,
}

/// What came out.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// Every run gave the reference answer.
    Measured {
        /// The runs in order.
        runs: Vec<Numbers>,
    },
    /// A run failed or gave another answer.
    Failed {
        /// What was wrong.
        why: String,
    },
    /// It could not be run here.
    Absent {
        /// What is missing.
        why: String,
    },
}

/// How long single files took by one way in.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    /// The way in, and until when.
    pub way: String,
    /// One number a file, sorted; empty if it failed.
    pub sorted_ms: Vec<f64>,
    /// What was wrong, or what is missing.
    pub problem: Option<Problem>,
}

/// Why there are no latencies.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "problem", rename_all = "snake_case")]
pub enum Problem {
    /// It was tried and went wrong.
    Failed {
        /// What was wrong.
        why: String,
    },
    /// It could not be tried here.
    Absent {
        /// What is missing.
        why: String,
    },
}

impl Report {
    /// Says whether any contestant failed; one that is absent has not failed.
    pub fn has_failures(&self) -> bool {
        self.jobs.iter().any(|job| {
            job.rows.iter().any(|row| matches!(row.outcome, Outcome::Failed { .. }))
                || job
                    .latencies
                    .iter()
                    .any(|latency| matches!(latency.problem, Some(Problem::Failed { .. })))
        })
    }

    /// Returns the report as Markdown.
    pub fn to_markdown(&self) -> String {
        let Machine { when, cores, processor, memory_mib, kernel, load, file_system } =
            &self.machine;
        let mut text = format!(
            "# Measured {when} UTC\n\n{cores} cores of {processor}, {memory_mib} MiB, kernel \
             {kernel}, {file_system}, load {load} before; {} runs in turns, tidemill with {} workers. Medians; every \
             answer was compared with that of the hand-written program.\n",
            self.runs, self.workers
        );
        for job in &self.jobs {
            job.append_markdown(&mut text);
        }
        text
    }
}

impl JobResult {
    fn append_markdown(&self, text: &mut String) {
        let Self { job, about, input_files, input_bytes, .. } = self;
        let mib = mebibytes(*input_bytes);
        // Writing into a string cannot fail, here and below.
        let _ = writeln!(
            text,
            "\n## {}: {about}\n\n{input_files} files, {mib:.0} MiB\n",
            job.to_uppercase()
        );
        if !self.rows.is_empty() {
            text.push_str("| | seconds | min-max | rate | of the limit | CPU s | peak MiB |\n");
            text.push_str("|---|---|---|---|---|---|---|\n");
        }
        let limit = self.rows.iter().find(|row| row.contestant == "limit").and_then(Row::median);
        let mut problems = Vec::new();
        for row in &self.rows {
            self.append_row(row, limit, text, &mut problems);
        }
        if !self.latencies.is_empty() {
            text.push_str(
                "| | files | p50 ms | p90 ms | p99 ms | max ms |\n|---|---|---|---|---|---|\n",
            );
        }
        for latency in &self.latencies {
            latency.append_row(text, &mut problems);
        }
        for problem in problems {
            let _ = writeln!(text, "\n- {}", problem.replace('\n', "\n  "));
        }
    }

    fn append_row(
        &self,
        row: &Row,
        limit: Option<f64>,
        text: &mut String,
        problems: &mut Vec<String>,
    ) {
        let name = &row.contestant;
        let runs = match &row.outcome {
            Outcome::Measured { runs } => runs,
            Outcome::Failed { why } => {
                let _ = writeln!(text, "| {name} | **FAILED** | | | | | |");
                problems.push(format!("**{name} FAILED**: {why}"));
                return;
            }
            Outcome::Absent { why } => {
                let _ = writeln!(text, "| {name} | not measured | | | | | |");
                problems.push(format!("{name} is not measured: {why}"));
                return;
            }
        };
        let walls = sorted(runs, |run| run.wall_seconds);
        let wall = quantile(&walls, 0.5);
        let share = limit.map_or("-".into(), |limit| format!("{:.2}", limit / wall));
        let _ = writeln!(
            text,
            "| {name} | **{wall:.3}** | {:.3}-{:.3} | {} | {share} | {:.2} | {:.0} |",
            quantile(&walls, 0.0),
            quantile(&walls, 1.0),
            self.rate(wall),
            quantile(&sorted(runs, |run| run.cpu_seconds), 0.5),
            quantile(&sorted(runs, |run| mebibytes(run.peak_bytes)), 0.5),
        );
    }

    /// Many small files count as files, few large ones as bytes.
    fn rate(&self, seconds: f64) -> String {
        if self.input_bytes / self.input_files.max(1) < 1 << 16 {
            format!("{:.0} files/s", self.input_files as f64 / seconds)
        } else {
            format!("{:.0} MiB/s", mebibytes(self.input_bytes) / seconds)
        }
    }
}

impl Row {
    fn median(&self) -> Option<f64> {
        match &self.outcome {
            Outcome::Measured { runs } if !runs.is_empty() => {
                Some(quantile(&sorted(runs, |run| run.wall_seconds), 0.5))
            }
            _ => None,
        }
    }
}

impl Latency {
    fn append_row(&self, text: &mut String, problems: &mut Vec<String>) {
        let way = &self.way;
        match &self.problem {
            Some(Problem::Failed { why }) => {
                let _ = writeln!(text, "| {way} | **FAILED** | | | | |");
                problems.push(format!("**{way} FAILED**: {why}"));
            }
            Some(Problem::Absent { why }) => {
                let _ = writeln!(text, "| {way} | not measured | | | | |");
                problems.push(format!("{way} is not measured: {why}"));
            }
            None => {
                let at = |share| quantile(&self.sorted_ms, share);
                let _ = writeln!(
                    text,
                    "| {way} | {} | **{:.2}** | {:.2} | {:.2} | {:.2} |",
                    self.sorted_ms.len(),
                    at(0.5),
                    at(0.9),
                    at(0.99),
                    at(1.0)
                );
            }
        }
    }
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn sorted(runs: &[Numbers], value: impl Fn(&Numbers) -> f64) -> Vec<f64> {
    let mut values: Vec<_> = runs.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The smallest value that has at least this share of all at or below it; 0 if there are none.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let values = [1.0, 2.0, 3.0, 4.0, 5.0];
        for (share, expected) in [(0.0, 1.0), (0.5, 3.0), (0.9, 5.0), (0.2, 1.0), (1.0, 5.0)] {
            assert_eq!(quantile(&values, share), expected, "{share}");
        }
        assert_eq!(quantile(&[], 0.5), 0.0);
    }

    fn report(outcomes: Vec<(&str, Outcome)>) -> Report {
        let rows = outcomes
            .into_iter()
            .map(|(name, outcome)| Row { contestant: name.into(), outcome })
            .collect();
        let job = JobResult {
            job: "j2".into(),
            about: "a job".into(),
            input_files: 2,
            input_bytes: 4 << 20,
            rows,
            latencies: Vec::new(),
        };
        let machine = Machine {
            when: "2026-01-05 13:37".into(),
            cores: 2,
            processor: "a processor".into(),
            memory_mib: 1_024,
            kernel: "6.1".into(),
            load: "0.00".into(),
            file_system: "ext4".into(),
        };
        Report { machine, runs: 3, workers: 2, jobs: vec![job] }
    }

    fn measured(walls: &[f64]) -> Outcome {
        let runs = walls
            .iter()
            .map(|&wall_seconds| Numbers { wall_seconds, cpu_seconds: 1.0, peak_bytes: 3 << 20 })
            .collect();
        Outcome::Measured { runs }
    }

    #[test]
    fn a_row_shows_median_range_rate_and_share_of_the_limit() {
        let report =
            report(vec![("limit", measured(&[0.5])), ("mawk", measured(&[2.0, 1.0, 4.0]))]);
        let text = report.to_markdown();
        assert!(text.contains("| limit | **0.500** | 0.500-0.500 | 8 MiB/s | 1.00 |"), "{text}");
        let row = "| mawk | **2.000** | 1.000-4.000 | 2 MiB/s | 0.25 | 1.00 | 3 |";
        assert!(text.contains(row), "{text}");
        assert!(!report.has_failures());
    }

    #[test]
    fn a_failure_is_loud_and_an_absence_is_said() {
        let report = report(vec![
            ("limit", measured(&[0.5])),
            ("mawk", Outcome::Absent { why: "not installed".into() }),
            ("tidemill", Outcome::Failed { why: "other bytes".into() }),
        ]);
        let text = report.to_markdown();
        assert!(text.contains("**tidemill FAILED**: other bytes"), "{text}");
        assert!(text.contains("mawk is not measured: not installed"), "{text}");
        assert!(report.has_failures());
    }
}
