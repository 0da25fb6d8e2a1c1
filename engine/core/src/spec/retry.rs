//! Retry: how failures are tried again, as written. Derived.
//!
//! None of it changes what becomes of a file that can be read, so it is no part of a plan's hash.

use std::time::Duration;

use crate::diagnostic::{Mistakes, quoted};
use crate::retry::{Class, Policy, Rule, Then};
use crate::spec::read::{self, Entries};
use crate::spec::tree::Node;

/// The bounds of `attempts`.
const ATTEMPTS_BOUNDS: (u32, u32) = (1, 1_000_000);
/// The bounds of `backoff` and `max_backoff`.
const BACKOFF_BOUNDS: (Duration, Duration) =
    (Duration::from_millis(1), Duration::from_secs(24 * 3600));
/// The bounds of `deadline`.
const DEADLINE_BOUNDS: (Duration, Duration) =
    (Duration::from_millis(1), Duration::from_secs(366 * 24 * 3600));
/// The bounds of `factor`.
const FACTOR_BOUNDS: (f64, f64) = (1.0, 1000.0);
/// The bounds of `jitter`.
const JITTER_BOUNDS: (f64, f64) = (0.0, 1.0);

/// One rule as written: what is not said is `None`.
#[derive(Clone, Copy, Debug, Default)]
struct RuleSpec {
    attempts: Option<u32>,
    backoff: Option<Duration>,
    factor: Option<f64>,
    max_backoff: Option<Duration>,
    jitter: Option<f64>,
    deadline: Option<Duration>,
    then: Option<Then>,
}

impl RuleSpec {
    /// Returns the rule that this changes another one to.
    fn over(self, rule: Rule) -> Rule {
        let backoff = self.backoff.unwrap_or(rule.backoff);
        Rule {
            attempts: self.attempts.unwrap_or(rule.attempts),
            backoff,
            factor: self.factor.unwrap_or(rule.factor),
            // Who waits long at first does not wait shorter later.
            max_backoff: self.max_backoff.unwrap_or(rule.max_backoff).max(backoff),
            jitter: self.jitter.unwrap_or(rule.jitter),
            deadline: self.deadline.unwrap_or(rule.deadline),
            then: self.then.unwrap_or(rule.then),
        }
    }
}

/// `retry` as written: what it says of each class.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RetrySpec {
    permanent: RuleSpec,
    transient: RuleSpec,
    timeout: RuleSpec,
    resource: RuleSpec,
}

impl RetrySpec {
    /// Returns the policy that this changes another one to.
    pub(crate) fn over(self, policy: Policy) -> Policy {
        Policy {
            permanent: self.permanent.over(policy.permanent),
            transient: self.transient.over(policy.transient),
            timeout: self.timeout.over(policy.timeout),
            resource: self.resource.over(policy.resource),
        }
    }
}

/// The words for what follows when reading a file was tried often enough.
pub(super) const OF_FILES: Words = [("quarantine", Then::GiveUp), ("wait", Then::Wait)];
/// The words for what follows when publishing outputs was tried often enough.
pub(super) const OF_SINKS: Words = [("stop", Then::GiveUp), ("wait", Then::Wait)];

/// The words of `then`.
type Words = [(&'static str, Then); 2];

/// Reads `retry`, if it is there.
pub(super) fn parse(
    entries: &mut Entries,
    words: &Words,
    mistakes: &mut Mistakes<'_>,
) -> RetrySpec {
    let mut spec = RetrySpec::default();
    let Some(node) = entries.take("retry") else { return spec };
    let Some(mut classes) = Entries::open(node, "`retry`", mistakes) else { return spec };
    for (name, class, rule) in [
        ("permanent", Class::Permanent, &mut spec.permanent),
        ("transient", Class::Transient, &mut spec.transient),
        ("timeout", Class::Timeout, &mut spec.timeout),
        ("resource", Class::Resource, &mut spec.resource),
    ] {
        if let Some(node) = classes.take(name) {
            *rule = parse_rule(node, class, words, mistakes);
        }
    }
    classes.finish(mistakes);
    spec
}

fn parse_rule(node: Node, class: Class, words: &Words, mistakes: &mut Mistakes<'_>) -> RuleSpec {
    let mut rule = RuleSpec::default();
    let Some(mut entries) = Entries::open(node, "a rule of `retry`", mistakes) else { return rule };
    if let Some(node) = entries.take("attempts") {
        rule.attempts = read::number(node, "`attempts`", ATTEMPTS_BOUNDS, mistakes);
    }
    if let Some(node) = entries.take("backoff") {
        rule.backoff = read::duration(node, "`backoff`", BACKOFF_BOUNDS, mistakes);
    }
    if let Some(node) = entries.take("factor") {
        rule.factor = decimal(node, "`factor`", FACTOR_BOUNDS, mistakes);
    }
    if let Some(node) = entries.take("max_backoff") {
        let (owner, path) = (node.owner, node.path.clone());
        rule.max_backoff = read::duration(node, "`max_backoff`", BACKOFF_BOUNDS, mistakes);
        if let (Some(first), Some(most)) = (rule.backoff, rule.max_backoff)
            && most < first
        {
            let message = "`max_backoff` is shorter than `backoff`";
            mistakes.add(owner, &path, message, "the longest wait is not the shortest".to_owned());
        }
    }
    if let Some(node) = entries.take("jitter") {
        rule.jitter = decimal(node, "`jitter`", JITTER_BOUNDS, mistakes);
    }
    if let Some(node) = entries.take("deadline") {
        rule.deadline = read::duration(node, "`deadline`", DEADLINE_BOUNDS, mistakes);
    }
    if let Some(node) = entries.take("then") {
        let (owner, path) = (node.owner, node.path.clone());
        rule.then = read::choice(node, "`then`", words, mistakes);
        if class == Class::Permanent && rule.then == Some(Then::Wait) {
            let message = "what is permanent does not pass by waiting";
            let hint = "leave it out: it is given up when it was tried often enough";
            mistakes.add(owner, &path, message, hint.to_owned());
        }
    }
    entries.finish(mistakes);
    rule
}

/// Reads a number that may have a fraction.
fn decimal(
    node: Node,
    what: &str,
    (least, most): (f64, f64),
    mistakes: &mut Mistakes<'_>,
) -> Option<f64> {
    let written = read::text(node, what, mistakes)?;
    let value = written.text.parse::<f64>().ok().filter(|value| (least..=most).contains(value));
    if value.is_none() {
        let message = format!("{what} cannot be {}", quoted(&written.text));
        written.wrong(mistakes, message, Some(format!("it is a number from {least} to {most}")));
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan;

    fn yaml(top: &str, source: &str) -> String {
        format!(
            "pipeline: p\n{top}sources:\n  a: {{ format: text{source} }}\nsinks:\n  \
             o: {{ from: a, files: {{ format: raw }} }}\n"
        )
    }

    #[track_caller]
    fn check(top: &str, source: &str, expected: Policy) {
        let plan = plan::plan(&yaml(top, source)).unwrap();
        assert_eq!(plan.sources[0].taking.retry, expected, "{top}{source}");
        let plain = plan::plan(&yaml("", "")).unwrap();
        assert_eq!(plan.hash, plain.hash, "it does not change what becomes of a file");
    }

    #[track_caller]
    fn check_mistake(settings: &str, said: &str) {
        let mistakes = plan::plan(&yaml("", &format!(", retry: {settings}"))).unwrap_err();
        let all: Vec<String> = mistakes.iter().map(|mistake| format!("{mistake:?}")).collect();
        assert!(all.join("\n").contains(said), "{settings}: {all:?}");
    }

    #[test]
    fn a_source_says_how_it_tries_again_and_else_its_pipeline_and_else_the_standard() {
        let standard = Policy::STANDARD;
        check("", "", standard);
        check("", ", retry: {}", standard);
        let seconds = Duration::from_secs;
        let all = ", retry: { timeout: { attempts: 9, backoff: 3s, factor: 1.5, max_backoff: 5m, \
                   jitter: 0, deadline: 1h, then: wait } }";
        let timeout = Rule {
            attempts: 9,
            backoff: seconds(3),
            factor: 1.5,
            max_backoff: seconds(300),
            jitter: 0.0,
            deadline: seconds(3600),
            then: Then::Wait,
        };
        check("", all, Policy { timeout, ..standard });
        let top =
            "retry: { transient: { attempts: 2, jitter: 1 }, resource: { then: quarantine } }\n";
        let resource = Rule { then: Then::GiveUp, ..standard.resource };
        let transient = Rule { attempts: 2, jitter: 1.0, ..standard.transient };
        check(top, "", Policy { transient, resource, ..standard });
        let transient = Rule { attempts: 7, ..transient };
        check(
            top,
            ", retry: { transient: { attempts: 7 } }",
            Policy { transient, resource, ..standard },
        );
        let transient =
            Rule { backoff: seconds(90), max_backoff: seconds(90), ..standard.transient };
        check("", ", retry: { transient: { backoff: 90s } }", Policy { transient, ..standard });
    }

    #[test]
    fn a_sink_says_how_it_tries_again_and_else_waits_for_what_may_pass() {
        let check = |settings: &str, expected: Policy| {
            let yaml = yaml("", "").replace("format: raw }", &format!("format: raw }}{settings}"));
            let plan = plan::plan(&yaml).unwrap();
            assert_eq!(plan.sinks[0].retry, expected, "{settings}");
            assert_eq!(plan.hash, plan::plan(&super::tests::yaml("", "")).unwrap().hash);
        };
        check("", Policy::SINK);
        let transient = Rule { attempts: 2, then: Then::GiveUp, ..Policy::SINK.transient };
        let stops = ", retry: { transient: { attempts: 2, then: stop } }";
        check(stops, Policy { transient, ..Policy::SINK });
        let wrong =
            yaml("", "").replace("raw }", "raw }, retry: { timeout: { then: quarantine } }");
        let mistakes = format!("{:?}", plan::plan(&wrong).unwrap_err());
        assert!(mistakes.contains("`then` cannot be") && mistakes.contains("stop"), "{mistakes}");
    }

    #[test]
    fn what_cannot_be_meant_is_told() {
        check_mistake("{ transients: {} }", "transient");
        check_mistake("5", "`retry`");
        check_mistake("{ transient: { attempts: 0 } }", "`attempts`");
        check_mistake("{ transient: { backoff: soon } }", "`backoff`");
        check_mistake("{ transient: { factor: 0.5 } }", "from 1 to 1000");
        check_mistake("{ transient: { jitter: 2 } }", "from 0 to 1");
        check_mistake("{ transient: { jitter: nan } }", "from 0 to 1");
        check_mistake("{ transient: { backoff: 2s, max_backoff: 1s } }", "shorter than");
        check_mistake("{ transient: { then: stop } }", "`then` cannot be");
        check_mistake("{ permanent: { then: wait } }", "does not pass by waiting");
        check_mistake("{ transient: { tries: 3 } }", "tries");
    }
}
