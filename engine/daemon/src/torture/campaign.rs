//! Campaign: one shape of a run, killed at random instants and at every failpoint, each home held
//! against the one that nobody disturbed.
//!
//! Owns the homes it makes. Decides when a life is killed, by the dice alone; what is right it only
//! knows from the undisturbed run.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use tidemill_store::failpoint::{ANY, NAMES};

use super::dice::Dice;
use super::life::{Ended, Life, Mode};
use super::outcome::{Outcome, Verdict};
use super::report::{self, Tally};
use super::site::{Shape, Site, Subject};

/// Kills in the lives of one home: this many at least, and below that many.
const KILLS_OF_A_HOME: (usize, usize) = (2, 7);

/// A life without a kill may take so many times as long as the undisturbed one, and so long at
/// least.
const PATIENCE_TIMES: u32 = 30;
const PATIENCE_MIN: Duration = Duration::from_secs(60);

/// A recovery passes about so many failpoints, before it begins with new work.
const RECOVERY_POINTS: usize = 14;

/// Homes that may go wrong before a shape is given up: what is wrong is known by then.
const WRONG_MAX: usize = 5;

/// How many kills are tried that may lead to a step of recovery: for some it was chance that they did.
const FIRSTS_MAX: usize = 20;

/// How often something is tried that depends on which process gets which work.
const ATTEMPTS: usize = 3;

/// What a campaign is to do.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Kills at random instants.
    pub kills: usize,
    /// Whether to kill at every failpoint too.
    pub points: bool,
    /// Whether homes are kept that are right.
    pub keep: bool,
}

/// By which kills a failpoint came to be reached: in the very next life, or in a later one.
type LedTo = BTreeMap<&'static str, [Vec<Turn>; 2]>;

/// A time at which the undisturbed run reaches a failpoint.
#[derive(Clone, Debug)]
struct Turn {
    /// In which phase of the script.
    phase: usize,
    /// What arms it.
    point: String,
}

/// The torture of one shape.
pub struct Campaign<'a> {
    subject: &'a Subject,
    shape: Shape,
    ground: PathBuf,
    wish: &'a Wish,
    dice: Dice,
    tally: Tally,
    expected: Outcome,
    undisturbed: Undisturbed,
    homes: usize,
}

/// What is known from the run that nobody disturbed.
#[derive(Debug, Default)]
struct Undisturbed {
    /// How long it took.
    whole: Duration,
    /// How long a run takes that finds nothing to do.
    idle: Duration,
    /// How often each process reached which failpoint, in each phase of the script.
    counts: Vec<Vec<BTreeMap<&'static str, usize>>>,
}

impl<'a> Campaign<'a> {
    /// Returns the campaign of a shape, in a folder of its own, after its undisturbed run.
    pub fn begin(
        subject: &'a Subject,
        shape: Shape,
        ground: PathBuf,
        wish: &'a Wish,
        dice: Dice,
    ) -> anyhow::Result<Self> {
        let mut campaign = Self {
            subject,
            shape,
            ground,
            wish,
            dice,
            tally: Tally::new(shape),
            expected: Outcome::default(),
            undisturbed: Undisturbed::default(),
            homes: 0,
        };
        let mut site = campaign.site("undisturbed")?;
        let (mut whole, mut counts) = (Duration::ZERO, Vec::new());
        while site.to_do() > 0 {
            let left = site.to_do();
            site.go_on(usize::MAX)?;
            anyhow::ensure!(site.to_do() < left, "{}", campaign.not_begun(&site)?);
            let life = campaign.undisturbed_life(&mut site)?;
            whole += life.took;
            counts.push((0..shape.processes).map(|process| life.counts(process)).collect());
        }
        campaign.expected = Outcome::of(&site, &subject.pipeline)?;
        let not_taken = campaign.expected.not_taken();
        anyhow::ensure!(
            not_taken.is_empty(),
            "no source of the pipeline takes {}; leave it out",
            not_taken.join(", ")
        );
        let second = campaign.undisturbed_life(&mut site)?;
        campaign.undisturbed = Undisturbed { whole, idle: second.took, counts };
        campaign.tally.undisturbed_seconds = report::seconds(whole);
        let again = Outcome::of(&site, &subject.pipeline)?;
        let verdict = campaign.expected.compare(&again);
        campaign.tally.count(&verdict, site.root);
        Ok(campaign)
    }

    /// Says why a phase of the script does not begin.
    fn not_begun(&self, site: &Site) -> anyhow::Result<String> {
        let left = Outcome::of(site, &self.subject.pipeline)?;
        let not_taken = left.not_taken().join(", ");
        Ok(match not_taken.is_empty() {
            true => "an input has no second name in retained/ though it is finished".to_owned(),
            false => format!("no source of the pipeline takes {not_taken}; leave it out"),
        })
    }

    /// Returns what the undisturbed run left.
    pub fn expected(&self) -> &Outcome {
        &self.expected
    }

    /// Holds the undisturbed run against that of another shape.
    pub fn compare_with(&mut self, other: &Outcome) {
        let verdict = other.compare(&self.expected);
        if !verdict.is_equal() {
            self.tally.count(&verdict, self.ground.join("undisturbed"));
        }
    }

    /// Does what was wished for.
    pub fn run(mut self) -> anyhow::Result<Tally> {
        let began = Instant::now();
        let mut left = self.wish.kills;
        while left > 0 && self.goes_on() {
            let (least, below) = KILLS_OF_A_HOME;
            let kills = (least + self.dice.below(below - least)).min(left);
            self.kill_at_random(kills)?;
            left -= kills;
        }
        if self.wish.points {
            self.kill_at_points()?;
        }
        self.tally.seconds = report::seconds(began.elapsed());
        Ok(self.tally)
    }

    fn goes_on(&self) -> bool {
        self.tally.kept.len() < WRONG_MAX
    }

    fn site(&self, name: &str) -> anyhow::Result<Site> {
        Site::create(self.ground.join(name), self.subject)
    }

    fn next_site(&mut self) -> anyhow::Result<Site> {
        self.homes += 1;
        self.site(&format!("home-{}", self.homes))
    }

    fn start(&self, site: &mut Site, mode: Mode, point: Option<&str>) -> anyhow::Result<Life> {
        Life::start(self.subject, self.shape, site, mode, point)
    }

    fn patience(&self) -> Duration {
        PATIENCE_MIN.max(self.undisturbed.whole * PATIENCE_TIMES)
    }

    /// A life that must end well, or the torture cannot begin.
    fn undisturbed_life(&self, site: &mut Site) -> anyhow::Result<Ended> {
        let life = self.start(site, Mode::Once, None)?;
        let ended = life.end(PATIENCE_MIN * PATIENCE_TIMES)?;
        let ended = ended.context("the undisturbed run does not end")?;
        anyhow::ensure!(
            ended.is_well(),
            "the undisturbed run ({}) did not end well: {}",
            self.shape,
            ended.last_words()
        );
        Ok(ended)
    }

    /// Gives a home several violent ends at random instants, then lets it finish.
    fn kill_at_random(&mut self, kills: usize) -> anyhow::Result<()> {
        let mut site = self.next_site()?;
        let mut verdict = Verdict::default();
        site.go_on(site.to_do().div_ceil(2))?;
        for left in (1..=kills).rev() {
            // What is left to be dropped is spread over the lives that are left.
            let share = site.to_do().div_ceil(left);
            let whole = self.expected_life(&site, share);
            let mode = if self.dice.below(3) == 0 { Mode::Serve } else { Mode::Once };
            let kill_at = self.dice.instant(whole);
            let drop_at = self.dice.instant(whole);
            let one = self.shape.processes > 1 && self.dice.below(2) == 0;
            if self.dice.below(2) == 0 {
                site.go_on(share)?;
            }
            let mut life = self.start(&mut site, mode, None)?;
            if drop_at < kill_at && !life.wait_until(drop_at)? {
                site.go_on(share.min(site.to_do()))?;
            }
            let late = life.wait_until(kill_at)?;
            if !late && one && life.kill_one(self.dice.below(self.shape.processes))? {
                self.tally.kills_of_one += 1;
                match self.after_one(life, mode)? {
                    Some(ended) => {
                        self.judge(&ended, &mut verdict);
                        self.count_kill(&ended);
                    }
                    None => verdict
                        .failed
                        .push("a run that lost one process neither ended nor went on".to_owned()),
                }
                continue;
            }
            let ended = life.kill()?;
            if late || ended.is_well() {
                self.tally.late += 1;
                self.judge(&ended, &mut verdict);
            } else {
                self.count_kill(&ended);
            }
        }
        self.finish(site, verdict).map(|_| ())
    }

    /// Returns how long a life should take from now on, if it is not disturbed.
    fn expected_life(&self, site: &Site, share: usize) -> Duration {
        let Undisturbed { whole, idle, .. } = self.undisturbed;
        let all = self.subject.actions().max(1);
        let there = all.saturating_sub(site.to_do()) + share;
        let open = there.saturating_sub(site.finished()).min(all);
        idle + whole.saturating_sub(idle).mul_f64(open as f64 / all as f64)
    }

    /// Waits for the end of a run that lost one process: by itself, or by a kill of the rest while it
    /// finds out or heals.
    fn after_one(&mut self, mut life: Life, mode: Mode) -> anyhow::Result<Option<Ended>> {
        if mode == Mode::Once && self.dice.below(2) == 0 {
            return life.end(self.patience());
        }
        let rest = self.dice.instant(self.undisturbed.whole * 2);
        life.wait_until(life.age() + rest)?;
        life.kill().map(Some)
    }

    fn count_kill(&mut self, ended: &Ended) {
        self.tally.kills += 1;
        self.tally.recoveries += 1;
        *self.tally.phases.entry(ended.phase().to_owned()).or_default() += 1;
    }

    /// A life may end well, or as killed; everything else is wrong.
    fn judge(&self, ended: &Ended, verdict: &mut Verdict) {
        if !ended.is_well() && !ended.is_killed() {
            verdict.failed.push(format!("a life ended by itself: {}", ended.last_words()));
        }
    }

    /// Kills once at each failpoint and once more in the recovery from it.
    fn kill_at_points(&mut self) -> anyhow::Result<()> {
        let mut led_to = LedTo::new();
        for name in NAMES {
            if !self.goes_on() {
                return Ok(());
            }
            for attempt in 0..ATTEMPTS {
                let Some(turn) = self.some_turn(name, attempt) else { break };
                if self.kill_at_point(name, &turn, &mut led_to)? {
                    break;
                }
            }
        }
        for (name, firsts) in led_to {
            if self.tally.points.contains(&name) || !self.goes_on() {
                continue;
            }
            for first in firsts.iter().flatten().take(FIRSTS_MAX) {
                if self.kill_in_recovery(name, first)? {
                    break;
                }
            }
        }
        let points = &self.tally.points;
        self.tally.unreached =
            NAMES.iter().filter(|name| !points.contains(*name)).copied().collect();
        Ok(())
    }

    /// Returns one of the times at which the undisturbed run reaches a failpoint; `None` if it does
    /// not.
    fn some_turn(&mut self, name: &'static str, attempt: usize) -> Option<Turn> {
        let phases = self.undisturbed.counts.iter().enumerate();
        let who: Vec<(usize, usize, usize)> = phases
            .flat_map(|(phase, processes)| {
                let processes = processes.iter().enumerate();
                processes.filter_map(move |(process, counts)| {
                    counts.get(name).map(|count| (phase, process, *count))
                })
            })
            .collect();
        let (phase, process, count) = *who.get(self.dice.below(who.len()))?;
        if attempt > 0 {
            // Work may have gone to another process: the first time it is reached, by any.
            return Some(Turn { phase, point: format!("{name}=kill") });
        }
        let turn = 1 + self.dice.below(count);
        Some(Turn { phase, point: format!("process={process}:{name}@{turn}=kill") })
    }

    /// Returns a new home in which everything before a phase is finished, and that phase is begun.
    fn site_at(&mut self, phase: usize) -> anyhow::Result<Site> {
        let mut site = self.next_site()?;
        for _ in 0..phase {
            site.go_on(usize::MAX)?;
            self.undisturbed_life(&mut site)?;
        }
        site.go_on(usize::MAX)?;
        Ok(site)
    }

    /// Kills a life at a failpoint and the next one in its recovery. Returns whether it was reached.
    fn kill_at_point(
        &mut self,
        name: &'static str,
        turn: &Turn,
        led_to: &mut LedTo,
    ) -> anyhow::Result<bool> {
        let mut site = self.site_at(turn.phase)?;
        let mut verdict = Verdict::default();
        let mut next = None;
        let reached = self.life_to_point(&mut site, &turn.point, &mut verdict)?.is_some();
        if reached {
            self.tally.points.push(name);
            let again = format!("{ANY}@{}=kill", 1 + self.dice.below(RECOVERY_POINTS));
            next = self.life_to_point(&mut site, &again, &mut verdict)?;
            self.tally.points_twice += usize::from(next.is_some());
        }
        let last = self.finish(site, verdict)?;
        // What the very next life reached comes of this kill alone, so that one is tried first.
        for name in next.iter().flat_map(|ended| &ended.reached).flatten() {
            led_to.entry(name).or_default()[0].push(turn.clone());
        }
        for name in last.iter().flat_map(|ended| &ended.reached).flatten() {
            led_to.entry(name).or_default()[1].push(turn.clone());
        }
        Ok(reached)
    }

    /// Kills a life at one failpoint, and its recovery at another.
    fn kill_in_recovery(&mut self, name: &'static str, first: &Turn) -> anyhow::Result<bool> {
        let mut site = self.site_at(first.phase)?;
        let mut verdict = Verdict::default();
        self.life_to_point(&mut site, &first.point, &mut verdict)?;
        let reached = self.life_to_point(&mut site, &format!("{name}=kill"), &mut verdict)?;
        let reached = reached.is_some();
        if reached {
            self.tally.points.push(name);
        }
        self.finish(site, verdict)?;
        Ok(reached)
    }

    /// Lets a life run into a failpoint; returns how it ended if a process was killed there. A run of
    /// several may have gone on by itself.
    fn life_to_point(
        &mut self,
        site: &mut Site,
        point: &str,
        verdict: &mut Verdict,
    ) -> anyhow::Result<Option<Ended>> {
        let life = self.start(site, Mode::Once, Some(point))?;
        // Of several processes only the one that runs into it dies: at times the others are left to
        // find out, at times they are killed with it.
        let ended = if self.shape.processes > 1 && self.dice.below(4) > 0 {
            life.end_at_failpoint(self.patience())?
        } else {
            life.end(self.patience())?
        };
        let Some(ended) = ended else {
            verdict.failed.push(format!("a life with {point} did not end"));
            return Ok(None);
        };
        self.judge(&ended, verdict);
        if !ended.fired {
            return Ok(None);
        }
        self.tally.kills += 1;
        self.tally.recoveries += 1;
        Ok(Some(ended))
    }

    /// Does what is left, lets the home finish undisturbed, and compares it.
    fn finish(&mut self, mut site: Site, mut verdict: Verdict) -> anyhow::Result<Option<Ended>> {
        // A phase begins when everything before it is finished.
        let ended = loop {
            site.go_on(usize::MAX)?;
            let left = site.to_do();
            let life = self.start(&mut site, Mode::Once, None)?;
            let ended = life.end(self.patience())?;
            let went_well = ended.as_ref().is_some_and(Ended::is_well);
            site.go_on(usize::MAX)?;
            if !went_well || (left == 0 && site.to_do() == 0) {
                break ended;
            }
            if site.to_do() == left {
                verdict.failed.push("what comes next could not begin".to_owned());
                break ended;
            }
        };
        match &ended {
            Some(ended) if ended.is_well() => match Outcome::of(&site, &self.subject.pipeline) {
                Ok(found) => {
                    let found = self.expected.compare(&found);
                    verdict = Verdict { failed: verdict.failed, ..found };
                }
                Err(error) => verdict.failed.push(format!("{error:#}")),
            },
            Some(ended) => {
                verdict
                    .failed
                    .push(format!("the last life did not end well: {}", ended.last_words()));
            }
            None => verdict.failed.push("the last life did not end".to_owned()),
        }
        self.tally.count(&verdict, site.root.clone());
        if verdict.is_equal() && !self.wish.keep {
            site.remove()?;
        }
        Ok(ended)
    }
}

#[cfg(test)]
mod tests;
