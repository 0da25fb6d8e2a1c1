//! Uploading: a file arrives whole or not at all, and a bad one is told why.

use std::time::Duration;

use tidemill_client::{Error, SubmitOptions};
use tidemill_proto::v1;
use tidemill_proto::v1::submissions_client::SubmissionsClient;
use tidemill_proto::v1::submit_request::Part;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::front::{Front, bare_end, chunk, end, header, until, word};

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 31 % 251) as u8).collect()
}

#[tokio::test]
async fn files_of_every_size_arrive_whole() {
    let front = Front::start().await;
    let client = front.client().await;
    let folder = tempfile::tempdir().unwrap();
    for size in [0, 1, (256 << 10) - 1, 256 << 10, (256 << 10) + 1, 5 << 20] {
        let sent = bytes(size);
        let path = folder.path().join(format!("{size}.jsonl"));
        std::fs::write(&path, &sent).unwrap();
        let options = SubmitOptions { pipeline: Some("logs".into()), ..Default::default() };
        let mut progress = Vec::new();
        let answer = client
            .submit_file(&path, options, |done, all| progress.push((done, all)))
            .await
            .unwrap();
        assert_eq!(answer.name, format!("{size}.jsonl"));
        assert_eq!(answer.hash, blake3::hash(&sent).to_string());
        assert!(front.engine.contents()[&answer.id] == sent, "{size} bytes as a file");
        assert_eq!(progress.first(), Some(&(0, size as u64)));
        assert_eq!(progress.last(), Some(&(size as u64, size as u64)));

        let answer = client.submit_bytes("b", sent.clone(), Some("bills")).await.unwrap();
        assert!(front.engine.contents()[&answer.id] == sent, "{size} bytes from memory");
    }
    assert_eq!(front.engine.spooled(), 0);
}

#[tokio::test]
async fn an_upload_may_declare_its_hash_first_or_last_or_not_at_all() {
    let front = Front::start().await;
    let parts = || vec![chunk(0, b"a"), chunk(1, b"bc")];
    let send = async |head: Part, end: Part| {
        let parts = [vec![head], parts(), vec![end]].concat();
        assert_eq!(front.send(parts).await.unwrap().blake3, blake3::hash(b"abc").to_string());
    };
    send(header("a.jsonl", 3), bare_end()).await;
    send(header("a.jsonl", 3), end(blake3::hash(b"abc"))).await;
    let Part::Header(mut first) = header("a.jsonl", 3) else { unreachable!() };
    first.blake3 = Some(blake3::hash(b"abc").to_string());
    send(Part::Header(first), bare_end()).await;
}

async fn check(front: &Front, parts: Vec<Part>, expected: (Code, &str)) {
    let shown: String = format!("{parts:?}").chars().take(300).collect();
    let status = front.send(parts).await.expect_err(&shown);
    assert_eq!((status.code(), word(&status).as_str()), expected, "{shown}: {status}");
    assert_eq!(front.engine.spooled(), 0, "{shown}");
    assert!(front.engine.contents().is_empty(), "{shown}");
}

#[tokio::test]
async fn an_upload_that_is_not_what_it_says_leaves_nothing() {
    let front = Front::start_with(|config| config.limits.upload_bytes_max = 1 << 20).await;
    let name = |name: &str| vec![header(name, 1), chunk(0, b"a"), bare_end()];
    let to_all = |pipeline: &str, blake3: Option<&str>, also: &[&str]| {
        let header = v1::SubmitHeader {
            pipeline: pipeline.to_owned(),
            name: "a.jsonl".into(),
            size: 1,
            blake3: blake3.map(str::to_owned),
            client_submission_id: None,
            offset: 0,
            replaces: None,
            also_to: also.iter().map(|name| (*name).to_owned()).collect(),
        };
        vec![Part::Header(header), chunk(0, b"a"), bare_end()]
    };
    let with = |pipeline: &str, blake3| to_all(pipeline, blake3, &[]);
    let other_hash = blake3::hash(b"other").to_string();
    let invalid = |word| (Code::InvalidArgument, word);
    let size = invalid("wrong_size");
    check(&front, vec![header("a.jsonl", 1)], size).await;
    check(&front, vec![header("a.jsonl", 3), chunk(0, b"a")], size).await;
    check(&front, vec![header("a.jsonl", 3), chunk(0, b"a"), end("0".repeat(64))], size).await;
    check(&front, vec![header("a.jsonl", 1), chunk(0, b"ab")], size).await;
    check(&front, vec![header("a.jsonl", 0), chunk(0, b"a")], size).await;
    let hash = invalid("wrong_hash");
    check(&front, with("logs", Some(&other_hash)), hash).await;
    check(&front, vec![header("a.jsonl", 1), chunk(0, b"a"), end(&other_hash)], hash).await;
    check(&front, vec![header("a.jsonl", 0), end(&other_hash)], hash).await;
    check(&front, with("logs", Some("abc")), invalid("bad_argument")).await;
    check(&front, vec![header("a.jsonl", 1), chunk(0, b"a"), end("ü")], invalid("bad_argument"))
        .await;
    let offset = invalid("wrong_offset");
    check(&front, vec![header("a.jsonl", 9), chunk(0, b"a"), chunk(2, b"b")], offset).await;
    check(&front, vec![header("a.jsonl", 9), chunk(0, b"ab"), chunk(1, b"b")], offset).await;
    check(&front, vec![header("a.jsonl", 9), chunk(u64::MAX, b"a")], offset).await;
    let stream = invalid("bad_stream");
    check(&front, vec![], stream).await;
    check(&front, vec![header("a.jsonl", 0)], stream).await;
    check(&front, vec![header("a.jsonl", 1), chunk(0, b"a")], stream).await;
    check(&front, vec![chunk(0, b"a")], stream).await;
    check(&front, vec![end(&other_hash)], stream).await;
    check(&front, vec![header("a.jsonl", 1), header("a.jsonl", 1)], stream).await;
    check(&front, vec![header("a.jsonl", 1), chunk(0, b"")], stream).await;
    let after = vec![header("a.jsonl", 1), chunk(0, b"a"), end(blake3::hash(b"a")), chunk(1, b"b")];
    check(&front, after, stream).await;
    check(&front, name("a/b.jsonl"), invalid("bad_name")).await;
    check(&front, name("../b.jsonl"), invalid("bad_name")).await;
    check(&front, name("a\nb.jsonl"), invalid("bad_name")).await;
    check(&front, name(""), invalid("bad_name")).await;
    check(&front, name(&"x".repeat(10_000)), invalid("bad_name")).await;
    check(&front, name("a.csv"), invalid("no_source")).await;
    check(&front, with("nothing", None), (Code::NotFound, "no_pipeline")).await;
    check(&front, with("", None), (Code::NotFound, "no_pipeline")).await;
    check(&front, with(&"x".repeat(10_000), None), invalid("bad_argument")).await;
    check(&front, to_all("logs", None, &["nothing"]), (Code::NotFound, "no_pipeline")).await;
    check(&front, to_all("logs", None, &["logs"]), invalid("bad_argument")).await;
    check(&front, to_all("logs", None, &[""]), invalid("bad_argument")).await;
    check(&front, to_all("", None, &["logs"]), invalid("bad_argument")).await;
    check(&front, to_all("logs", None, &["nothing"; 64]), invalid("bad_argument")).await;
    let too_big = (Code::OutOfRange, "too_big");
    check(&front, vec![header("a.jsonl", (1 << 20) + 1)], too_big).await;
    check(&front, vec![header("a.jsonl", u64::MAX)], too_big).await;
    let oversize = vec![header("a.jsonl", 1 << 20), chunk(0, &bytes(1 << 20))];
    check(&front, oversize, too_big).await;
    let message = v1::SubmitRequest { part: None };
    let mut client = SubmissionsClient::new(front.channel().await);
    let status = client.submit(tokio_stream::iter([message])).await.unwrap_err();
    assert_eq!(word(&status), "bad_stream");
}

#[tokio::test]
async fn the_real_client_hears_a_refusal_while_it_is_still_sending() {
    let front = Front::start_with(|config| config.limits.upload_bytes_max = 1 << 20).await;
    let client = front.client().await;
    for _ in 0..20 {
        let error = client.submit_bytes("a.jsonl", bytes(5 << 20), Some("logs")).await.unwrap_err();
        assert_eq!(error.word(), Some("too_big"), "{error}");
        let error = client.submit_bytes("a.csv", bytes(1 << 20), Some("logs")).await.unwrap_err();
        assert_eq!(error.word(), Some("no_source"), "{error}");
    }
    assert_eq!(front.engine.spooled(), 0);
}

#[tokio::test]
async fn a_client_that_disconnects_in_the_middle_leaves_nothing() {
    let front = Front::start_with(|config| config.limits.uploads_max = 1).await;
    let mut client = SubmissionsClient::new(front.channel().await);
    let (sender, messages) = mpsc::channel(4);
    let call =
        tokio::spawn(async move { client.submit(ReceiverStream::new(messages)).await.map(drop) });
    for part in [header("a.jsonl", 9), chunk(0, b"half")] {
        sender.send(v1::SubmitRequest { part: Some(part) }).await.unwrap();
    }
    until(|| front.engine.spooled() == 1).await;
    call.abort();
    // The one turn is free again only when the file is gone.
    front.send(vec![header("b.jsonl", 1), chunk(0, b"b"), bare_end()]).await.unwrap();
    assert_eq!(front.engine.spooled(), 0);
    assert_eq!(front.engine.contents().into_values().collect::<Vec<_>>(), [b"b"]);
    drop(sender);
}

#[tokio::test]
async fn an_upload_that_stalls_is_cut_off() {
    let idle = Duration::from_millis(50);
    let front = Front::start_with(|config| config.limits.upload_idle = idle).await;
    let mut client = SubmissionsClient::new(front.channel().await);
    let (sender, messages) = mpsc::channel(4);
    for part in [header("a.jsonl", 9), chunk(0, b"half")] {
        sender.send(v1::SubmitRequest { part: Some(part) }).await.unwrap();
    }
    let status = client.submit(ReceiverStream::new(messages)).await.unwrap_err();
    assert_eq!((status.code(), word(&status).as_str()), (Code::DeadlineExceeded, "too_slow"));
    assert_eq!(front.engine.spooled(), 0);
    drop(sender);
}

#[tokio::test]
async fn an_upload_that_drips_is_cut_off() {
    let front = Front::start_with(|config| {
        config.limits.upload_idle = Duration::from_millis(50);
        config.limits.upload_rate_min = u64::MAX;
    })
    .await;
    let mut client = SubmissionsClient::new(front.channel().await);
    let drip = |offset: u64| v1::SubmitRequest { part: Some(chunk(offset, b"x")) };
    let head = v1::SubmitRequest { part: Some(header("a.jsonl", 1 << 30)) };
    let drips = std::iter::once(head).chain((0..).map(drip));
    let status = client.submit(tokio_stream::iter(drips)).await.unwrap_err();
    assert_eq!((status.code(), word(&status).as_str()), (Code::DeadlineExceeded, "too_slow"));
    assert_eq!(front.engine.spooled(), 0);
}

#[tokio::test]
async fn an_engine_that_takes_no_files_says_so_without_its_paths() {
    let front = Front::start().await;
    front.engine.refuse("/srv/secret/journal.db: disk full");
    let status = front.send(vec![header("a.jsonl", 1), chunk(0, b"a")]).await.unwrap_err();
    assert_eq!((status.code(), word(&status).as_str()), (Code::Unavailable, "draining"));
    assert!(!status.message().contains("secret"), "{status}");
}

#[tokio::test]
async fn a_disk_without_room_refuses_before_the_first_byte() {
    let front = Front::start_with(|config| config.limits.disk_free_bytes_min = u64::MAX).await;
    check(&front, vec![header("a.jsonl", 1)], (Code::ResourceExhausted, "no_space")).await;
}

#[tokio::test]
async fn a_stopping_server_lets_an_upload_finish_and_cuts_off_one_that_does_not() {
    for finishes in [true, false] {
        let front = Front::start_with(|config| {
            let drain = if finishes { Duration::from_secs(60) } else { Duration::ZERO };
            config.limits.drain_max = drain;
        })
        .await;
        let engine = front.engine.clone();
        let mut client = SubmissionsClient::new(front.channel().await);
        let (sender, messages) = mpsc::channel(4);
        let call = tokio::spawn(async move { client.submit(ReceiverStream::new(messages)).await });
        let send = |part| sender.send(v1::SubmitRequest { part: Some(part) });
        send(header("a.jsonl", 2)).await.unwrap();
        send(chunk(0, b"a")).await.unwrap();
        until(|| engine.spooled() == 1).await;
        let served = front.stop();
        if finishes {
            send(chunk(1, b"b")).await.unwrap();
            send(bare_end()).await.unwrap();
            drop(sender);
            assert_eq!(call.await.unwrap().unwrap().into_inner().bytes, 2);
        } else {
            let status = call.await.unwrap().unwrap_err();
            assert_eq!((status.code(), word(&status).as_str()), (Code::Unavailable, "draining"));
            drop(sender);
        }
        served.await.unwrap().unwrap();
        assert_eq!(engine.spooled(), 0);
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_not_sent() {
    let front = Front::start().await;
    let client = front.client().await;
    let folder = tempfile::tempdir().unwrap();
    let send = |path| client.submit_file(path, SubmitOptions::default(), |_, _| {});
    let error = send(folder.path()).await.unwrap_err();
    assert!(error.to_string().ends_with("it is not a file"), "{error}");
    let error = send(&folder.path().join("missing")).await.unwrap_err();
    assert!(error.to_string().starts_with("read "), "{error}");
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_sent_leaves_nothing() {
    let front = Front::start().await;
    let client = front.client().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    for (before, after) in [(3 << 20, 4 << 20), (3 << 20, 1 << 20), (1, 2)] {
        std::fs::write(&path, bytes(before)).unwrap();
        let options = SubmitOptions { pipeline: Some("logs".into()), ..Default::default() };
        // It changes when the first bytes of it have been read.
        let change = |done, _all| {
            if done > 0 {
                std::fs::write(&path, bytes(after)).unwrap();
            }
        };
        let error = client.submit_file(&path, options, change).await.unwrap_err();
        assert!(matches!(error, Error::Changed { .. }), "{before} to {after}: {error}");
    }
    assert!(front.engine.contents().is_empty());
}
