//! Client: the connection, and every question that can be asked over it.

use std::time::Duration;

use tidemill_proto::v1;
use tidemill_proto::v1::introspection_client::IntrospectionClient;
use tidemill_proto::v1::pipelines_client::PipelinesClient;
use tidemill_proto::v1::submissions_client::SubmissionsClient;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use crate::convert;
use crate::error::Error;
use crate::model::{
    Condition, Draining, Filter, Holding, Operator, Page, Pipeline, StageLatency, Stats,
    Submission, Which,
};
use crate::retry::patiently;
use crate::watch::{Watch, WatchFilter};

/// Pauses between attempts to connect: a server that is just starting is found, one that is not
/// there is reported within two seconds.
const CONNECT_PAUSES_MS: [u64; 5] = [50, 100, 200, 400, 800];

/// How long one attempt to connect may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// How long a silent server is given before the connection counts as lost.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));

/// How long one `Wait` is left open; longer waits are made of several.
const WAIT_ROUND: Duration = Duration::from_secs(60);

/// The largest answer that is read, in bytes.
pub(crate) const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A connection to a server. Cheap to clone; clones share the connection.
///
/// Questions are asked again while the server is away for a moment: up to a minute while it says that
/// it starts, ten seconds while nothing is heard of it.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) channel: Channel,
}

impl Client {
    /// Connects to the server at `address`: `http://host:port` or `host:port`.
    ///
    /// Tries for about two seconds, so that a server that is just starting is found.
    pub async fn connect(address: &str) -> Result<Self, Error> {
        let address = with_scheme(address)?;
        let (ping, pong) = KEEPALIVE;
        let endpoint = Endpoint::from_shared(address.clone())
            .map_err(|error| Error::Address {
                address: address.clone(),
                reason: error_text(&error),
            })?
            .connect_timeout(CONNECT_MAX)
            .http2_keep_alive_interval(ping)
            .keep_alive_timeout(pong)
            .tcp_nodelay(true);
        let mut pauses = CONNECT_PAUSES_MS.into_iter();
        loop {
            match (endpoint.connect().await, pauses.next()) {
                (Ok(channel), _) => return Ok(Self { channel }),
                (Err(_), Some(pause)) => {
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
                (Err(source), None) => return Err(Error::Connect { address, source }),
            }
        }
    }

    /// Returns one submission as it stands now.
    pub async fn get(&self, id: u64) -> Result<Submission, Error> {
        let request = v1::GetSubmissionRequest { id };
        let answer = patiently(|| {
            let (mut client, request) = (self.submissions(), request);
            async move { Ok(client.get(request).await?) }
        })
        .await?;
        convert::submission(answer.into_inner())
    }

    /// Returns the submission once it is final (committed or quarantined).
    ///
    /// [`Error::NotFinal`] when it is not within `timeout`.
    pub async fn wait(&self, id: u64, timeout: Duration) -> Result<Submission, Error> {
        let begin = Instant::now();
        loop {
            let left = timeout.saturating_sub(begin.elapsed());
            let round = left.min(WAIT_ROUND);
            let request =
                v1::WaitRequest { id, timeout: prost_types::Duration::try_from(round).ok() };
            let answer = patiently(|| {
                let (mut client, request) = (self.submissions(), request);
                async move { Ok(client.wait(request).await?) }
            });
            match answer.await {
                Ok(answer) => return convert::submission(answer.into_inner()),
                Err(error) if error.word() == Some("still_open") => {
                    if begin.elapsed() >= timeout {
                        return Err(Error::NotFinal { id, waited: timeout });
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Tries a quarantined file again; returns the new submission once it is durable.
    pub async fn retry(&self, id: u64) -> Result<Submission, Error> {
        convert::submission(self.submissions().retry(v1::RetryRequest { id }).await?.into_inner())
    }

    /// Takes a committed file away, and everything that came of it; returns the new submission, which
    /// does that, once it is durable.
    pub async fn remove(&self, which: Which) -> Result<Submission, Error> {
        let request = convert::removal(which);
        convert::submission(self.submissions().remove(request).await?.into_inner())
    }

    /// Returns one page of submissions, newest first.
    pub async fn list(&self, filter: &Filter) -> Result<Page, Error> {
        let request = v1::ListSubmissionsRequest {
            pipeline: filter.pipeline.clone(),
            phase: filter.phase.map(|phase| convert::phase_to_wire(phase).into()),
            name: filter.name.clone(),
            before: filter.before,
            limit: filter.limit,
        };
        let answer = patiently(|| {
            let (mut client, request) = (self.submissions(), request.clone());
            async move { Ok(client.list(request).await?) }
        });
        let answer = answer.await?.into_inner();
        let submissions =
            answer.submissions.into_iter().map(convert::submission).collect::<Result<_, _>>()?;
        Ok(Page { submissions, next_before: answer.next_before })
    }

    /// Returns a stream of submissions as they change.
    ///
    /// When ids are asked for, it begins with the current state of each and ends once all are
    /// final.
    pub async fn watch(&self, filter: WatchFilter) -> Result<Watch, Error> {
        let request = v1::WatchRequest { pipeline: filter.pipeline, ids: filter.ids };
        let answer = patiently(|| {
            let (mut client, request) = (self.submissions(), request.clone());
            async move { Ok(client.watch(request).await?) }
        });
        Ok(Watch::new(answer.await?.into_inner()))
    }

    /// Returns what each operator does on each worker, of one pipeline or of all.
    pub async fn operators(&self, pipeline: Option<&str>) -> Result<Vec<Operator>, Error> {
        Ok(self.stats(pipeline).await?.operators)
    }

    /// Returns which generation answers, and what [`Self::operators`] does.
    pub async fn stats(&self, pipeline: Option<&str>) -> Result<Stats, Error> {
        let request = v1::OperatorsRequest { pipeline: pipeline.map(str::to_owned) };
        let answer = patiently(|| {
            let (mut client, request) = (self.introspection(), request.clone());
            async move { Ok(client.operators(request).await?) }
        });
        let answer = answer.await?.into_inner();
        let operators = answer.operators.into_iter().map(convert::operator).collect();
        Ok(Stats { generation: answer.generation, operators })
    }

    /// Returns what keeps work waiting, worst first: nothing when all is well, or when the server
    /// does not know the question.
    pub async fn conditions(&self) -> Result<Vec<Condition>, Error> {
        match self.introspection().conditions(v1::ConditionsRequest {}).await {
            Ok(answer) => {
                answer.into_inner().conditions.into_iter().map(convert::condition).collect()
            }
            Err(status) if status.code() == tonic::Code::Unimplemented => Ok(Vec::new()),
            Err(status) => Err(status.into()),
        }
    }

    /// Returns how long files spent in each stage, of one pipeline or of all.
    pub async fn latency(&self, pipeline: Option<&str>) -> Result<Vec<StageLatency>, Error> {
        let request = v1::LatencyRequest { pipeline: pipeline.map(str::to_owned) };
        let answer = patiently(|| {
            let (mut client, request) = (self.introspection(), request.clone());
            async move { Ok(client.latency(request).await?) }
        });
        let answer = answer.await?.into_inner();
        answer.stages.into_iter().map(convert::latency).collect()
    }

    /// Returns the pipelines that run, with their counts; their text and graph are left out.
    pub async fn pipelines(&self) -> Result<Vec<Pipeline>, Error> {
        let request = v1::ListPipelinesRequest {};
        let answer = patiently(|| {
            let (mut client, request) = (self.pipelines_client(), request);
            async move { Ok(client.list(request).await?) }
        });
        let answer = answer.await?.into_inner();
        answer.pipelines.into_iter().map(convert::pipeline).collect()
    }

    /// Returns one pipeline with its text and graph; `None` asks for the only one.
    pub async fn pipeline(&self, name: Option<&str>) -> Result<Pipeline, Error> {
        let request = v1::GetPipelineRequest { name: name.unwrap_or_default().to_owned() };
        let answer = patiently(|| {
            let (mut client, request) = (self.pipelines_client(), request.clone());
            async move { Ok(client.get(request).await?) }
        });
        convert::pipeline(answer.await?.into_inner())
    }

    /// Holds back a pipeline, or one of its sources or sinks, until it is resumed. Durable on return;
    /// a second time changes nothing.
    pub async fn pause(&self, pipeline: &str, part: Option<&str>) -> Result<Holding, Error> {
        let request = hold_request(pipeline, part);
        let answer = patiently(|| {
            let (mut client, request) = (self.pipelines_client(), request.clone());
            async move { Ok(client.pause(request).await?) }
        });
        holding(answer.await?.into_inner())
    }

    /// Lets go on what was paused or drained.
    pub async fn resume(&self, pipeline: &str, part: Option<&str>) -> Result<Holding, Error> {
        let request = hold_request(pipeline, part);
        let answer = patiently(|| {
            let (mut client, request) = (self.pipelines_client(), request.clone());
            async move { Ok(client.resume(request).await?) }
        });
        holding(answer.await?.into_inner())
    }

    /// Lets a pipeline, or all, take nothing new until it is resumed, and returns how far what is under
    /// way has got, and whether all is done: ask again until it is. With `then_stop` the server ends
    /// when it is done.
    pub async fn drain(
        &self,
        pipeline: Option<&str>,
        then_stop: bool,
    ) -> Result<(Vec<Draining>, bool), Error> {
        let pipeline = pipeline.unwrap_or_default().to_owned();
        let request = v1::DrainRequest { pipeline, then_stop };
        let answer = patiently(|| {
            let (mut client, request) = (self.pipelines_client(), request.clone());
            async move { Ok(client.drain(request).await?) }
        });
        let answer = answer.await?.into_inner();
        let pipelines = answer.pipelines.into_iter().map(convert::draining);
        Ok((pipelines.collect::<Result<_, _>>()?, answer.done))
    }

    pub(crate) fn submissions(&self) -> SubmissionsClient<Channel> {
        SubmissionsClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    fn introspection(&self) -> IntrospectionClient<Channel> {
        IntrospectionClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub(crate) fn pipelines_client(&self) -> PipelinesClient<Channel> {
        PipelinesClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }
}

fn hold_request(pipeline: &str, part: Option<&str>) -> v1::HoldRequest {
    v1::HoldRequest { pipeline: pipeline.to_owned(), part: part.unwrap_or_default().to_owned() }
}

fn holding(wire: v1::HoldResponse) -> Result<Holding, Error> {
    Ok(Holding { changed: wire.changed, holds: convert::holds(wire.holds)? })
}

/// Returns the address with its scheme.
fn with_scheme(address: &str) -> Result<String, Error> {
    let refuse = |reason: &str| {
        Err(Error::Address { address: address.to_owned(), reason: reason.to_owned() })
    };
    match address.split_once("://") {
        Some(("http", host)) if !host.is_empty() => Ok(address.to_owned()),
        Some(("https", _)) => {
            refuse("https is not supported; use http, or a proxy that speaks TLS")
        }
        Some(_) => refuse("expected http://HOST:PORT"),
        None if address.is_empty() => refuse("it is empty"),
        None => Ok(format!("http://{address}")),
    }
}

/// Returns the innermost text of an error: the outer ones only say "transport error".
fn error_text(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(address: &str, expected: Option<&str>) {
        assert_eq!(with_scheme(address).ok().as_deref(), expected, "{address}");
    }

    #[test]
    fn an_address_is_a_host_and_a_port_with_or_without_http() {
        check("http://127.0.0.1:7171", Some("http://127.0.0.1:7171"));
        check("127.0.0.1:7171", Some("http://127.0.0.1:7171"));
        check("localhost:1", Some("http://localhost:1"));
        check("https://host:1", None);
        check("ftp://host:1", None);
        check("http://", None);
        check("", None);
    }
}
