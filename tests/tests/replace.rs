//! Replace and remove: everything that came of a file is what it would be if only the files that are
//! left had ever come.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write as _;
use std::time::{Duration, Instant};

use tidemill_client::{Phase, Replaces, Submission, SubmitOptions, Which};
use tidemill_tests::{Running, Shape, Site, Steps, Verb, steps, tree};

const NODE: &str = env!("CARGO_BIN_EXE_node");

const PIPELINE: &str = "
pipeline: sales
sources:
  rows: { format: csv, fields: { user: string, n: int }, pattern: \"*.csv*\" }
operators:
  size: { from: rows, route: { big: n >= 10, small: else } }
  sums: { from: [size.big, size.small], aggregate: { by: [user], compute: { hits: count(*), total: sum(n) } } }
  busy: { from: sums, filter: hits > 1 }
sinks:
  big: { from: size.big, files: { format: csv } }
  small: { from: size.small, files: { format: raw } }
  sums: { from: sums, table: { format: csv, key: [user] } }
  busy: { from: busy, table: { format: jsonl, key: [user] } }
  rows: { from: size.small, table: { format: csv, key: [user, n] } }
";

const A: &[u8] = b"user,n\nann,1\nbob,20\nann,x\n";
const B: &[u8] = b"user,n\nann,5\ncy,6\n";

fn given() -> Steps {
    Steps::default()
        .then(Verb::Add, &[("a.csv", A), ("b.csv", B), ("c.csv", b"user,n\nbob,2\n")])
        .then(Verb::Replace, &[("a.csv", b"user,n\nann,100\ndee,7\n")])
        .then(Verb::Remove, &[("b.csv", b"")])
        .then(
            Verb::Replace,
            &[("a.csv", b"user,n\neve,3\neve,4\n"), ("new.csv", b"user,n\nann,9\n")],
        )
        .then(Verb::Add, &[("d.csv", b"user,n\nbob,30\n")])
        .then(Verb::Remove, &[("c.csv", b""), ("d.csv", b"")])
}

/// Compares everything that is visible with a run that saw the survivors only.
#[track_caller]
fn check(site: &Site, steps: &Steps) {
    let expected = steps::fresh(NODE, PIPELINE, &steps.survivors(), Shape::ALONE);
    assert_eq!(tree::difference(&expected, &site.out()), None);
    for folder in ["unprocessed", "underprocess", "quarantine"] {
        assert_eq!(site.names(folder), [""; 0], "{folder}/");
    }
    let doctor = site.call(&["doctor", "home", "--deep"]);
    doctor.expect_code(0);
    assert!(doctor.stdout.contains("healthy"), "{}", doctor.stdout);
}

#[test]
fn what_is_left_is_all_that_counts() {
    for shape in [Shape::new(1, 3), Shape::new(2, 2)] {
        let site = Site::new(NODE, PIPELINE);
        given().take(&site, shape);
        check(&site, &given());
        // And so it is when everything is built again.
        fs::remove_dir_all(site.home().join("ckpt")).unwrap();
        site.once(Shape::new(1, 2)).expect_code(0);
        check(&site, &given());
    }
}

#[test]
fn a_kill_behind_each_step_changes_nothing() {
    for shape in [Shape::ALONE, Shape::new(2, 2)] {
        let site = Site::new(NODE, PIPELINE);
        given().take_and_kill(&site, shape);
        check(&site, &given());
    }
}

#[test]
fn a_checkpoint_between_a_version_and_its_correction_is_corrected() {
    let site = Site::new(NODE, PIPELINE);
    // A clean end writes a checkpoint; the next life begins with it.
    let first = Steps::default().then(Verb::Add, &[("a.csv", A), ("b.csv", B)]);
    let mut all = first.clone();
    first.take(&site, Shape::new(1, 2));
    type Files = [(&'static str, &'static [u8])];
    let rest: [(Verb, &Files); 3] = [
        (Verb::Replace, &[("a.csv", b"user,n\nzoe,1\n")]),
        (Verb::Remove, &[("b.csv", b"")]),
        (Verb::Add, &[("e.csv", b"user,n\nann,1\n")]),
    ];
    for (verb, files) in rest {
        all = all.then(verb, files);
        let step = Steps::default().then(verb, files);
        step.take_and_kill(&site, Shape::new(2, 1));
        check(&site, &all);
    }
}

fn replace(running: &Running<'_>, name: &str, bytes: &[u8]) -> Submission {
    let options = SubmitOptions { replaces: Replaces::SameName, ..SubmitOptions::default() };
    running.ask(running.client().submit_bytes_with(name, bytes.to_vec(), options)).unwrap()
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn replacements_that_come_at_once_come_one_after_the_other() {
    let site = Site::new(NODE, PIPELINE);
    let running = site.start(Shape::new(1, 2));
    running.submit("a.csv", A);
    let versions: Vec<u64> = (0..20)
        .map(|n| replace(&running, "a.csv", format!("user,n\nv{n},{n}\n").as_bytes()).id)
        .collect();
    for id in &versions {
        assert_eq!(running.wait(*id).phase, Phase::Committed);
    }
    let last = running.ask(running.client().get(versions[19])).unwrap();
    assert_eq!((last.replaces, last.replaced_by), (Some(versions[18]), None));
    let first = running.ask(running.client().get(versions[0])).unwrap();
    assert_eq!(first.replaced_by, Some(versions[1]));
    running.stop();
    check(&site, &Steps::default().then(Verb::Add, &[("a.csv", b"user,n\nv19,19\n")]));
}

#[test]
fn an_identical_an_empty_and_a_packed_version_are_versions_too() {
    let big: String = (0..60_000).map(|n| format!("u{},{}\n", n % 977, n % 31)).collect();
    let big = format!("user,n\n{big}");
    let contents: [(&str, &[u8]); 5] = [
        ("same", A),
        ("empty", b""),
        ("header only", b"user,n\n"),
        ("big", big.as_bytes()),
        ("b", B),
    ];
    for (what, bytes) in contents {
        let site = Site::new(NODE, PIPELINE);
        let running = site.start(Shape::new(1, 3));
        running.submit("a.csv", A);
        running.wait(replace(&running, "a.csv", bytes).id);
        // The other way, too: what is taken back has more pieces, or fewer, or is a stream.
        running.wait(replace(&running, "a.csv", B).id);
        let last = running.wait(replace(&running, "a.csv", bytes).id);
        assert_eq!(last.phase, Phase::Committed, "{what}: {:?}", last.reason);
        running.stop();
        check(&site, &Steps::default().then(Verb::Add, &[("a.csv", bytes)]));
    }
    let site = Site::new(NODE, PIPELINE);
    let running = site.start(Shape::new(1, 3));
    let first = running.submit("a.csv.gz", &packed(big.as_bytes()));
    let options = |id| SubmitOptions { replaces: Replaces::Submission(id), ..Default::default() };
    let sent =
        running.client().submit_bytes_with("a.csv", big.clone().into_bytes(), options(first.id));
    let second = running.ask(sent).unwrap();
    let sent = running.client().submit_bytes_with("a.csv.gz", packed(B), options(second.id));
    let third = running.ask(sent).unwrap();
    assert_eq!(running.wait(third.id).phase, Phase::Committed);
    running.stop();
    check(&site, &Steps::default().then(Verb::Add, &[("a.csv", B)]));
}

#[test]
fn rejects_of_the_old_version_do_not_count_against_the_new_one() {
    let yaml = PIPELINE.replace("pattern:", "max_rejects: 1, pattern:");
    let site = Site::new(NODE, &yaml);
    let running = site.start(Shape::new(1, 2));
    // One is rejected of each version, and one may be.
    running.wait(running.submit("a.csv", A).id);
    let new: &[u8] = b"user,n\nann,2\nbob,y\n";
    assert_eq!(running.wait(replace(&running, "a.csv", new).id).phase, Phase::Committed);
    running.stop();
    let left = Steps::default().then(Verb::Add, &[("a.csv", new)]);
    let expected = steps::fresh(NODE, &yaml, &left.survivors(), Shape::ALONE);
    assert_eq!(tree::difference(&expected, &site.out()), None);
}

#[test]
fn a_bad_replacement_changes_nothing_and_the_next_one_replaces_what_stands() {
    let yaml = PIPELINE.replace("pattern:", "max_rejects: 1, pattern:");
    let site = Site::new(NODE, &yaml);
    let running = site.start(Shape::new(1, 2));
    let one = running.wait(running.submit("a.csv", A).id);
    running.wait_for_settled(&site);
    let before = site.out();
    let bad = replace(&running, "a.csv", b"user,n\nann,x\nann,y\n");
    let good = replace(&running, "a.csv", b"user,n\nann,2\n");
    let bad = running.wait(bad.id);
    assert_eq!((bad.phase, bad.replaces), (Phase::Quarantined, Some(one.id)));
    let good = running.wait(good.id);
    assert_eq!(good.phase, Phase::Committed);
    assert_eq!(running.ask(running.client().get(good.id)).unwrap().replaces, Some(one.id));
    let again = replace(&running, "a.csv", b"user,n\nann,x\nann,y\n");
    assert_eq!(running.wait(again.id).phase, Phase::Quarantined);
    running.stop();
    assert_ne!(before, site.out());
    let expected = Steps::default().then(Verb::Add, &[("a.csv", b"user,n\nann,2\n")]);
    let expected = steps::fresh(NODE, &yaml, &expected.survivors(), Shape::ALONE);
    assert_eq!(tree::difference(&expected, &site.out()), None);
}

#[test]
fn a_file_in_quarantine_is_not_replaced_but_followed() {
    let yaml = PIPELINE.replace("pattern:", "max_rejects: 0, pattern:");
    let site = Site::new(NODE, &yaml);
    let running = site.start(Shape::ALONE);
    let bad = running.wait(running.submit("a.csv", b"user,n\nann,x\n").id);
    assert_eq!(bad.phase, Phase::Quarantined);
    let good = running.wait(replace(&running, "a.csv", B).id);
    assert_eq!((good.phase, good.replaces), (Phase::Committed, None));
    let removed = running.ask(running.client().remove(Which::Id(bad.id)));
    assert!(removed.unwrap_err().to_string().contains("set aside"));
    running.stop();
}

#[test]
fn what_cannot_be_removed_is_refused_clearly() {
    let site = Site::new(NODE, PIPELINE);
    let running = site.start(Shape::ALONE);
    let one = running.wait(running.submit("a.csv", A).id);
    let removed = running.call(&["remove", "a.csv", "--wait", "--json"]);
    let removal = removed.expect_code(0).json();
    assert_eq!((&removal["removes"], &removal["phase"]), (&one.id.into(), &"committed".into()));
    for (what, said) in [
        (one.id.to_string(), "it was removed before"),
        ("a.csv".to_owned(), "no committed file of that name is current"),
        ("99".to_owned(), "no submission has the id 99"),
        (removal["id"].to_string(), "it is a removal itself"),
    ] {
        let refused = running.call(&["remove", &what]);
        refused.expect_code(1);
        assert!(refused.stdout.contains(said), "{what}: {}", refused.stdout);
    }
    let new = running.wait(replace(&running, "a.csv", B).id);
    assert_eq!((new.phase, new.replaces), (Phase::Committed, None));
    running.stop();
}

#[test]
fn old_bytes_that_are_not_what_they_were_correct_nothing() {
    for edit in ["gone", "changed", "put back"] {
        let site = Site::new(NODE, PIPELINE);
        let running = site.start(Shape::new(1, 2));
        running.wait(running.submit("a.csv", A).id);
        running.wait(running.submit("b.csv", B).id);
        running.wait_for_settled(&site);
        let path = site.folder("processed").join("a.csv");
        match edit {
            "gone" => fs::remove_file(&path).unwrap(),
            "changed" => fs::write(&path, A.to_ascii_uppercase()).unwrap(),
            _ => {
                fs::rename(&path, site.path().join("elsewhere")).unwrap();
                fs::copy(site.path().join("elsewhere"), &path).unwrap();
            }
        }
        let replaced = running.wait(replace(&running, "a.csv", b"user,n\nann,2\n").id);
        let removed = running
            .ask(running.client().remove(Which::Name { pipeline: None, name: "a.csv".into() }));
        let removed = running.wait(removed.unwrap().id);
        running.stop();
        if edit == "put back" {
            assert_eq!((replaced.phase, removed.phase), (Phase::Committed, Phase::Committed));
            check(&site, &Steps::default().then(Verb::Add, &[("b.csv", B)]));
            continue;
        }
        for failed in [replaced, removed] {
            assert_eq!(failed.phase, Phase::Quarantined, "{edit}");
            assert_eq!(failed.reason.unwrap().code, "old_version_lost", "{edit}");
        }
        let both = Steps::default().then(Verb::Add, &[("a.csv", A), ("b.csv", B)]);
        let expected = steps::fresh(NODE, PIPELINE, &both.survivors(), Shape::ALONE);
        assert_eq!(tree::difference(&expected, &site.out()), None, "{edit}");
        assert_eq!(site.names("quarantine"), ["a~2.csv", "a~2.csv.reason.json"]);
    }
}

/// The pipeline with these settings of its source.
fn with(settings: &str) -> String {
    PIPELINE.replace("pattern:", &format!("{settings}, pattern:"))
}

#[track_caller]
fn check_against(site: &Site, yaml: &str, files: &[(&str, &[u8])]) {
    let files = Steps::default().then(Verb::Add, files).survivors();
    let expected = steps::fresh(NODE, yaml, &files, Shape::ALONE);
    assert_eq!(tree::difference(&expected, &site.out()), None);
}

#[test]
fn a_dropped_file_takes_the_place_of_the_last_one_of_its_name_where_its_source_says_so() {
    let site = Site::new(NODE, &with("on_same_name: replace"));
    site.put("a.csv", A);
    site.put("b.csv", B);
    site.once(Shape::ALONE).expect_code(0);
    for version in [&b"user,n\nann,3\n"[..], b"user,n\nann,4\n"] {
        site.put("a.csv", version);
        site.once(Shape::new(1, 2)).expect_code(0);
    }
    check_against(&site, PIPELINE, &[("a.csv", b"user,n\nann,4\n"), ("b.csv", B)]);
    assert_eq!(site.names("processed"), ["a~3.csv", "b.csv"]);
}

#[test]
fn a_kill_while_an_input_is_retained_changes_nothing() {
    let mut site = Site::new(NODE, &with("corrections: forever"));
    site.put("a.csv", A);
    site.variable("TIDEMILL_FAILPOINT", Some("retain-linked=kill"));
    assert_ne!(site.once(Shape::ALONE).code, Some(0), "it was not reached");
    site.variable("TIDEMILL_FAILPOINT", None);
    site.once(Shape::ALONE).expect_code(0);
    check_against(&site, PIPELINE, &[("a.csv", A)]);
    assert_eq!(site.names("retained"), ["a.csv"]);
}

#[test]
fn a_kill_at_each_step_of_a_correction_changes_nothing() {
    const STEPS: [&str; 9] = [
        "accept-durable",
        "order-given",
        "commit-written",
        "commit-durable",
        "publish-part-done",
        "retire-begin",
        "retire-moved",
        "settle-done",
        "retained-discarded",
    ];
    const REMOVAL_STEPS: [&str; 3] = ["removal-begin", "removal-written", "removal-durable"];
    for name in STEPS.into_iter().chain(REMOVAL_STEPS) {
        let mut site = Site::new(NODE, &with("on_same_name: replace"));
        site.put("a.csv", A);
        site.put("b.csv", B);
        site.once(Shape::ALONE).expect_code(0);
        let is_removal = REMOVAL_STEPS.contains(&name);
        if !is_removal {
            site.put("a.csv", b"user,n\nann,3\n");
            site.variable("TIDEMILL_FAILPOINT", Some(&format!("{name}=kill")));
            let ended = site.once(Shape::ALONE);
            assert_ne!(ended.code, Some(0), "{name} was not reached by a replacement");
            site.variable("TIDEMILL_FAILPOINT", None);
            site.once(Shape::ALONE).expect_code(0);
        }
        let which = || Which::Name { pipeline: None, name: "b.csv".into() };
        // The others are reached by the start itself.
        if !["accept-durable", "order-given", "retained-discarded"].contains(&name) {
            site.variable("TIDEMILL_FAILPOINT", Some(&format!("{name}=kill")));
            let running = site.start(Shape::new(1, 2));
            // It ends before it can answer, or before the end can be waited for.
            if let Ok(removal) = running.ask(running.client().remove(which())) {
                let second = std::time::Duration::from_secs(1);
                let _ = running.ask(running.client().wait(removal.id, second));
            }
            assert_eq!(running.ended().code, None, "{name} was not reached by a removal");
        }
        site.variable("TIDEMILL_FAILPOINT", None);
        let running = site.start(Shape::ALONE);
        let of_b = |page: tidemill_client::Page| {
            page.submissions.into_iter().filter(|one| one.name == "b.csv").map(|one| one.id).max()
        };
        let listed = running.ask(running.client().list(&Default::default())).unwrap();
        let last = of_b(listed).unwrap();
        let last = running.wait(last);
        if last.removes.is_none() {
            let removal = running.ask(running.client().remove(which())).unwrap();
            assert_eq!(running.wait(removal.id).phase, Phase::Committed, "{name}");
        }
        running.wait_for_finished(4 - u64::from(is_removal));
        running.stop();
        let left: &[u8] = if is_removal { A } else { b"user,n\nann,3\n" };
        check_against(&site, PIPELINE, &[("a.csv", left)]);
        let doctor = site.call(&["doctor", "home", "--deep"]);
        assert!(doctor.stdout.contains("healthy"), "{name}: {}", doctor.stdout);
    }
}

#[test]
fn a_retained_file_can_be_corrected_when_processed_is_empty_and_a_deleted_one_is_removed() {
    let yaml = with("corrections: forever, on_delete: retract");
    let site = Site::new(NODE, &yaml);
    let running = site.start(Shape::new(1, 2));
    running.wait(running.submit("a.csv", A).id);
    running.wait(running.submit("b.csv", B).id);
    let a = replace(&running, "a.csv", b"user,n\nann,3\n");
    running.wait(a.id);
    running.wait_for_settled(&site);
    fs::remove_file(site.folder("processed").join("b.csv")).unwrap();
    running.wait_for_finished(4);
    assert_eq!(running.ask(running.client().get(a.id)).unwrap().removed_by, None);
    running.stop();
    check_against(&site, PIPELINE, &[("a.csv", b"user,n\nann,3\n")]);
    // What is deleted while nothing runs is found by the next start.
    fs::remove_file(site.folder("processed").join("a~2.csv")).unwrap();
    site.once(Shape::ALONE).expect_code(0);
    check_against(&site, PIPELINE, &[]);
}

#[test]
fn what_a_start_went_on_without_is_not_taken_back() {
    let mut site = Site::new(NODE, PIPELINE);
    site.put("a.csv", A);
    site.put("b.csv", B);
    site.once(Shape::ALONE).expect_code(0);
    let (path, away) = (site.folder("processed").join("a.csv"), site.path().join("away"));
    fs::rename(&path, &away).unwrap();
    fs::remove_dir_all(site.home().join("ckpt")).unwrap();
    site.always(&["--forget-missing"]);
    site.once(Shape::ALONE).expect_code(0);
    fs::rename(&away, &path).unwrap();
    let running = site.start(Shape::ALONE);
    let lost =
        running.ask(running.client().remove(Which::Name { pipeline: None, name: "a.csv".into() }));
    assert_eq!(running.wait(lost.unwrap().id).phase, Phase::Committed);
    running.stop();
    check_against(&site, PIPELINE, &[("b.csv", B)]);
}

const HORIZON: &str = "
pipeline: seen
sources:
  rows: { format: csv, fields: { k: string, t: timestamp } }
operators:
  runs:
    from: rows
    state:
      { key: [k], order: [t], horizon: 45m, initial: on, vars: { n: { type: int, initial: 0 } }, transitions: [ { set: { n: n + 1 } } ], add: { n: n } }
sinks:
  runs: { from: runs.on, table: { format: csv, key: [k, t] } }
";

#[test]
fn what_a_version_made_final_stays_final_also_for_a_start_without_a_checkpoint() {
    let given = Steps::default()
        .then(Verb::Add, &[("x.csv", b"k,t\na,2026-01-01T03:00:00Z\n")])
        .then(Verb::Replace, &[("x.csv", b"k,t\na,2026-01-01T01:00:00Z\n")])
        .then(Verb::Add, &[("late-a.csv", b"k,t\na,2026-01-01T01:30:00Z\n")])
        .then(Verb::Add, &[("z.csv", b"k,t\nb,2026-01-01T05:00:00Z\n")])
        .then(Verb::Remove, &[("z.csv", b"")])
        .then(Verb::Add, &[("late-b.csv", b"k,t\nb,2026-01-01T04:00:00Z\n")])
        .then(Verb::Replace, &[("x.csv", b"k,t\na,2026-01-01T06:00:00Z\n")])
        .then(Verb::Replace, &[("x.csv", b"k,t\na,2026-01-01T02:50:00Z\n")])
        .then(Verb::Remove, &[("x.csv", b"")])
        .then(Verb::Add, &[("late-c.csv", b"k,t\na,2026-01-01T05:00:00Z\n")])
        .then(Verb::Add, &[("last.csv", b"k,t\na,2026-01-01T05:30:00Z\n")]);
    let site = Site::new(NODE, HORIZON);
    given.take(&site, Shape::ALONE);
    let expected = site.out();
    let late = |name: &str| expected.contains_key(&format!("rejects/{name}.jsonl"));
    let names = ["late-a.csv", "late-b.csv", "late-c.csv", "last.csv"];
    assert_eq!(names.map(late), [true, true, true, false], "{:?}", expected.keys());

    for shape in [Shape::ALONE, Shape::new(2, 2)] {
        let mut site = Site::new(NODE, HORIZON);
        site.always(&["--checkpoint-every", "1h"]);
        given.take_and_kill(&site, shape);
        assert_eq!(tree::difference(&expected, &site.out()), None, "{shape}");
        assert_eq!(site.names("retained").len(), 5, "{:?}", site.names("retained"));
        let doctor = site.call(&["doctor", "home", "--deep"]);
        assert!(doctor.stdout.contains("healthy"), "{}", doctor.stdout);
        // Nothing reads them any more when both checkpoints that are kept lie behind.
        site.always(&["--checkpoint-every", "1ms"]);
        let running = site.start(shape);
        let deadline = Instant::now() + Duration::from_secs(60);
        for n in 0.. {
            running.wait(running.submit(&format!("c{n}"), b"k,t\nc,2026-01-01T03:00:00Z\n").id);
            if site.names("retained").is_empty() {
                break;
            }
            assert!(Instant::now() < deadline, "{:?}", site.names("retained"));
        }
        running.stop();
    }
}

#[test]
fn sources_that_are_never_corrected_say_so() {
    for (settings, said) in
        [("append_only: true", "append_only: true"), ("corrections: off", "corrections: off")]
    {
        let site = Site::new(NODE, &with(settings));
        let running = site.start(Shape::ALONE);
        running.wait(running.submit("a.csv", A).id);
        fs::write(site.path().join("a.csv"), B).unwrap();
        for arguments in [&["remove", "a.csv"][..], &["submit", "--replace", "a.csv"]] {
            let refused = running.call(arguments);
            refused.expect_code(1);
            let text = format!("{}{}", refused.stdout, refused.stderr);
            assert!(text.contains(said), "{arguments:?}: {text}");
        }
        running.stop();
    }
}

/// A day, in seconds.
const DAY: u64 = 86_400;

/// Runs a site once as if it were so much later.
#[track_caller]
fn once_later(site: &mut Site, seconds: u64) {
    site.trial(Some(&format!("later={seconds}")));
    site.once(Shape::ALONE).expect_code(0);
    site.trial(None);
}

#[test]
fn retained_inputs_go_after_their_days_and_corrections_find_them_in_processed() {
    let mut site = Site::new(NODE, &with("corrections: { days: 2 }"));
    site.always(&["--checkpoint-every", "10ms"]);
    let mut running = site.start(Shape::ALONE);
    for (epoch, (name, bytes)) in (1..).zip([("a.csv", A), ("b.csv", B), ("c.csv", B)]) {
        running.wait(running.submit(name, bytes).id);
        running.wait_for_checkpoint(epoch);
    }
    running.stop();
    site.always(&["--checkpoint-every", "1h"]);
    once_later(&mut site, DAY);
    assert_eq!(site.names("retained"), ["a.csv", "b.csv", "c.csv"]);
    // Of the two checkpoints that are kept one does not hold the last file.
    once_later(&mut site, 3 * DAY);
    assert_eq!(site.names("retained"), ["c.csv"]);
    let running = site.start(Shape::ALONE);
    running.wait(replace(&running, "a.csv", b"user,n\nann,3\n").id);
    running.stop();
    check_against(&site, PIPELINE, &[("a.csv", b"user,n\nann,3\n"), ("b.csv", B), ("c.csv", B)]);
    let doctor = site.call(&["doctor", "home", "--deep"]);
    assert!(doctor.stdout.contains("healthy"), "{}", doctor.stdout);
}

#[test]
fn a_retained_input_that_a_start_still_needs_stays_whatever_its_age() {
    let mut site = Site::new(NODE, &with("corrections: { days: 2 }"));
    site.always(&["--checkpoint-every", "1h"]);
    let running = site.start(Shape::ALONE);
    running.wait(running.submit("a.csv", A).id);
    running.wait_for_settled(&site);
    // No checkpoint was taken: the next start reads the input, and processed/ is empty.
    running.kill();
    fs::remove_file(site.folder("processed").join("a.csv")).unwrap();
    for _ in 0..2 {
        once_later(&mut site, 30 * DAY);
        check_against(&site, PIPELINE, &[("a.csv", A)]);
        assert_eq!(site.names("retained"), ["a.csv"]);
    }
    site.always(&["--checkpoint-every", "10ms"]);
    let mut running = site.start(Shape::ALONE);
    for epoch in 2..4 {
        running.wait(running.submit(&format!("{epoch}.csv"), B).id);
        running.wait_for_checkpoint(epoch);
    }
    running.stop();
    site.always(&["--checkpoint-every", "1h"]);
    // Nothing needs its bytes any more.
    once_later(&mut site, 30 * DAY);
    assert_eq!(site.names("retained"), ["3.csv"]);
    site.once(Shape::ALONE).expect_code(0);
    check_against(&site, PIPELINE, &[("2.csv", B), ("3.csv", B), ("a.csv", A)]);
}

/// Each removal gives the next file an output, and the next removal, in the same commit, takes it away.
#[test]
fn an_output_that_a_file_is_given_right_before_its_removal_goes_with_it() {
    let yaml = "
pipeline: sales
sources:
  rows: { format: csv, fields: { user: string }, pattern: \"*.csv\", corrections: forever, on_delete: retract }
operators:
  first: { from: rows, dedupe: { by: [user] } }
sinks:
  first: { from: first, files: { format: csv, empty: skip } }
";
    let site = Site::new(NODE, yaml);
    let running = site.start(Shape::new(1, 2));
    for n in 10..40 {
        site.put(&format!("{n}.csv"), b"user\nann\n");
    }
    running.wait_for_finished(30);
    running.stop();
    assert_eq!(site.names("out").len(), 1);
    tree::read(&site.folder("processed"))
        .keys()
        .for_each(|name| fs::remove_file(site.folder("processed").join(name)).unwrap());
    site.once(Shape::new(1, 2)).expect_code(0);
    assert_eq!(site.names("out"), [""; 0]);
    let doctor = site.call(&["doctor", "home", "--deep"]);
    assert!(doctor.stdout.contains("healthy"), "{}", doctor.stdout);
}
