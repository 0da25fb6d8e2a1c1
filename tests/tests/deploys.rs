//! Deploys: a changed pipeline file takes over in a running server at a file boundary, and nothing is
//! lost, doubled or mixed, whatever happens meanwhile.
//!
//! The longer campaign: `cargo run -p tidemill-tests --bin deploy-campaign -- --deploys 1000`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use tidemill_client::{DeployedPart, Deployment};
use tidemill_tests::deploys::Campaign;
use tidemill_tests::process::wait_until;
use tidemill_tests::{PATIENCE, Running, Shape, Site};

const NODE: &str = env!("CARGO_BIN_EXE_node");

/// Deployments in each shape: a quarter of a second each, in a debug build on a quiet machine.
const DEPLOYS: usize = 10;

#[track_caller]
fn check_load(shape: Shape) {
    let report = Campaign { node: PathBuf::from(NODE), shape, deploys: DEPLOYS }.run();
    assert!(report.files >= DEPLOYS as u64);
}

#[test]
fn each_file_is_committed_once_under_one_plan_in_one_process() {
    check_load(Shape::new(1, 2));
}

#[test]
fn each_file_is_committed_once_under_one_plan_in_two_processes() {
    check_load(Shape::new(2, 1));
}

const SUMS: &str = "\
pipeline: sums
sources:
  rows: { format: csv, fields: { k: string, n: int } }
operators:
  hits: { from: rows, aggregate: { by: [k], compute: { hits: count(*) } } }
  sums: { from: rows, aggregate: { by: [k], compute: { total: sum(n) } } }
sinks:
  copy: { from: rows, files: { format: raw } }
  hits: { from: hits, table: { format: csv, key: [k] } }
  sums: { from: sums, table: { format: csv, key: [k] } }
";

fn twice() -> String {
    SUMS.replace("sum(n)", "sum(n * 2)")
}

fn renamed() -> String {
    SUMS.replace("copy:", "copies:")
}

#[track_caller]
fn deploy(running: &Running<'_>, yaml: &str) -> Deployment {
    let deployed = running.ask(running.client().deploy(yaml, false, PATIENCE)).unwrap();
    wait_for(running, &deployed.pipeline, yaml);
    deployed
}

#[track_caller]
fn wait_for(running: &Running<'_>, pipeline: &str, yaml: &str) {
    let serves = running.client().wait_for_pipeline(pipeline, yaml, PATIENCE);
    assert!(running.ask(serves).unwrap(), "the server did not come back");
}

#[track_caller]
fn refused(running: &Running<'_>, yaml: &str) -> String {
    let refused = running.ask(running.client().deploy(yaml, false, PATIENCE)).unwrap_err();
    refused.to_string()
}

fn fates(parts: &[DeployedPart]) -> Vec<String> {
    parts.iter().map(|part| format!("{} {}: {}", part.role, part.name, part.fate)).collect()
}

/// Puts a file and waits until it is committed.
#[track_caller]
fn commit(running: &Running<'_>, name: &str, bytes: &[u8]) -> u64 {
    let id = running.submit(name, bytes).id;
    let file = running.wait(id);
    assert_eq!(file.phase, tidemill_client::Phase::Committed, "{file:?}");
    id
}

fn plan_of(running: &Running<'_>, id: u64) -> String {
    running.ask(running.client().get(id)).unwrap().receipt.unwrap().plan_hash
}

#[test]
fn a_file_with_mistakes_leaves_the_old_one_running() {
    let site = Site::new(NODE, SUMS);
    let running = site.start(Shape::ALONE);
    let before = commit(&running, "a.csv", b"k,n\nx,1\n");
    let wrong = SUMS.replace("sum(n)", "sum(m)").replace("from: hits,", "from: hitz,");
    let text = refused(&running, &wrong);
    for part in ["bad_pipeline_file", "2 mistakes", ":6:", "no column `m`", "did you mean `hits`?"]
    {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    // However many mistakes there are, the answer gets through.
    let many: String =
        (0..500).map(|at| format!("  x{at}: {{ from: nobody, filter: n > }}\n")).collect();
    let many = SUMS.replace("sinks:\n", &format!("{many}sinks:\n"));
    assert!(refused(&running, &many).contains("tidemill check` shows all"));
    assert!(refused(&running, "").contains("bad_pipeline_file"));
    let after = commit(&running, "b.csv", b"k,n\nx,1\n");
    assert_eq!(plan_of(&running, before), plan_of(&running, after));
    assert_eq!(running.ask(running.client().stats(None)).unwrap().generation, 1);
    running.stop();
    assert_eq!(site.out()["sums/sums.csv"], b"k,total\nx,2\n");
}

#[test]
fn a_dry_run_says_what_happens_to_each_part_and_changes_nothing() {
    let site = Site::new(NODE, SUMS);
    let running = site.start(Shape::ALONE);
    commit(&running, "a.csv", b"k,n\nx,1\n");
    let ask = |yaml: &str| running.ask(running.client().deploy(yaml, true, PATIENCE)).unwrap();
    let same = ask(SUMS);
    assert!(!same.changed && same.refused.is_none());
    let new_sink = ask(&renamed());
    assert_eq!(
        fates(&new_sink.parts),
        [
            "source rows: kept",
            "operator hits: kept",
            "operator sums: kept",
            "sink copies: new",
            "sink hits: kept",
            "sink sums: kept",
            "sink copy: removed",
        ]
    );
    // What is asked of files is a part of their source.
    let asks = ask(&SUMS
        .replace("format: csv, fields: {", "format: csv, contract: { min_records: 1 }, fields: {"));
    assert!(asks.changed && fates(&asks.parts).contains(&"source rows: changed".to_owned()));
    let changed = ask(&twice());
    assert!(fates(&changed.parts).contains(&"operator sums: rebuilt".to_owned()));
    assert!(fates(&changed.parts).contains(&"sink sums: rebuilt".to_owned()));
    assert_eq!((changed.files, changed.bytes), (1, 8));
    assert_eq!((changed.version, changed.first_epoch), (0, 0));
    // An input that is needed is gone: said beforehand, and refused.
    fs::remove_file(site.folder("processed").join("a.csv")).unwrap();
    let retained = site.folder("retained").join("a.csv");
    if retained.exists() {
        fs::remove_file(retained).unwrap();
    }
    let why = ask(&twice()).refused.unwrap();
    assert!(why.contains("a.csv"), "{why}");
    assert!(refused(&running, &twice()).contains("no_deploy"));
    assert_eq!(running.ask(running.client().stats(None)).unwrap().generation, 1);
    running.stop();
}

#[test]
fn another_pipeline_comes_in_addition_and_the_first_goes_on() {
    let site = Site::new(NODE, SUMS);
    let running = site.start(Shape::new(1, 2));
    let first = commit(&running, "a.csv", b"k,n\nx,1\n");
    let other = SUMS.replace("pipeline: sums", "pipeline: others");
    let deployed = deploy(&running, &other);
    assert_eq!((deployed.version, deployed.first_epoch, deployed.replaced), (1, 1, None));
    let sent = running.client().submit_bytes("o.csv", b"k,n\ny,5\n".to_vec(), Some("others"));
    let sent = running.ask(sent).unwrap();
    running.wait(sent.id);
    let sent = running.client().submit_bytes("b.csv", b"k,n\nx,2\n".to_vec(), Some("sums"));
    let second = running.ask(sent).unwrap().id;
    running.wait(second);
    assert_eq!(plan_of(&running, first), plan_of(&running, second));
    running.kill();
    // It is there after a kill, although nobody names it.
    let running = site.start(Shape::ALONE);
    let names: Vec<String> = running
        .ask(running.client().pipelines())
        .unwrap()
        .into_iter()
        .map(|one| one.name)
        .collect();
    assert_eq!(names, ["sums", "others"]);
    running.stop();
    assert_eq!(site.out()["sums/sums.csv"], b"k,total\nx,3\n");
    let others = site.home().join("others/out/sums/sums.csv");
    assert_eq!(fs::read(others).unwrap(), b"k,total\ny,5\n");
}

#[test]
fn a_start_never_goes_back_by_itself() {
    let mut site = Site::new(NODE, SUMS);
    let running = site.start(Shape::ALONE);
    commit(&running, "a.csv", b"k,n\nx,1\n");
    let deployed = deploy(&running, &twice());
    assert_eq!((deployed.version, deployed.first_epoch), (1, 2));
    running.stop();
    assert_eq!(site.out()["sums/sums.csv"], b"k,total\nx,2\n");
    // The file that was replaced: what was deployed runs.
    for shape in [Shape::ALONE, Shape::new(2, 1)] {
        site.once(shape).expect_code(0).expect_said("version 1");
    }
    assert_eq!(site.out()["sums/sums.csv"], b"k,total\nx,2\n");
    // A file that nobody deployed: nothing starts.
    let third = SUMS.replace("sum(n)", "sum(n * 3)");
    fs::write(site.yaml(), &third).unwrap();
    for shape in [Shape::ALONE, Shape::new(2, 1)] {
        site.once(shape).expect_code(1).expect_said("--redeploy");
    }
    assert_eq!(site.out()["sums/sums.csv"], b"k,total\nx,2\n");
    // The one that was deployed: it is the one.
    fs::write(site.yaml(), twice()).unwrap();
    site.once(Shape::ALONE).expect_code(0);
    // It is to count whatever was deployed.
    fs::write(site.yaml(), &third).unwrap();
    site.always(&["--redeploy"]);
    site.once(Shape::new(2, 1)).expect_code(0);
    assert_eq!(site.out()["sums/sums.csv"], b"k,total\nx,3\n");
    site.always(&[]);
    site.once(Shape::ALONE).expect_code(0);
    assert_eq!(site.out()["sums/sums.csv"], b"k,total\nx,3\n");
}

const TWO: &str = "\
pipeline: two
sources:
  a: { format: csv, fields: { k: string, n: int }, pattern: \"a*\" }
  b: { format: csv, fields: { k: string, n: int }, pattern: \"b*\" }
operators:
  sums_a: { from: a, aggregate: { by: [k], compute: { total: sum(n) } } }
  sums_b: { from: b, aggregate: { by: [k], compute: { total: sum(n * 1) } } }
  best_a: { from: a, top: { by: [k], order: [n desc], k: 1 } }
sinks:
  sums_a: { from: sums_a, table: { format: csv, key: [k] } }
  sums_b: { from: sums_b, table: { format: csv, key: [k] } }
  best_a: { from: best_a, table: { format: csv, key: [k, n] } }
";

/// What did not change goes on with what it keeps: its inputs are not even there any more. What did is
/// made again from its own, and both are in the next checkpoint.
#[track_caller]
fn check_kept(shape: Shape) {
    let mut site = Site::new(NODE, TWO);
    site.always(&["--checkpoint-every", "10ms"]);
    let mut running = site.start(shape);
    for at in 1..=3 {
        commit(&running, &format!("a{at}.csv"), format!("k,n\nx,{at}\n").as_bytes());
        commit(&running, &format!("b{at}.csv"), format!("k,n\nx,{at}\n").as_bytes());
    }
    running.wait_for_checkpoint(6);
    for at in 1..=3 {
        fs::remove_file(site.folder("processed").join(format!("a{at}.csv"))).unwrap();
    }
    let changed = TWO.replace("n * 1", "n * 10");
    let deployed = deploy(&running, &changed);
    assert_eq!(deployed.files, 3, "only those of b are read again: {deployed:?}");
    let said = fates(&deployed.parts);
    for part in ["operator sums_a: kept", "operator best_a: kept", "operator sums_b: rebuilt"] {
        assert!(said.iter().any(|one| one == part), "{part}: {said:?}");
    }
    commit(&running, "a4.csv", b"k,n\nx,2\ny,7\n");
    commit(&running, "b4.csv", b"k,n\nx,4\n");
    running.wait_for_checkpoint(8);
    running.kill();
    for at in 1..=4 {
        fs::remove_file(site.folder("processed").join(format!("b{at}.csv"))).unwrap();
    }
    site.once(Shape::new(1, 3)).expect_code(0);
    let out = site.out();
    assert_eq!(out["sums_a/sums_a.csv"], b"k,total\nx,8\ny,7\n");
    assert_eq!(out["sums_b/sums_b.csv"], b"k,total\nx,100\n");
    assert_eq!(out["best_a/best_a.csv"], b"k,n\nx,3\ny,7\n");
}

#[test]
fn what_did_not_change_goes_on_without_its_inputs() {
    check_kept(Shape::new(1, 2));
}

#[test]
fn what_did_not_change_goes_on_in_every_process() {
    check_kept(Shape::new(2, 1));
}

/// A kill behind a deployment, before there is a checkpoint of the new plan: the part of the old one is
/// taken up again.
#[test]
fn a_part_of_a_checkpoint_is_taken_up_as_often_as_it_is_needed() {
    let mut site = Site::new(NODE, TWO);
    site.always(&["--checkpoint-every", "10ms"]);
    let mut running = site.start(Shape::new(1, 2));
    commit(&running, "a1.csv", b"k,n\nx,1\n");
    commit(&running, "b1.csv", b"k,n\nx,1\n");
    running.wait_for_checkpoint(2);
    running.kill();
    site.always(&["--checkpoint-every", "1h"]);
    let running = site.start(Shape::new(1, 2));
    deploy(&running, &TWO.replace("n * 1", "n * 10"));
    commit(&running, "a2.csv", b"k,n\nx,5\n");
    running.kill();
    let running = site.start(Shape::new(1, 1));
    commit(&running, "b2.csv", b"k,n\nx,5\n");
    running.kill();
    site.once(Shape::new(2, 2)).expect_code(0);
    let out = site.out();
    assert_eq!(out["sums_a/sums_a.csv"], b"k,total\nx,6\n");
    assert_eq!(out["sums_b/sums_b.csv"], b"k,total\nx,60\n");
    assert_eq!(out["best_a/best_a.csv"], b"k,n\nx,5\n");
}

/// One source feeds what is kept and what is made again: its files come to both, and count once.
#[test]
fn what_goes_on_passes_over_the_files_that_are_read_again() {
    let with_all = |yaml: &str| {
        format!("{yaml}  all: {{ from: rows, table: {{ format: csv, key: [k, n] }} }}\n")
    };
    let mut site = Site::new(NODE, &with_all(SUMS));
    site.always(&["--checkpoint-every", "10ms"]);
    let mut running = site.start(Shape::new(1, 2));
    commit(&running, "a.csv", b"k,n\nx,1\n");
    commit(&running, "b.csv", b"k,n\nx,10\n");
    running.wait_for_checkpoint(2);
    let deployed = deploy(&running, &with_all(&twice()));
    assert_eq!(deployed.files, 2, "{deployed:?}");
    let said = fates(&deployed.parts);
    for part in ["operator hits: kept", "sink all: kept", "operator sums: rebuilt"] {
        assert!(said.iter().any(|one| one == part), "{part}: {said:?}");
    }
    commit(&running, "c.csv", b"k,n\nx,100\n");
    running.stop();
    assert_eq!(site.out()["hits/hits.csv"], b"k,hits\nx,3\n");
    assert_eq!(site.out()["all/all.csv"], b"k,n\nx,1\nx,10\nx,100\n");
    assert_eq!(site.out()["sums/sums.csv"], b"k,total\nx,222\n");
}

/// What counts rejected records is made again from the files that they were in.
#[test]
fn what_is_made_of_rejected_records_is_rebuilt_while_others_go_on() {
    let counted = TWO.replace(
        "sinks:\n",
        "  wrong_b: { from: b.errors, aggregate: { by: [code], compute: { hits: count(*) } } }\nsinks:\n  \
         wrong_b: { from: wrong_b, table: { format: csv, key: [code] } }\n",
    );
    let mut site = Site::new(NODE, &counted);
    site.always(&["--checkpoint-every", "10ms"]);
    let mut running = site.start(Shape::new(1, 2));
    commit(&running, "a1.csv", b"k,n\nx,1\n");
    commit(&running, "b1.csv", b"k,n\nx,one\nx,two\n");
    running.wait_for_checkpoint(2);
    let deployed = deploy(&running, &counted.replace("hits: count(*)", "hits: sum(line)"));
    assert_eq!(deployed.files, 1, "only those of b are read again: {deployed:?}");
    commit(&running, "b2.csv", b"k,n\nx,three\n");
    running.stop();
    assert_eq!(site.out()["wrong_b/wrong_b.csv"], b"code,hits\nfield_type,7\n");
    assert_eq!(site.out()["sums_a/sums_a.csv"], b"k,total\nx,1\n");
}

/// The steps of a deployment, and whether the new text counts after a kill there.
const STEPS: [(&str, bool); 6] = [
    ("deploy-held", false),
    ("deploy-drained", false),
    ("deploy-written", false),
    ("deploy-durable", true),
    ("deploy-told", true),
    ("deploy-ended", true),
];

/// How long the answer of a server that is about to die is waited for. The call goes on without us.
const BRIEFLY: Duration = Duration::from_millis(300);

#[test]
fn a_kill_at_any_step_leaves_the_old_plan_or_the_new_one() {
    for (step, is_new) in STEPS {
        let mut site = Site::new(NODE, SUMS);
        site.variable("TIDEMILL_FAILPOINT", Some(&format!("{step}=kill")));
        let running = site.start(Shape::new(1, 2));
        let before = commit(&running, "a.csv", b"k,n\nx,1\n");
        site.put("b.csv", b"k,n\nx,10\n");
        // It dies in the middle, or right behind its answer.
        let yaml = twice();
        let call = running.client().deploy(&yaml, false, PATIENCE);
        drop(running.ask(async { tokio::time::timeout(BRIEFLY, call).await }));
        running.ended();
        site.put("c.csv", b"k,n\nx,100\n");
        site.variable("TIDEMILL_FAILPOINT", None);
        let running = site.start(Shape::new(1, 1));
        running.wait_for_finished(3);
        let pipeline = running.ask(running.client().pipeline(None)).unwrap();
        assert_eq!(pipeline.yaml == twice(), is_new, "{step}");
        let old = plan_of(&running, before);
        let last = running.ask(running.client().get(before + 2)).unwrap();
        assert_eq!(last.receipt.unwrap().plan_hash != old, is_new, "{step}");
        running.stop();
        let total = if is_new { 222 } else { 111 };
        assert_eq!(
            site.out()["sums/sums.csv"],
            format!("k,total\nx,{total}\n").into_bytes(),
            "{step}"
        );
        assert_eq!(site.names("processed"), ["a.csv", "b.csv", "c.csv"], "{step}");
        assert_eq!(site.out()["copy/c.csv"], b"x,100\n", "{step}");
    }
}

#[test]
fn a_generation_that_is_killed_in_the_middle_comes_back_by_itself() {
    for step in ["deploy-written", "deploy-durable"] {
        let mut site = Site::new(NODE, SUMS);
        site.announce("this generation is over: process 0 is gone");
        site.variable("TIDEMILL_FAILPOINT", Some(&format!("{step}=kill")));
        let running = site.start(Shape::new(2, 1));
        commit(&running, "a.csv", b"k,n\nx,1\n");
        // The client asks again until somebody answers; what took over meanwhile runs already.
        deploy(&running, &twice());
        commit(&running, "b.csv", b"k,n\nx,10\n");
        let ended = running.stop();
        // What the generation before it did, it does not know.
        let last = "committed 1 files, 1 records (0 rejected) in ";
        let line = ended.stdout.lines().last().unwrap();
        assert!(
            line.starts_with(last) && line.ends_with("since the processes last started"),
            "{line}"
        );
        assert_eq!(site.out()["sums/sums.csv"], b"k,total\nx,22\n", "{step}");
    }
}

#[test]
fn files_that_take_too_long_are_waited_for_or_nothing_is_changed() {
    let mut site = Site::new(NODE, SUMS);
    site.variable("TIDEMILL_FAILPOINT", Some("commit-begin=pause"));
    let running = site.start(Shape::ALONE);
    site.put("a.csv", b"k,n\nx,1\n");
    wait_until("the file is under way", || !site.names("underprocess").is_empty());
    let yaml = twice();
    let late = running.client().deploy(&yaml, false, Duration::from_millis(300));
    let late = running.ask(late).unwrap_err().to_string();
    assert!(late.contains("deploy_late") && late.contains("nothing was changed"), "{late}");
    running.kill();
    site.variable("TIDEMILL_FAILPOINT", None);
    site.once(Shape::ALONE).expect_code(0);
    assert_eq!(site.out()["sums/sums.csv"], b"k,total\nx,1\n");
}

#[test]
fn the_command_says_what_it_did() {
    let site = Site::new(NODE, SUMS);
    let running = site.start(Shape::ALONE);
    fs::write(site.path().join("next.yaml"), twice()).unwrap();
    let said = running.call(&["deploy", "next.yaml", "--dry-run", "--json"]);
    assert_eq!(said.expect_code(0).json()["changed"], true);
    let said = running.call(&["deploy", "next.yaml"]);
    assert!(said.expect_code(0).stdout.contains("version 1"), "{said}");
    let said = running.call(&["deploy", "next.yaml"]);
    assert!(said.expect_code(0).stdout.contains("runs already"), "{said}");
    fs::write(site.path().join("next.yaml"), "pipeline: sums\n").unwrap();
    let said = running.call(&["deploy", "next.yaml"]);
    assert!(said.expect_code(2).stdout.contains("not deployed"), "{said}");
    running.stop();
}

/// Which pipelines run.
fn running_names(running: &Running<'_>) -> Vec<String> {
    let pipelines = running.ask(running.client().pipelines()).unwrap();
    pipelines.into_iter().map(|one| one.name).collect()
}

fn others() -> String {
    SUMS.replace("pipeline: sums", "pipeline: others")
}

#[test]
fn a_deployed_pipeline_leaves_with_its_files_finished_and_does_not_come_back() {
    for shape in [Shape::new(1, 2), Shape::new(2, 1)] {
        let site = Site::new(NODE, SUMS);
        let running = site.start(shape);
        deploy(&running, &others());
        let unprocessed = site.home().join("others/unprocessed");
        for at in 0..20 {
            fs::write(site.path().join("o.csv"), b"k,n\nx,1\n").unwrap();
            fs::rename(site.path().join("o.csv"), unprocessed.join(format!("o{at}.csv"))).unwrap();
        }
        let said = running.call(&["undeploy", "others", "--json"]);
        let said = said.expect_code(0).json();
        assert_eq!(
            (&said["pipeline"], &said["serves"]),
            (&"others".into(), &true.into()),
            "{said}"
        );
        assert_eq!(running_names(&running), ["sums"]);
        // What was taken is finished, what was not lies where it lay.
        let folder =
            |name: &str| fs::read_dir(site.home().join("others").join(name)).unwrap().count();
        let taken = said["last_epoch"].as_u64().unwrap();
        assert_eq!(folder("processed") as u64, taken, "{said}");
        assert_eq!(folder("unprocessed") as u64, 20 - taken, "{said}");
        assert_eq!(folder("underprocess"), 0);
        commit(&running, "a.csv", b"k,n\nx,1\n");
        running.kill();
        let running = site.start(Shape::ALONE);
        assert_eq!(running_names(&running), ["sums"], "{shape}");
        // It comes back when it is deployed again, with what it had.
        deploy(&running, &others());
        let all = || folder("processed") == 20;
        wait_until("the rest is taken", all);
        running.stop();
        let sums = fs::read(site.home().join("others/out/sums/sums.csv")).unwrap();
        assert_eq!(sums, b"k,total\nx,20\n", "{shape}");
    }
}

#[test]
fn a_pipeline_that_cannot_leave_goes_on() {
    let site = Site::new(NODE, SUMS);
    let running = site.start(Shape::ALONE);
    let said = running.call(&["undeploy", "sums"]);
    assert!(said.expect_code(1).stdout.contains("start it without that file"), "{said}");
    // Another text of it does not make it one that was only deployed.
    deploy(&running, &twice());
    let said = running.call(&["undeploy", "sums", "--json"]);
    assert_eq!(said.expect_code(1).json()["error"]["code"], "no_deploy", "{said}");
    let said = running.call(&["undeploy", "nobody"]);
    assert!(said.expect_code(1).stdout.contains("no pipeline is called"), "{said}");
    commit(&running, "a.csv", b"k,n\nx,1\n");
    running.stop();
}

#[test]
fn a_kill_while_a_pipeline_leaves_lets_it_stay_or_go() {
    // Before it is written, and behind it.
    for (step, is_gone) in [STEPS[2], STEPS[3], STEPS[5]] {
        let mut site = Site::new(NODE, SUMS);
        // The first boundary is that of the deployment.
        site.variable("TIDEMILL_FAILPOINT", Some(&format!("{step}@2=kill")));
        let running = site.start(Shape::ALONE);
        deploy(&running, &others());
        let call = running.client().undeploy("others", PATIENCE);
        drop(running.ask(async { tokio::time::timeout(BRIEFLY, call).await }));
        running.ended();
        site.variable("TIDEMILL_FAILPOINT", None);
        let running = site.start(Shape::ALONE);
        assert_eq!(running_names(&running).len(), if is_gone { 1 } else { 2 }, "{step}");
        running.stop();
    }
}

const WITH_PARAMS: &str = "\
pipeline: sums
params: { FACTOR: { type: int, default: 1 } }
sources:
  rows: { format: csv, fields: { k: string, n: int } }
operators:
  sums: { from: rows, aggregate: { by: [k], compute: { total: \"sum(n * ${FACTOR})\" } } }
sinks:
  sums: { from: sums, table: { format: csv, key: [k] } }
";

#[test]
fn what_parameters_were_given_is_remembered_like_the_file() {
    let mut site = Site::new(NODE, SUMS);
    let running = site.start(Shape::ALONE);
    commit(&running, "a.csv", b"k,n\nx,1\n");
    // A value that no file has a parameter for, or that is none: nothing is asked of the server.
    fs::write(site.yaml(), WITH_PARAMS).unwrap();
    let file = site.yaml().to_str().unwrap().to_owned();
    let said = running.call(&["deploy", &file, "--param", "FACTR=7"]);
    assert!(said.expect_code(2).stderr.contains("did you mean `FACTOR`?"), "{said}");
    let said = running.call(&["deploy", &file, "--param", "FACTOR=7"]);
    assert!(said.expect_code(0).stdout.contains("version 1"), "{said}");
    running.kill();
    // The same file, and nothing said of its parameter: it is what was deployed.
    for shape in [Shape::ALONE, Shape::new(2, 1)] {
        site.put("b.csv", b"k,n\nx,1\n");
        site.once(shape).expect_code(0);
    }
    assert_eq!(site.out()["sums/sums.csv"], b"k,total\nx,21\n");
    // Another value is another file, which nobody deployed.
    site.always(&["--param", "FACTOR=8"]);
    site.once(Shape::ALONE).expect_code(1).expect_said("--redeploy");
    site.always(&["--param", "FACTOR=8", "--redeploy"]);
    site.once(Shape::ALONE).expect_code(0);
    assert_eq!(site.out()["sums/sums.csv"], b"k,total\nx,24\n");
}
