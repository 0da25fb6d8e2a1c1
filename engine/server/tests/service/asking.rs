//! Asking: lists, operators, latencies, pipelines, health and the schema.

use tidemill_client::{Client, Error, Filter, Frontier, Phase};
use tidemill_engine::report::{Phase as P, ReceiptNode, ReceiptReport};
use tidemill_proto::v1;
use tidemill_proto::v1::submissions_client::SubmissionsClient;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::fake::moment;
use crate::front::{Front, word};

#[tokio::test]
async fn a_list_is_filtered_and_paged_newest_first() {
    let front = Front::start().await;
    let client = front.client().await;
    for index in 0..5 {
        let id = front.engine.accept(if index == 2 { "x.jsonl" } else { "a.jsonl" });
        if id > 3 {
            front.engine.change(id, P::Committed, 1);
        }
    }
    let ids = async |filter: Filter| {
        let page = client.list(&filter).await.unwrap();
        let ids: Vec<u64> = page.submissions.iter().map(|submission| submission.id).collect();
        (ids, page.next_before)
    };
    let all = Filter::default();
    assert_eq!(ids(all.clone()).await, (vec![5, 4, 3, 2, 1], None));
    assert_eq!(ids(Filter { limit: 2, ..all.clone() }).await, (vec![5, 4], Some(4)));
    let second = Filter { limit: 2, before: Some(4), ..all.clone() };
    assert_eq!(ids(second).await, (vec![3, 2], Some(2)));
    let committed = Filter { phase: Some(Phase::Committed), ..all.clone() };
    assert_eq!(ids(committed).await, (vec![5, 4], None));
    assert_eq!(ids(Filter { name: Some("x.jsonl".into()), ..all.clone() }).await, (vec![3], None));
    assert_eq!(ids(Filter { pipeline: Some("bills".into()), ..all }).await, (vec![], None));

    let one = client.get(5).await.unwrap();
    assert_eq!((one.seen_at, one.accepted_at), (moment(1), moment(2)));
    assert_eq!(one.finished_at, Some(moment(3)));
    assert_eq!((one.outputs[0].path.as_str(), one.outputs[0].bytes), ("errors/a.jsonl", 7));

    let mut raw = SubmissionsClient::new(front.channel().await);
    for phase in [0, 99, -1] {
        let request = v1::ListSubmissionsRequest { phase: Some(phase), ..Default::default() };
        let status = raw.list(request).await.unwrap_err();
        assert_eq!(
            (status.code(), word(&status).as_str()),
            (Code::InvalidArgument, "bad_argument")
        );
    }
    let request = v1::ListSubmissionsRequest { limit: u32::MAX, ..Default::default() };
    assert_eq!(raw.list(request).await.unwrap().into_inner().submissions.len(), 5);
}

#[tokio::test]
async fn what_keeps_work_waiting_is_told() {
    let front = Front::start().await;
    let conditions = front.client().await.conditions().await.unwrap();
    let told: Vec<_> = conditions.iter().map(|one| (&*one.code, &*one.text, one.since)).collect();
    assert_eq!(told, [("disk_full", "no space", moment(5))]);
}

#[tokio::test]
async fn a_quarantined_file_is_tried_again_as_a_new_submission() {
    let front = Front::start().await;
    let client = front.client().await;
    let (bad, good) = (front.engine.accept("a.jsonl"), front.engine.accept("b.jsonl"));
    front.engine.change(bad, P::Quarantined, 1);
    front.engine.change(good, P::Committed, 1);
    let again = client.retry(bad).await.unwrap();
    assert_eq!(
        (again.retry_of, again.phase, &*again.name),
        (Some(bad), Phase::Accepted, "a.jsonl")
    );
    assert_eq!(client.retry(good).await.unwrap_err().word(), Some("no_retry"));
    assert_eq!(client.retry(99).await.unwrap_err().word(), Some("not_found"));
}

#[tokio::test]
async fn a_committed_file_that_is_asked_for_comes_with_its_receipt() {
    let front = Front::start().await;
    let client = front.client().await;
    let id = front.engine.accept("a.jsonl");
    let node = ReceiptNode {
        name: "by".into(),
        role: "operator".into(),
        kind: "route".into(),
        records_in: 10,
        out: vec![("low".into(), 4), ("high".into(), 3)],
        filtered: 2,
        rejected: 2,
        merged: 5,
        copies: 1,
        reported: 6,
        fed_by: vec!["in".into()],
    };
    let receipt = ReceiptReport {
        generation: 3,
        processes: 1,
        workers: 2,
        binary_version: "0.1".into(),
        plan_hash: "ab".into(),
        claimed_at: moment(1),
        read_at: moment(2),
        answered_at: moment(3),
        nodes: vec![node],
        outputs: vec![("errors/a.jsonl".into(), 7, "cd".into())],
    };
    front.engine.receive_receipt(id, receipt);
    assert_eq!(client.get(id).await.unwrap().receipt, None, "it is not committed yet");
    front.engine.change(id, P::Committed, 1);
    let found = client.get(id).await.unwrap().receipt.unwrap();
    assert_eq!((found.generation, found.processes, found.workers), (3, 1, 2));
    assert_eq!((found.claimed_at, found.answered_at), (moment(1), moment(3)));
    assert_eq!(
        (found.outputs[0].path.as_str(), found.outputs[0].hash.as_str()),
        ("errors/a.jsonl", "cd")
    );
    let node = &found.nodes[0];
    assert_eq!(node.out, [("low".to_owned(), 4), ("high".to_owned(), 3)]);
    assert_eq!((node.records_in, node.filtered, node.rejected), (10, 2, 2));
    assert_eq!((node.merged, node.copies, node.reported), (5, 1, 6));
    let listed = client.list(&Filter::default()).await.unwrap();
    assert_eq!(listed.submissions[0].receipt, None, "a list holds no receipts");
}

#[tokio::test]
async fn operators_and_latencies_are_those_of_the_pipeline_asked_for() {
    let front = Front::start().await;
    let client = front.client().await;
    assert_eq!(client.operators(None).await.unwrap().len(), 3);
    assert_eq!(client.stats(None).await.unwrap().generation, 7);
    let rows = client.operators(Some("logs")).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.worker).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(rows[0].frontier, Some(Frontier { epoch: 9, chunk: Frontier::END }));
    assert_eq!((rows[0].records_in, rows[0].state_entries, rows[0].state_bytes), (1, 10, 1_000));

    assert_eq!(client.latency(None).await.unwrap().len(), 2);
    let stages = client.latency(Some("bills")).await.unwrap();
    assert_eq!((stages[0].pipeline.as_str(), stages[0].stage.as_str()), ("bills", "total"));
    let histogram = &stages[0].histogram;
    assert_eq!((histogram.len(), histogram.min(), histogram.max()), (1000, 1, 1000));
    assert_eq!(histogram.value_at_quantile(0.5), 500);

    let expected = Some("no_pipeline");
    assert_eq!(client.operators(Some("x")).await.unwrap_err().word(), expected);
    let error = client.latency(Some("x")).await.unwrap_err();
    assert_eq!(error.to_string(), "no_pipeline: no pipeline is called \"x\"; running: logs, bills");
}

#[tokio::test]
async fn pipelines_are_listed_without_their_text_and_shown_with_it() {
    let front = Front::start().await;
    let client = front.client().await;
    let list = client.pipelines().await.unwrap();
    let names: Vec<&str> = list.iter().map(|pipeline| pipeline.name.as_str()).collect();
    assert_eq!(names, ["logs", "bills"]);
    assert!(list[0].yaml.is_empty() && list[0].nodes.is_empty());
    assert_eq!((list[0].accepted, list[0].committed, list[0].quarantined), (1, 2, 3));
    let one = client.pipeline(Some("bills")).await.unwrap();
    assert_eq!(one.yaml, "pipeline: bills\n");
    assert_eq!((one.nodes[0].role.as_str(), one.edges[0].to.as_str()), ("source", "out"));
    assert!(!format!("{one:?}").contains("secret"), "the server's folder stays its own affair");
    for name in [None, Some("x")] {
        assert_eq!(client.pipeline(name).await.unwrap_err().word(), Some("no_pipeline"));
    }
}

#[tokio::test]
async fn health_is_serving_for_the_server_and_each_service() {
    let front = Front::start().await;
    let mut health = HealthClient::new(front.channel().await);
    let services =
        ["", "tidemill.v1.Submissions", "tidemill.v1.Introspection", "tidemill.v1.Pipelines"];
    for service in services {
        let request = HealthCheckRequest { service: service.into() };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(
            answer.status(),
            tonic_health::pb::health_check_response::ServingStatus::Serving
        );
    }
}

#[tokio::test]
async fn the_schema_is_offered_only_when_asked_for() {
    for offered in [true, false] {
        let front = Front::start_with(|config| config.reflection = offered).await;
        let mut client = ServerReflectionClient::new(front.channel().await);
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let answer = client.server_reflection_info(tokio_stream::iter([request])).await;
        if !offered {
            assert_eq!(answer.unwrap_err().code(), Code::Unimplemented);
            continue;
        }
        let answer = answer.unwrap().into_inner().message().await.unwrap().unwrap();
        let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
            panic!("{answer:?}");
        };
        let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
        for name in ["tidemill.v1.Submissions", "tidemill.v1.Introspection"] {
            assert!(names.iter().any(|known| known == name), "{names:?}");
        }
    }
}

#[tokio::test]
async fn a_connection_over_the_bound_waits_for_its_place() {
    let front = Front::start_with(|config| config.limits.connections_max = 1).await;
    let first = front.client().await;
    first.pipelines().await.unwrap();
    let second = front.channel();
    let leave = async { drop(first) };
    let (second, ()) = tokio::join!(second, leave);
    let mut second = HealthClient::new(second);
    second.check(HealthCheckRequest::default()).await.unwrap();
}

#[tokio::test]
async fn nobody_at_the_address_is_said_with_a_hint() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let error = Client::connect(&address).await.unwrap_err();
    let expected = format!("cannot connect to http://{address}; is `tidemill run` running there?");
    assert_eq!(error.to_string(), expected);
    assert!(error.is_temporary());
    for address in ["", "https://a:1", "http://", "http://a b", "a\nb"] {
        let error = Client::connect(address).await.unwrap_err();
        assert!(matches!(error, Error::Address { .. }), "{address:?}: {error}");
    }
}
