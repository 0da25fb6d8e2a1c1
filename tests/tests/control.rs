//! Control: what is paused waits, what is drained is done, and neither forgets it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use tidemill_client::{Filter, Phase, Submission};
use tidemill_tests::{Running, Shape, Site, Tree, tree};

const NODE: &str = env!("CARGO_BIN_EXE_node");

const PIPELINE: &str = "
pipeline: p
sources:
  orders: { format: jsonl, fields: { host: string, n: int }, pattern: \"o*\" }
  notes: { format: text, pattern: \"n*\" }
operators:
  by_size: { from: orders, route: { big: n >= 10, small: else } }
  totals: { from: orders, aggregate: { by: [host], compute: { total: sum(n) } } }
sinks:
  big: { from: by_size.big, files: { format: raw, empty: skip } }
  small: { from: by_size.small, files: { format: raw, empty: skip } }
  notes: { from: notes, files: { format: raw } }
  totals: { from: totals, table: { format: csv, key: [host] } }
";

const SMALL: &[u8] = b"{\"host\":\"a\",\"n\":1}\n";
const BIG: &[u8] = b"{\"host\":\"b\",\"n\":10}\n";

/// What comes of these files where nobody pauses anything.
fn undisturbed(inputs: &[(&str, &[u8])]) -> Tree {
    let site = Site::new(NODE, PIPELINE);
    inputs.iter().for_each(|(name, bytes)| site.put(name, bytes));
    site.once(Shape::ALONE).expect_code(0);
    site.out()
}

fn find(running: &Running<'_>, name: &str) -> Option<Submission> {
    let page = running.ask(running.client().list(&Filter::default())).unwrap();
    page.submissions.into_iter().find(|one| one.name == name)
}

/// Waits until a file is known and something is true of it.
#[track_caller]
fn until(running: &Running<'_>, name: &str, is_so: impl Fn(&Submission) -> bool) -> Submission {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let found = find(running, name);
        if let Some(found) = found.as_ref().filter(|found| is_so(found)) {
            return found.clone();
        }
        assert!(Instant::now() < deadline, "{name} does not come so far: {found:?}");
        std::thread::yield_now();
    }
}

/// Waits until so many files wait in `unprocessed/` for what is held back.
#[track_caller]
fn until_waiting(running: &Running<'_>, files: u64) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let pipelines = running.ask(running.client().pipelines()).unwrap();
        let waiting = pipelines[0].holds.iter().map(|hold| hold.files_waiting).max();
        if waiting == Some(files) {
            return;
        }
        assert!(Instant::now() < deadline, "{waiting:?} files wait, not {files}");
        std::thread::yield_now();
    }
}

#[test]
fn a_paused_source_takes_nothing_until_it_is_resumed_and_the_others_go_on() {
    for shape in [Shape::ALONE, Shape::new(2, 2)] {
        let site = Site::new(NODE, PIPELINE);
        let running = site.start(shape);
        let paused = running.call(&["pause", "p.orders"]);
        assert_eq!(paused.expect_code(0).stdout, "p.orders: paused\n");
        let again = running.call(&["pause", "p.orders", "--json"]).expect_code(0).json();
        assert_eq!(
            (&again["changed"], &again["holds"][0]["part"]),
            (&false.into(), &"orders".into())
        );

        site.put("o1", SMALL);
        site.put("n1", b"note\n");
        until(&running, "n1", |note| note.phase == Phase::Committed);
        until_waiting(&running, 1);
        assert_eq!(site.names("unprocessed"), ["o1"]);
        assert_eq!(running.conditions(), ["paused"]);
        let stats = running.call(&["stats"]);
        let told = "source orders of p is paused and takes no files; 1 file waits in unprocessed/";
        assert!(stats.stdout.contains(told), "{stats}");
        assert!(stats.stdout.contains("tidemill resume p.orders"), "{stats}");

        // An upload for it stays with its sender; one for another source does not.
        std::fs::write(site.path().join("o2"), BIG).unwrap();
        let refused = running.call(&["submit", "o2", "--resend", "0"]);
        assert_eq!(refused.code, Some(1), "{refused}");
        assert!(refused.stderr.contains("paused: source orders of p is paused"), "{refused}");
        let note = running.submit("n2", b"note\n");
        assert_eq!(running.wait(note.id).phase, Phase::Committed);

        let resumed = running.call(&["resume", "p.orders"]);
        assert_eq!(resumed.expect_code(0).stdout, "p.orders: resumed\n");
        until(&running, "o1", |order| order.phase == Phase::Committed);
        running.wait(running.submit("o2", BIG).id);
        assert_eq!(running.conditions(), [""; 0]);
        running.stop();
        let inputs: [(&str, &[u8]); 4] =
            [("o1", SMALL), ("o2", BIG), ("n1", b"note\n"), ("n2", b"note\n")];
        assert_eq!(tree::difference(&undisturbed(&inputs), &site.out()), None, "{shape}");
    }
}

#[test]
fn a_paused_sink_holds_the_commit_of_what_reaches_it_and_of_all_behind_also_after_a_kill() {
    for shape in [Shape::ALONE, Shape::new(2, 2)] {
        let site = Site::new(NODE, PIPELINE);
        let running = site.start(shape);
        running.call(&["pause", "p.big"]).expect_code(0);
        // It does not reach the sink.
        running.wait(running.submit("o1", SMALL).id);
        // A table is shown a moment after its rows are committed, and a kill can come in between.
        let files = |site: &Site| {
            let mut out = tree::read(&site.folder("out"));
            out.retain(|path, _| !path.starts_with("totals/"));
            out
        };
        let before = files(&site);
        let held = running.submit("o2", BIG).id;
        let behind = running.submit("o3", SMALL).id;
        let waits = |running: &Running<'_>| {
            let held = until(running, "o2", |one| one.waits_for.is_some());
            assert_eq!((held.phase, held.finished_at), (Phase::Answered, None));
            assert_eq!(held.waits_for.unwrap(), "sink big is paused");
            let behind = until(running, "o3", |one| one.waits_for.is_some());
            assert_eq!(
                behind.waits_for.unwrap(),
                "an earlier file waits for a sink that is paused"
            );
        };
        waits(&running);
        let shown = running.call(&["file", &held.to_string()]);
        assert!(shown.stdout.contains("waits for sink big is paused\n"), "{shown}");
        let listed = running.call(&["files"]);
        assert!(listed.stdout.contains("answered: sink big is paused"), "{listed}");
        running.kill();

        // The next life knows, and reads the files again.
        let running = site.start(shape);
        assert_eq!(running.conditions(), ["paused"]);
        waits(&running);
        assert_eq!(tree::difference(&before, &files(&site)), None);
        // Neither does the end of a server wait for it.
        running.stop();
        let running = site.start(shape);
        waits(&running);
        running.call(&["resume", "p.big"]).expect_code(0);
        assert_eq!(running.wait(held).phase, Phase::Committed);
        assert_eq!(running.wait(behind).phase, Phase::Committed);
        running.stop();
        let inputs = [("o1", SMALL), ("o2", BIG), ("o3", SMALL)];
        assert_eq!(tree::difference(&undisturbed(&inputs), &site.out()), None, "{shape}");
        assert_eq!(site.names("underprocess"), [""; 0]);
    }
}

#[test]
fn a_run_that_takes_what_is_there_ends_although_something_is_paused() {
    let site = Site::new(NODE, PIPELINE);
    let running = site.start(Shape::ALONE);
    running.call(&["pause", "p.big", "p.source:notes"]).expect_code(0);
    running.stop();
    site.put("n1", b"note\n");
    site.put("o1", BIG);
    let ended = site.once(Shape::new(1, 2));
    ended.expect_code(0);
    assert!(ended.stdout.contains("1 files accepted and not finished"), "{ended}");
    assert_eq!(site.names("unprocessed"), ["n1"]);
    assert_eq!(site.names("processed"), [""; 0]);
}

#[test]
fn a_drained_pipeline_has_nothing_under_way_and_takes_nothing_until_it_is_resumed() {
    for shape in [Shape::ALONE, Shape::new(2, 2)] {
        let site = Site::new(NODE, PIPELINE);
        let running = site.start(shape);
        let names: Vec<String> = (0..120).map(|n| format!("o{n:03}")).collect();
        let drained = std::thread::scope(|scope| {
            // Files arrive all the time, before, during and after.
            scope.spawn(|| names.iter().for_each(|name| site.put(name, SMALL)));
            until(&running, "o020", |_| true);
            let drained = running.call(&["drain", "p"]);
            drained.expect_code(0);
            let after = running.ask(running.client().pipelines()).unwrap().remove(0);
            assert_eq!(after.accepted, 0);
            assert_eq!(site.names("underprocess"), [""; 0]);
            assert_eq!(site.names("processed").len() as u64, after.committed);
            let total = format!("host,total\na,{}\n", after.committed);
            assert_eq!(site.out()["totals/totals.csv"], total.as_bytes(), "the table is whole");
            drained
        });
        let last = drained.stdout.lines().last().unwrap();
        assert_eq!(last, "p: drained; tidemill resume p lets it take files again");
        let committed = running.ask(running.client().pipelines()).unwrap()[0].committed;
        until_waiting(&running, 120 - committed);
        assert_eq!(running.conditions(), ["drained"]);
        running.kill();

        let running = site.start(shape);
        assert_eq!(running.conditions(), ["drained"]);
        running.call(&["resume", "p"]).expect_code(0);
        running.wait_for_finished(120);
        running.stop();
        let inputs: Vec<(&str, &[u8])> = names.iter().map(|name| (&**name, SMALL)).collect();
        assert_eq!(tree::difference(&undisturbed(&inputs), &site.out()), None, "{shape}");
    }
}

#[test]
fn a_server_can_be_drained_and_then_stopped_and_the_next_one_takes_files() {
    for shape in [Shape::ALONE, Shape::new(2, 1)] {
        let site = Site::new(NODE, PIPELINE);
        let running = site.start(shape);
        running.submit("o1", SMALL);
        let drained = running.call(&["drain", "--then-stop"]);
        assert!(drained.expect_code(0).stdout.ends_with("the server stops\n"), "{drained}");
        running.ended().expect_code(0);
        let running = site.start(shape);
        assert_eq!(running.conditions(), [""; 0]);
        running.wait(running.submit("o2", SMALL).id);
        running.stop();
    }
}

#[test]
fn a_drain_that_a_paused_sink_keeps_from_its_end_says_so() {
    let site = Site::new(NODE, PIPELINE);
    let running = site.start(Shape::ALONE);
    running.call(&["pause", "p.big"]).expect_code(0);
    running.submit("o1", BIG);
    let late = running.call(&["drain", "--timeout", "0"]);
    assert_eq!(late.code, Some(1), "{late}");
    let said = "p: draining, 1 file is not finished; sink big is paused: resume it\n";
    assert!(late.stdout.ends_with(said), "{late}");
    running.call(&["resume", "p.big"]).expect_code(0);
    let drained = running.call(&["drain", "--json"]).expect_code(0).json();
    assert_eq!(drained["done"], true);
    running.stop();
}

#[test]
fn what_is_not_there_cannot_be_paused() {
    let site = Site::new(NODE, PIPELINE);
    let running = site.start(Shape::ALONE);
    for (target, text) in [
        ("q", "no_pipeline: no pipeline is called \"q\"; running: p"),
        ("p.by_size", "no_part: pipeline p has no source or sink called \"by_size\""),
        ("p.source:big", "pipeline p has no source called \"big\"; it has sources: orders, notes;"),
        ("p.", "is not PIPELINE, PIPELINE.SOURCE or PIPELINE.SINK"),
    ] {
        let refused = running.call(&["pause", target]);
        assert_eq!(refused.code, Some(1), "{refused}");
        assert!(refused.stderr.contains(text), "{refused}");
    }
    assert_eq!(running.conditions(), [""; 0]);
    running.stop();
}

#[test]
fn a_deployment_does_not_lift_a_pause_that_nobody_resumed() {
    let site = Site::new(NODE, PIPELINE);
    let running = site.start(Shape::ALONE);
    running.call(&["pause", "p.orders", "p.source:notes"]).expect_code(0);
    let renamed = |old: &str, new: &str| {
        let text = PIPELINE.replace(&format!("{old}: {{ f"), &format!("{new}: {{ f"));
        std::fs::write(
            site.path().join("next.yaml"),
            text.replace(&format!("from: {old}"), &format!("from: {new}")),
        )
        .unwrap();
    };
    let why = "source orders of p is paused, and the new file has no source of that name";
    renamed("orders", "purchases");
    for more in [&["--dry-run"][..], &[]] {
        let told = running.call(&[&["deploy", "next.yaml"], more].concat());
        assert!(told.expect_code(1).stdout.contains(why), "{told}");
        assert!(told.stdout.contains("tidemill resume p.orders"), "{told}");
    }
    running.call(&["resume", "p.orders"]).expect_code(0);
    running.call(&["deploy", "next.yaml"]).expect_code(0);
    // What is there under its name stays paused, and a source and a sink of one name are told apart.
    let told = running.call(&["pause", "p.sink:notes"]).expect_code(0).stdout.clone();
    assert!(told.contains("  source p.notes is paused since"), "{told}");
    assert_eq!(running.conditions(), ["paused", "paused"]);
    running.stop();
}

/// A client that holds a connection and never looks at it must not keep a server from its end.
#[test]
fn a_client_that_does_not_look_at_its_connection_does_not_keep_a_server_from_its_end() {
    let site = Site::new(NODE, PIPELINE);
    let running = site.start(Shape::ALONE);
    let client = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let connected = client.block_on(tidemill_client::Client::connect(&running.address)).unwrap();
    let watching = client.block_on(connected.watch(Default::default())).unwrap();
    let begun = Instant::now();
    running.stop();
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(8), "it took {took:?} to end");
    drop((watching, connected));
}
