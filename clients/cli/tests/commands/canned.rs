//! Canned: a server that gives fixed answers and quarantines what is called `bad`.

use std::sync::atomic::{AtomicU64, Ordering};

use tidemill_proto::v1;
use tidemill_proto::v1::introspection_server::{Introspection, IntrospectionServer};
use tidemill_proto::v1::submissions_server::{Submissions, SubmissionsServer};
use tidemill_proto::v1::submit_request::Part;
use tokio::net::TcpListener;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// Starts the server and returns its address.
pub(crate) async fn start() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = tonic::transport::Server::builder()
        .add_service(SubmissionsServer::new(Canned::default()))
        .add_service(IntrospectionServer::new(Canned::default()));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

#[derive(Default)]
struct Canned {
    taken: AtomicU64,
}

fn moment(millis: i32) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds: 1_790_000_000, nanos: millis * 1_000_000 })
}

/// Returns submission `id`: 1 is committed, 2 is quarantined, others are being read.
fn submission(id: u64, name: &str, bytes: u64) -> v1::Submission {
    let (phase, finished_at) = match id {
        1 => (v1::Phase::Committed, moment(35)),
        2 => (v1::Phase::Quarantined, moment(12)),
        _ => (v1::Phase::Reading, None),
    };
    let reason = v1::Reason { code: "bad_format".into(), text: "not gzip".into() };
    let output =
        v1::OutputFile { path: format!("errors/{name}"), bytes: 2048, ..v1::OutputFile::default() };
    v1::Submission {
        id,
        pipeline: "logs".into(),
        epoch: id,
        name: name.into(),
        source: "in".into(),
        bytes,
        blake3: "00ff".into(),
        phase: phase.into(),
        bytes_read: bytes / 2,
        records: 1000 * id,
        rejected: id - 1,
        reason: (id == 2).then_some(reason),
        outputs: if id == 1 { vec![output] } else { vec![] },
        seen_at: moment(0),
        accepted_at: moment(2),
        finished_at,
        retry_of: None,
        retried_as: None,
        replaces: None,
        removes: None,
        replaced_by: None,
        removed_by: None,
        retained_bytes: None,
        receipt: None,
        waits_for: String::new(),
        attempts: Vec::new(),
        also: Vec::new(),
    }
}

fn receipt() -> v1::Receipt {
    let node = |name: &str, role: &str, kind: &str, records_in| v1::ReceiptNode {
        name: name.into(),
        role: role.into(),
        kind: kind.into(),
        records_in,
        ..v1::ReceiptNode::default()
    };
    let port = |tag: &str, records| v1::ReceiptPort { tag: tag.into(), records };
    let source = v1::ReceiptNode {
        out: vec![port("", 997)],
        rejected: 3,
        ..node("in", "source", "source jsonl", 1000)
    };
    let route = v1::ReceiptNode {
        out: vec![port("bad", 900), port("slow", 99)],
        copies: 2,
        fed_by: vec!["in".into()],
        ..node("by", "operator", "route", 997)
    };
    let sums = v1::ReceiptNode {
        out: vec![port("", 12)],
        merged: 99,
        fed_by: vec!["by.slow".into()],
        ..node("sums", "aggregate", "aggregate", 99)
    };
    let errors = v1::ReceiptNode {
        fed_by: vec!["by.bad".into()],
        ..node("errors", "files", "sink files", 900)
    };
    v1::Receipt {
        generation: 4,
        processes: 2,
        workers: 3,
        binary_version: "1.2.3".into(),
        plan_hash: "abcd".into(),
        claimed_at: moment(1),
        read_at: moment(20),
        answered_at: moment(30),
        nodes: vec![source, route, sums, errors],
        outputs: vec![v1::ReceiptOutput {
            path: "errors/day.jsonl".into(),
            bytes: 2048,
            blake3: "11ee".into(),
        }],
    }
}

#[tonic::async_trait]
impl Submissions for Canned {
    type WatchStream = ReceiverStream<Result<v1::Submission, Status>>;

    async fn remove(
        &self,
        request: Request<v1::RemoveRequest>,
    ) -> Result<Response<v1::Submission>, Status> {
        match request.into_inner().which {
            Some(v1::remove_request::Which::Id(1)) => {
                let removal = submission(9, "a.jsonl", 0);
                Ok(Response::new(v1::Submission { removes: Some(1), ..removal }))
            }
            Some(v1::remove_request::Which::Name(name)) if name == "2" => {
                let removal = submission(9, &name, 0);
                Ok(Response::new(v1::Submission { removes: Some(2), ..removal }))
            }
            _ => Err(Status::failed_precondition("it was removed before, by 9")),
        }
    }

    async fn retry(
        &self,
        request: Request<v1::RetryRequest>,
    ) -> Result<Response<v1::Submission>, Status> {
        match request.into_inner().id {
            2 => Err(Status::failed_precondition("submission 2 was tried again as 7")),
            id => {
                let again = submission(id + 10, "bad.jsonl", 3);
                Ok(Response::new(v1::Submission { retry_of: Some(id), ..again }))
            }
        }
    }

    async fn submit(
        &self,
        request: Request<Streaming<v1::SubmitRequest>>,
    ) -> Result<Response<v1::Submission>, Status> {
        let mut parts = request.into_inner();
        let mut name = String::new();
        let mut bytes = 0;
        while let Some(message) = parts.message().await? {
            match message.part {
                Some(Part::Header(header)) => name = header.name,
                Some(Part::Chunk(chunk)) => bytes += chunk.data.len() as u64,
                Some(Part::End(_)) | None => {}
            }
        }
        self.taken.fetch_add(1, Ordering::Relaxed);
        // The id says what becomes of it.
        let id = if name.starts_with("bad") { 2 } else { 1 };
        let mut accepted = submission(id, &name, bytes);
        accepted.phase = v1::Phase::Accepted.into();
        accepted.reason = None;
        accepted.finished_at = None;
        Ok(Response::new(accepted))
    }

    /// Knows no upload that broke off.
    async fn resume(
        &self,
        _request: Request<v1::ResumeRequest>,
    ) -> Result<Response<v1::ResumeResponse>, Status> {
        Ok(Response::new(v1::ResumeResponse::default()))
    }

    async fn wait(
        &self,
        request: Request<v1::WaitRequest>,
    ) -> Result<Response<v1::Submission>, Status> {
        let id = request.into_inner().id;
        let name = if id == 2 { "bad.gz" } else { "good.jsonl" };
        Ok(Response::new(submission(id, name, 5)))
    }

    async fn get(
        &self,
        request: Request<v1::GetSubmissionRequest>,
    ) -> Result<Response<v1::Submission>, Status> {
        match request.into_inner().id {
            id @ 1..=3 => {
                let mut whole = submission(id, "day.jsonl", 1_234_567);
                whole.receipt = (id == 1).then(receipt);
                Ok(Response::new(whole))
            }
            _ => Err(Status::not_found("no submission has that id")),
        }
    }

    async fn list(
        &self,
        request: Request<v1::ListSubmissionsRequest>,
    ) -> Result<Response<v1::ListSubmissionsResponse>, Status> {
        let request = request.into_inner();
        // Two pages, so that the command has to turn one.
        let (ids, next_before) = match request.before {
            None if request.limit > 1 => (vec![3, 2], Some(2)),
            None => (vec![3], Some(3)),
            Some(_) => (vec![1], None),
        };
        let name = |id| if id == 2 { "bad\u{1b}[31m.gz" } else { "day.jsonl" };
        let submissions =
            ids.into_iter().map(|id| submission(id, name(id), 1 << (10 * id))).collect();
        Ok(Response::new(v1::ListSubmissionsResponse { submissions, next_before }))
    }

    async fn watch(
        &self,
        _request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("no command watches"))
    }
}

#[tonic::async_trait]
impl Introspection for Canned {
    async fn conditions(
        &self,
        _request: Request<v1::ConditionsRequest>,
    ) -> Result<Response<v1::ConditionsResponse>, Status> {
        Ok(Response::new(v1::ConditionsResponse::default()))
    }

    async fn operators(
        &self,
        _request: Request<v1::OperatorsRequest>,
    ) -> Result<Response<v1::OperatorsResponse>, Status> {
        let row = |operator: &str, worker: u32, frontier| v1::Operator {
            pipeline: "logs".into(),
            operator: operator.into(),
            kind: "route".into(),
            worker,
            records_in: 1000,
            records_out: 990,
            bytes_in: 4096,
            bytes_out: 0,
            rejected: 10,
            elapsed_ns: 1_500_000,
            activations: 3,
            backlog: 7,
            frontier,
            state_entries: 2,
            state_bytes: 4096,
            retained_bytes: 0,
        };
        let at = |epoch, chunk| Some(v1::Frontier { epoch, chunk });
        let operators = vec![
            row("by_class", 0, at(3, u64::MAX)),
            row("by_class", 1, at(3, 4)),
            row("errors", 0, None),
        ];
        Ok(Response::new(v1::OperatorsResponse { operators, generation: 7 }))
    }

    async fn latency(
        &self,
        _request: Request<v1::LatencyRequest>,
    ) -> Result<Response<v1::LatencyResponse>, Status> {
        use hdrhistogram::serialization::{Serializer as _, V2Serializer};
        let mut histogram = hdrhistogram::Histogram::<u64>::new(3).unwrap();
        let stage = |name: &str, histogram: &hdrhistogram::Histogram<u64>| {
            let mut bytes = Vec::new();
            V2Serializer::new().serialize(histogram, &mut bytes).unwrap();
            v1::StageLatency {
                pipeline: "logs".into(),
                stage: name.into(),
                histogram: bytes.into(),
                ..Default::default()
            }
        };
        let empty = stage("claim", &histogram);
        (1..=1000).for_each(|micros| histogram.record(micros).unwrap());
        Ok(Response::new(v1::LatencyResponse { stages: vec![empty, stage("total", &histogram)] }))
    }
}
