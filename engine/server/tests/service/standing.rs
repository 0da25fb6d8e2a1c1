//! Standing in: what clients hear while no engine serves.

use std::time::Duration;

use tidemill_proto::CODE_KEY;
use tidemill_proto::v1;
use tidemill_proto::v1::introspection_client::IntrospectionClient;
use tidemill_proto::v1::submissions_client::SubmissionsClient;
use tidemill_server::{ServeError, stand_in};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// Nothing here may take so long.
const WAIT: Duration = Duration::from_secs(20);

struct Standing {
    address: String,
    text: watch::Sender<String>,
    end: oneshot::Sender<()>,
    stood: JoinHandle<Result<(), ServeError>>,
}

impl Standing {
    async fn start() -> Standing {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (text, said) = watch::channel("generation 7 is starting; try again".to_owned());
        let (end, ended) = oneshot::channel::<()>();
        let ended = async move { drop(ended.await) };
        let stood = tokio::spawn(stand_in(listener, said, ended));
        Standing { address, text, end, stood }
    }

    async fn channel(&self) -> Channel {
        Channel::from_shared(self.address.clone()).unwrap().connect().await.unwrap()
    }
}

#[track_caller]
fn check_refused<T: std::fmt::Debug>(answer: Result<T, Status>, text: &str) {
    let status = answer.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, text));
    assert_eq!(status.metadata().get(CODE_KEY).unwrap(), "starting");
}

#[tokio::test]
async fn every_call_is_told_to_try_again() {
    let standing = Standing::start().await;
    let channel = standing.channel().await;
    let mut submissions = SubmissionsClient::new(channel.clone());
    let mut introspection = IntrospectionClient::new(channel);
    let text = "generation 7 is starting; try again";
    check_refused(submissions.get(v1::GetSubmissionRequest { id: 1 }).await, text);
    check_refused(introspection.operators(v1::OperatorsRequest::default()).await, text);
    check_refused(submissions.watch(v1::WatchRequest::default()).await, text);
    let endless = tokio_stream::pending::<v1::SubmitRequest>();
    check_refused(submissions.submit(endless).await, text);
    standing.text.send_replace("generation 8 is starting; try again".to_owned());
    let text = "generation 8 is starting; try again";
    check_refused(submissions.get(v1::GetSubmissionRequest { id: 1 }).await, text);
}

#[tokio::test]
async fn health_is_not_serving_and_those_who_watch_it_do_not_hold_up_the_end() {
    let standing = Standing::start().await;
    let mut health = HealthClient::new(standing.channel().await);
    for service in ["", "tidemill.v1.Submissions"] {
        let request = HealthCheckRequest { service: service.into() };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::NotServing);
    }
    let watching = health.watch(HealthCheckRequest::default()).await.unwrap();
    standing.end.send(()).unwrap();
    let stood = tokio::time::timeout(WAIT, standing.stood).await;
    stood.expect("it ends in time").unwrap().unwrap();
    drop(watching);
}
