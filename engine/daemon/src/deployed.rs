//! Deployed: which pipelines a run begins with: the files it is given, or what was deployed since.
//!
//! Decides; reads nothing but what it is handed. A file that a deployment took the place of never comes
//! back by itself, and neither does one that was changed behind the server's back.

use std::collections::BTreeSet;

use tidemill_cli::{ClientCommand, FlatFile};
use tidemill_engine::Plan;
use tidemill_engine::plan::{Alone, Secrets, plan_in};
use tidemill_store::Deployment;

use crate::complain;
use crate::pipeline::{Values, load_with};
use crate::secrets::lacks;

/// What a run begins with.
#[derive(Debug)]
pub(crate) struct Effective {
    /// The pipelines: those that were given, in their order, then those that were only deployed.
    pub(crate) plans: Vec<Plan>,
    /// The names of those that were only deployed.
    pub(crate) added: BTreeSet<String>,
    /// What a person should know about it.
    pub(crate) notes: Vec<String>,
}

/// Returns what a run begins with, or why it cannot be said, a text for each pipeline.
pub(crate) fn effective(
    given: Vec<Plan>,
    deployed: &[Deployment],
    secrets: &Secrets,
) -> Result<Effective, Vec<String>> {
    let mut all = Effective {
        plans: Vec::with_capacity(given.len()),
        added: BTreeSet::new(),
        notes: Vec::new(),
    };
    let mut wrong = Vec::new();
    let names: Vec<String> = given.iter().map(|plan| plan.name.clone()).collect();
    for plan in given {
        let Some(deployment) = deployed.iter().find(|one| one.pipeline == plan.name) else {
            all.plans.push(plan);
            continue;
        };
        if deployment.text == plan.yaml {
            all.plans.push(plan);
        } else if deployment.supersedes(&plan.yaml) {
            all.notes.push(format!(
                "pipeline {}: the file given here is one that was replaced since; what was deployed \
                 runs: {}. To go back, deploy the file again, or start with --redeploy",
                plan.name,
                version(deployment)
            ));
            take(deployment, secrets, &mut all.plans, &mut wrong);
        } else {
            wrong.push(format!(
                "pipeline {}: the file given here is not the one that runs in this home since it was \
                 deployed: {}. Nothing is started, so that neither is lost: give the deployed file \
                 (or the one before it) and run `tidemill deploy FILE` for the changes, or start with \
                 --redeploy to let this one count",
                plan.name,
                version(deployment)
            ));
        }
    }
    for deployment in deployed.iter().filter(|one| !names.contains(&one.pipeline)) {
        all.added.insert(deployment.pipeline.clone());
        all.notes.push(format!(
            "pipeline {0}: it was deployed into this home and runs, too: {1}. To leave it out: \
             `tidemill undeploy {0}`",
            deployment.pipeline,
            version(deployment)
        ));
        take(deployment, secrets, &mut all.plans, &mut wrong);
    }
    wrong.extend(all.plans.iter().filter_map(lacks));
    if wrong.is_empty() { Ok(all) } else { Err(wrong) }
}

/// Puts into `deploy` what a file is with all that it includes and the parameters that it is given here:
/// the server has neither. In the place of a file with mistakes come these: they show places in the files
/// that were given. `None` for a value that no file has a parameter for, which is told.
pub(crate) fn flat(mut command: ClientCommand) -> anyhow::Result<Option<ClientCommand>> {
    if let ClientCommand::Deploy(deploy) = &mut command {
        let Some(values) = Values::gather(&deploy.params)? else { return Ok(None) };
        let values = values.elsewhere();
        for path in &deploy.pipelines {
            let flat = match load_with(path, &values)? {
                Ok(plan) => Ok(FlatFile { text: plan.yaml, params: values.given() }),
                Err(mistakes) => Err(mistakes.text()),
            };
            deploy.flat.push(flat);
        }
        // While a file could not be read, its parameters are not known.
        if deploy.flat.iter().all(Result::is_ok) && !values.all_known() {
            return Ok(None);
        }
    }
    Ok(Some(command))
}

fn take(
    deployment: &Deployment,
    secrets: &Secrets,
    plans: &mut Vec<Plan>,
    wrong: &mut Vec<String>,
) {
    match plan_in(&deployment.text, &Alone { secrets: secrets.clone() }) {
        Ok(plan) => plans.push(plan),
        Err(mistakes) => {
            let first = mistakes.first().map(|one| one.render("deployed", &deployment.text));
            wrong.push(format!(
                "pipeline {}: what was deployed ({}) does not check with this version of tidemill; \
                 start with --redeploy and a file that does:\n{}",
                deployment.pipeline,
                version(deployment),
                first.unwrap_or_default().trim_end()
            ));
        }
    }
}

fn version(deployment: &Deployment) -> String {
    let Deployment { version, first_epoch, plan_hash, .. } = deployment;
    let hash = plan_hash.get(..12).unwrap_or(plan_hash);
    format!("version {version}, plan {hash}, from epoch {first_epoch} on")
}

/// Says what a person should know.
pub(crate) fn tell(notes: &[String]) {
    for note in notes {
        complain(note);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tidemill_engine::plan::plan;

    use super::*;

    fn text(name: &str, filter: &str) -> String {
        format!(
            "pipeline: {name}\nsources: {{ in: {{ format: csv, fields: {{ n: int }} }} }}\n\
             operators: {{ some: {{ from: in, filter: {filter} }} }}\n\
             sinks: {{ out: {{ from: some, files: {{ format: csv }} }} }}\n"
        )
    }

    fn deployed(name: &str, filter: &str, older: &[&str]) -> Deployment {
        let older =
            older.iter().map(|filter| *blake3::hash(text(name, filter).as_bytes()).as_bytes());
        Deployment {
            pipeline: name.to_owned(),
            version: 2,
            text: text(name, filter),
            params: BTreeMap::new(),
            plan_hash: "0123456789abcdef".to_owned(),
            first_epoch: 7,
            at_us: 0,
            older: older.collect(),
        }
    }

    /// Pipelines, each with its filter.
    type Texts = [(&'static str, &'static str)];

    /// What `given` (pipeline, filter) becomes: which filters run, how many notes, or what is wrong.
    #[track_caller]
    fn check(given: &Texts, since: &[Deployment], expected: Result<(&Texts, usize), &str>) {
        let given_names: Vec<String> = given.iter().map(|(name, _)| (*name).to_owned()).collect();
        let given = given.iter().map(|(name, filter)| plan(&text(name, filter)).unwrap()).collect();
        match (effective(given, since, &Secrets::default()), expected) {
            (Ok(all), Ok((plans, notes))) => {
                let texts: Vec<String> = all.plans.into_iter().map(|plan| plan.yaml).collect();
                let wanted: Vec<String> = plans.iter().map(|(name, f)| text(name, f)).collect();
                assert_eq!(texts, wanted);
                assert_eq!(all.notes.len(), notes, "{:?}", all.notes);
                let given: Vec<&str> = given_names.iter().map(String::as_str).collect();
                let added =
                    plans.iter().map(|(name, _)| *name).filter(|name| !given.contains(name));
                assert!(all.added.iter().map(String::as_str).eq(added), "{:?}", all.added);
            }
            (Err(wrong), Err(wanted)) => {
                assert_eq!(wrong.len(), 1);
                assert!(wrong[0].contains(wanted), "{wrong:?}");
            }
            (outcome, _) => panic!("{outcome:?}"),
        }
    }

    #[test]
    fn without_a_deployment_what_is_given_runs() {
        check(&[("a", "n > 1"), ("b", "n > 2")], &[], Ok((&[("a", "n > 1"), ("b", "n > 2")], 0)));
    }

    #[test]
    fn the_deployed_file_is_the_one_that_runs() {
        let since = [deployed("a", "n > 9", &["n > 1"])];
        check(&[("a", "n > 9")], &since, Ok((&[("a", "n > 9")], 0)));
    }

    #[test]
    fn a_file_that_was_replaced_does_not_come_back() {
        let since = [deployed("a", "n > 9", &["n > 1", "n > 5"])];
        check(&[("a", "n > 1")], &since, Ok((&[("a", "n > 9")], 1)));
        check(&[("a", "n > 5")], &since, Ok((&[("a", "n > 9")], 1)));
    }

    #[test]
    fn a_text_that_came_back_by_a_deployment_is_not_an_old_one() {
        let since = [deployed("a", "n > 1", &["n > 1", "n > 5"])];
        check(&[("a", "n > 1")], &since, Ok((&[("a", "n > 1")], 0)));
    }

    #[test]
    fn a_file_that_nobody_deployed_is_refused() {
        let since = [deployed("a", "n > 9", &["n > 1"])];
        check(&[("a", "n > 4")], &since, Err("--redeploy"));
    }

    #[test]
    fn a_pipeline_that_was_only_deployed_runs_too() {
        let since = [deployed("b", "n > 9", &[])];
        check(&[("a", "n > 1")], &since, Ok((&[("a", "n > 1"), ("b", "n > 9")], 1)));
    }

    #[test]
    fn a_deployed_file_that_does_not_check_any_more_is_told() {
        let mut since = deployed("b", "n > 9", &[]);
        since.text = "pipeline: b\nsources: {}\n".to_owned();
        check(&[("a", "n > 1")], &[since], Err("does not check"));
    }
}
