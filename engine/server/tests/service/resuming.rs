//! Resuming: with an id an upload may be sent again, whatever became of the answer, and one that
//! broke off goes on where it ended.

use std::time::{Duration, SystemTime};

use tidemill_client::{SubmissionId, SubmitOptions};
use tidemill_engine::engine::ClientId;
use tidemill_proto::v1;
use tidemill_proto::v1::submissions_client::SubmissionsClient;
use tidemill_proto::v1::submit_request::Part;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::front::{Front, bare_end, chunk, end, until, word};

/// Returns the header of an attempt at `a.jsonl`.
fn attempt(id: &str, size: u64, offset: u64) -> Part {
    Part::Header(v1::SubmitHeader {
        pipeline: "logs".into(),
        name: "a.jsonl".into(),
        size,
        blake3: None,
        client_submission_id: Some(id.to_owned()),
        offset,
        replaces: None,
        also_to: Vec::new(),
    })
}

fn hash_of(bytes: &[u8]) -> blake3::Hash {
    blake3::hash(bytes)
}

/// Where the server says that an upload goes on.
async fn received(front: &Front, id: &str) -> Result<u64, Status> {
    let mut client = SubmissionsClient::new(front.channel().await);
    let request = v1::ResumeRequest { client_submission_id: id.to_owned() };
    Ok(client.resume(request).await?.into_inner().received)
}

/// Sends the beginning of an upload and goes away without a word.
async fn break_off(front: &Front, id: &str, parts: Vec<Part>, kept: u64) {
    let mut client = SubmissionsClient::new(front.channel().await);
    let (sender, messages) = mpsc::channel(16);
    let call =
        tokio::spawn(async move { client.submit(ReceiverStream::new(messages)).await.map(drop) });
    for part in parts {
        sender.send(v1::SubmitRequest { part: Some(part) }).await.unwrap();
    }
    let path = front.engine.spool_file(id);
    until(|| std::fs::metadata(&path).is_ok_and(|file| file.len() == kept)).await;
    // Two uploads with one id at once: the second is told so, and the first is unharmed.
    let status = front.send(vec![attempt(id, 1, 0)]).await.unwrap_err();
    assert_eq!((status.code(), word(&status).as_str()), (Code::Unavailable, "id_busy"));
    let status = received(front, id).await.unwrap_err();
    assert_eq!((status.code(), word(&status).as_str()), (Code::Unavailable, "id_busy"));
    call.abort();
    while received(front, id).await.is_err() {
        tokio::task::yield_now().await;
    }
    drop(sender);
}

async fn refused(front: &Front, parts: Vec<Part>, expected: (Code, &str)) {
    let shown: String = format!("{parts:?}").chars().take(300).collect();
    let status = front.send(parts).await.expect_err(&shown);
    assert_eq!((status.code(), word(&status).as_str()), expected, "{shown}: {status}");
}

#[tokio::test]
async fn an_upload_that_broke_off_goes_on_where_it_ended() {
    let front = Front::start().await;
    let id = SubmissionId::make().to_string();
    assert_eq!(received(&front, &id).await.unwrap(), 0);
    break_off(&front, &id, vec![attempt(&id, 6, 0), chunk(0, b"ab"), chunk(2, b"c")], 3).await;
    assert_eq!(received(&front, &id).await.unwrap(), 3);
    break_off(&front, &id, vec![attempt(&id, 6, 3), chunk(3, b"d")], 4).await;
    assert_eq!(received(&front, &id).await.unwrap(), 4);
    let rest = vec![attempt(&id, 6, 4), chunk(4, b"ef"), end(hash_of(b"abcdef"))];
    let answer = front.send(rest).await.unwrap();
    assert_eq!(front.engine.contents().into_values().collect::<Vec<_>>(), [b"abcdef"]);
    assert_eq!(front.engine.spooled(), 0);

    // What was taken is told, and sent again it is the same submission.
    let mut client = SubmissionsClient::new(front.channel().await);
    let request = v1::ResumeRequest { client_submission_id: id.clone() };
    let standing = client.resume(request).await.unwrap().into_inner();
    assert_eq!(standing.submission.map(|submission| submission.id), Some(answer.id));
    let all = vec![attempt(&id, 6, 0), chunk(0, b"abcdef"), end(hash_of(b"abcdef"))];
    assert_eq!(front.send(all).await.unwrap().id, answer.id);
    assert_eq!((front.engine.contents().len(), front.engine.spooled()), (1, 0));
}

#[tokio::test]
async fn one_that_goes_on_may_go_back_or_begin_anew() {
    let front = Front::start().await;
    let id = SubmissionId::make().to_string();
    break_off(&front, &id, vec![attempt(&id, 6, 0), chunk(0, b"xyzabc")], 6).await;
    break_off(&front, &id, vec![attempt(&id, 6, 2), chunk(2, b"z")], 3).await;
    break_off(&front, &id, vec![attempt(&id, 6, 0), chunk(0, b"ab")], 2).await;
    let rest = vec![attempt(&id, 6, 1), chunk(1, b"bcdef"), end(hash_of(b"abcdef"))];
    front.send(rest).await.unwrap();
    assert_eq!(front.engine.contents().into_values().collect::<Vec<_>>(), [b"abcdef"]);
}

#[tokio::test]
async fn what_cannot_be_right_is_refused_and_what_came_before_is_not_lost() {
    let front = Front::start().await;
    let id = SubmissionId::make().to_string();
    break_off(&front, &id, vec![attempt(&id, 6, 0), chunk(0, b"abc")], 3).await;
    let invalid = |word| (Code::InvalidArgument, word);
    refused(&front, vec![attempt(&id, 6, 4), chunk(4, b"e")], invalid("wrong_offset")).await;
    refused(&front, vec![attempt(&id, 6, 3), chunk(4, b"e")], invalid("wrong_offset")).await;
    refused(&front, vec![attempt(&id, 6, 3), chunk(0, b"a")], invalid("wrong_offset")).await;
    refused(&front, vec![attempt(&id, 6, 7)], invalid("bad_argument")).await;
    refused(&front, vec![attempt(&id, 6, 3), chunk(3, b"defg")], invalid("wrong_size")).await;
    refused(&front, vec![attempt(&id, 6, 3), bare_end()], invalid("wrong_size")).await;
    let without_hash = vec![attempt(&id, 3, 3), bare_end()];
    refused(&front, without_hash, invalid("bad_argument")).await;
    assert_eq!(received(&front, &id).await.unwrap(), 3);
    // Bytes that are known to be wrong are not gone on with.
    let wrong = vec![attempt(&id, 3, 3), end(hash_of(b"other"))];
    refused(&front, wrong, invalid("wrong_hash")).await;
    assert_eq!(received(&front, &id).await.unwrap(), 0);
    assert_eq!(front.engine.spooled(), 0);
    assert!(front.engine.contents().is_empty());
}

#[tokio::test]
async fn an_id_is_a_uuid_that_tells_its_time() {
    let front = Front::start().await;
    for id in ["", "1", "../../etc/passwd", "f47ac10b-58cc-4372-a567-0e02b2c3d479"] {
        refused(&front, vec![attempt(id, 1, 0)], (Code::InvalidArgument, "bad_id")).await;
        let status = received(&front, id).await.unwrap_err();
        assert_eq!(word(&status), "bad_id");
    }
    let Part::Header(mut header) = attempt("", 1, 1) else { unreachable!() };
    header.client_submission_id = None;
    refused(&front, vec![Part::Header(header)], (Code::InvalidArgument, "bad_argument")).await;
}

#[tokio::test]
async fn an_id_that_has_another_file_is_refused() {
    let front = Front::start().await;
    let id = SubmissionId::make().to_string();
    let all = |name: &str, bytes: &[u8], first: bool| {
        let Part::Header(mut header) = attempt(&id, bytes.len() as u64, 0) else { unreachable!() };
        header.name = name.to_owned();
        header.blake3 = first.then(|| hash_of(bytes).to_string());
        vec![Part::Header(header), chunk(0, bytes), end(hash_of(bytes))]
    };
    let answer = front.send(all("a.jsonl", b"abc", true)).await.unwrap();
    assert_eq!(front.send(all("a.jsonl", b"abc", true)).await.unwrap().id, answer.id);
    let used = (Code::AlreadyExists, "id_used");
    refused(&front, all("a.jsonl", b"abd", true), used).await;
    refused(&front, all("b.jsonl", b"abc", true), used).await;
    assert_eq!((front.engine.contents().len(), front.engine.spooled()), (1, 0));
}

#[tokio::test]
async fn what_broke_off_is_kept_within_bounds() {
    let front = Front::start_with(|config| config.limits.kept_bytes_max = 5).await;
    let (first, second) = (SubmissionId::make().to_string(), SubmissionId::make().to_string());
    break_off(&front, &first, vec![attempt(&first, 9, 0), chunk(0, b"abc")], 3).await;
    let old = SystemTime::now() - Duration::from_secs(60);
    let file = std::fs::File::options().write(true).open(front.engine.spool_file(&first));
    file.unwrap().set_modified(old).unwrap();
    break_off(&front, &second, vec![attempt(&second, 9, 0), chunk(0, b"abc")], 3).await;
    assert_eq!(received(&front, &first).await.unwrap(), 0, "the oldest gives way");
    assert_eq!(received(&front, &second).await.unwrap(), 3);
    assert_eq!(front.engine.spooled(), 1);
}

#[tokio::test]
async fn the_real_client_goes_on_through_a_proxy_that_cuts_its_connections() {
    let front = Front::start().await;
    let proxy = crate::proxy::Cutting::start(&front.address, 700 << 10).await;
    let client = tidemill_client::Client::connect(&proxy.address).await.unwrap();
    let bytes: Vec<u8> = (0..5_u32 << 20).map(|n| (n % 253) as u8).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    std::fs::write(&path, &bytes).unwrap();
    let options = || SubmitOptions { pipeline: Some("logs".into()), ..Default::default() };
    let answer = client.submit_file(&path, options(), |_, _| {}).await.unwrap();
    assert_eq!(answer.hash, hash_of(&bytes).to_string());
    let cuts = proxy.cuts();
    assert!(cuts > 2, "the proxy cut {cuts} connections");
    let again = client.submit_bytes_with("a.jsonl", bytes.clone(), options()).await.unwrap();
    assert_ne!(again.id, answer.id, "another id is another submission");
    assert!(front.engine.contents().into_values().all(|taken| taken == bytes));
    assert_eq!((front.engine.contents().len(), front.engine.spooled()), (2, 0));
    // Each attempt begins where the one before ended: not everything is sent each time.
    assert!(proxy.cuts() - cuts < 20, "{} cuts for 5 MiB", proxy.cuts());
}

#[tokio::test]
async fn a_client_that_may_not_send_again_tells_the_first_failure() {
    let front = Front::start().await;
    front.engine.refuse("it is stopping");
    let client = front.client().await;
    let options = SubmitOptions { resend_for: Duration::ZERO, ..Default::default() };
    let error = client.submit_bytes_with("a.jsonl", "a", options).await.unwrap_err();
    assert_eq!(error.word(), Some("draining"), "{error}");
}

#[test]
fn client_and_server_agree_on_what_an_id_is() {
    for _ in 0..100 {
        let id = SubmissionId::make();
        let read = ClientId::parse(&id.to_string()).unwrap();
        assert_eq!(read.to_string(), id.to_string());
        let age = SystemTime::now().duration_since(read.made_at()).unwrap();
        assert!(age < Duration::from_secs(60), "{age:?}");
    }
}
