//! Following: waits and watches miss nothing, and end when there is nothing more to say.

use std::time::Duration;

use tidemill_client::{Client, Error, Phase, Submission, WatchFilter};
use tidemill_engine::report::Phase as P;
use tidemill_proto::v1;
use tidemill_proto::v1::submissions_client::SubmissionsClient;
use tonic::Code;

use crate::front::{Front, word};

const LONG: Duration = Duration::from_secs(600);

#[tokio::test]
async fn a_wait_ends_when_the_submission_is_final_whenever_that_is() {
    let front = Front::start().await;
    let client = front.client().await;
    let engine = &front.engine;

    let id = engine.accept("before.jsonl");
    engine.change(id, P::Committed, 0);
    assert_eq!(client.wait(id, LONG).await.unwrap().phase, Phase::Committed);

    // Between the look at the submission and the answer to it.
    let id = engine.accept("between.jsonl");
    engine.after_look(move |engine| engine.change(id, P::Quarantined, 0));
    let done = client.wait(id, LONG).await.unwrap();
    assert_eq!(done.phase, Phase::Quarantined);
    assert_eq!(done.reason.unwrap().code, "bad_format");
    assert!(done.finished_at.is_some());

    let id = engine.accept("after.jsonl");
    let wait = client.wait(id, LONG);
    let change = async {
        // The answer to a watch that begins with this state comes after the wait was sent.
        let filter = WatchFilter { ids: vec![id], ..WatchFilter::default() };
        let mut watch = client.watch(filter).await.unwrap();
        watch.next().await.unwrap().unwrap();
        engine.change(id, P::Reading, 1);
        engine.change(id, P::Answered, 2);
        engine.change(id, P::Committed, 2);
    };
    let (done, ()) = tokio::join!(wait, change);
    assert_eq!(done.unwrap().phase, Phase::Committed);
}

#[tokio::test]
async fn a_wait_that_is_too_short_or_for_nothing_says_so() {
    let front = Front::start().await;
    let client = front.client().await;
    let id = front.engine.accept("a.jsonl");
    let error = client.wait(id, Duration::from_millis(1)).await.unwrap_err();
    assert!(matches!(error, Error::NotFinal { .. }), "{error}");
    let error = client.wait(99, LONG).await.unwrap_err();
    assert_eq!(error.word(), Some("not_found"));
    let error = client.get(99).await.unwrap_err();
    assert_eq!(error.to_string(), "not_found: no submission has the id 99");

    let mut raw = SubmissionsClient::new(front.channel().await);
    let timeout = Some(prost_types::Duration { seconds: -1, nanos: 0 });
    let status = raw.wait(v1::WaitRequest { id, timeout }).await.unwrap_err();
    assert_eq!((status.code(), word(&status).as_str()), (Code::InvalidArgument, "bad_argument"));
}

async fn watch(client: &Client, pipeline: Option<&str>, ids: &[u64]) -> tidemill_client::Watch {
    let filter = WatchFilter { pipeline: pipeline.map(str::to_owned), ids: ids.to_vec() };
    client.watch(filter).await.unwrap()
}

fn brief(submission: Submission) -> (u64, Phase, u64) {
    (submission.id, submission.phase, submission.bytes_read)
}

#[tokio::test]
async fn a_watch_of_ids_begins_with_their_state_and_ends_when_all_are_final() {
    let front = Front::start().await;
    let client = front.client().await;
    let engine = &front.engine;
    let ids = [engine.accept("a.jsonl"), engine.accept("b.jsonl"), engine.accept("c.jsonl")];
    engine.change(ids[0], P::Committed, 5);
    // Heard by the watch before it looks, and again in what it sees: told once.
    engine.after_look(move |engine| engine.change(ids[1], P::Reading, 3));
    let mut watch = watch(&client, None, &[ids[1], ids[0]]).await;
    let mut seen = Vec::new();
    for _ in 0..2 {
        seen.push(brief(watch.next().await.unwrap().unwrap()));
    }
    engine.change(ids[2], P::Reading, 1);
    engine.change(ids[1], P::Reading, 4);
    engine.change(ids[1], P::Committed, 5);
    while let Some(change) = watch.next().await {
        seen.push(brief(change.unwrap()));
    }
    let expected = [
        (ids[1], Phase::Accepted, 0),
        (ids[0], Phase::Committed, 5),
        (ids[1], Phase::Reading, 3),
        (ids[1], Phase::Reading, 4),
        (ids[1], Phase::Committed, 5),
    ];
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_watch_of_everything_sees_changes_in_order() {
    let front = Front::start().await;
    let client = front.client().await;
    let mut all = watch(&client, Some("logs"), &[]).await;
    let mut other = watch(&client, Some("bills"), &[]).await;
    let ids: Vec<u64> = (0..50).map(|_| front.engine.accept("a.jsonl")).collect();
    let mut expected = Vec::new();
    for (phase, wire) in [(P::Reading, Phase::Reading), (P::Committed, Phase::Committed)] {
        for id in &ids {
            front.engine.change(*id, phase, 1);
            expected.push((*id, wire, 1));
        }
    }
    let mut seen = Vec::new();
    for _ in 0..expected.len() {
        seen.push(brief(all.next().await.unwrap().unwrap()));
    }
    assert_eq!(seen, expected);
    front.stop();
    let error = all.next().await.unwrap().unwrap_err();
    assert_eq!(error.word(), Some("draining"));
    let error = other.next().await.unwrap().unwrap_err();
    assert_eq!(error.word(), Some("draining"), "no change of another pipeline came before");
}

#[tokio::test]
async fn a_watcher_that_falls_behind_is_told_and_the_engine_is_not_held_up() {
    let front = Front::start_with(|config| config.limits.watch_backlog = 4).await;
    let client = front.client().await;
    let id = front.engine.accept("a.jsonl");
    let mut watch = watch(&client, None, &[]).await;
    // All at once: the watcher has no chance to read in between on this one thread.
    (1..=1000).for_each(|read| front.engine.change(id, P::Reading, read));
    let error = loop {
        match watch.next().await.unwrap() {
            Ok(_) => continue,
            Err(error) => break error,
        }
    };
    assert_eq!(error.word(), Some("lagged"), "{error}");
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn a_watch_of_something_unknown_or_too_much_is_refused() {
    let front = Front::start_with(|config| config.limits.page_max = 2).await;
    let client = front.client().await;
    let filter = |ids: &[u64]| WatchFilter { pipeline: None, ids: ids.to_vec() };
    assert_eq!(client.watch(filter(&[1])).await.unwrap_err().word(), Some("not_found"));
    assert_eq!(client.watch(filter(&[1, 2, 3])).await.unwrap_err().word(), Some("bad_argument"));
}

#[tokio::test]
async fn a_stopping_server_ends_waits() {
    let front = Front::start().await;
    let client = front.client().await;
    let id = front.engine.accept("a.jsonl");
    let mut first = watch(&client, None, &[id]).await;
    first.next().await.unwrap().unwrap();
    let wait = client.wait(id, LONG);
    let stop = async {
        let filter = WatchFilter { ids: vec![id], ..WatchFilter::default() };
        client.watch(filter).await.unwrap().next().await.unwrap().unwrap();
        front.stop().await.unwrap().unwrap();
    };
    let (waited, ()) = tokio::join!(wait, stop);
    let error = waited.unwrap_err();
    assert_eq!(error.word(), Some("draining"), "{error}");
    assert!(error.is_temporary());
}
