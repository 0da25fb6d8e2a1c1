//! Dry run: what a correction would change, asked without making it.

use std::path::Path;
use std::time::Duration;

use tidemill_proto::v1;
use tidemill_proto::v1::corrections_client::CorrectionsClient;
use tonic::transport::Channel;

use crate::client::{ANSWER_BYTES_MAX, Client};
use crate::convert;
use crate::error::Error;
use crate::model::{Reason, Which};
use crate::submit::{SubmitOptions, feed, open};

/// What a correction would do. Nothing of it was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DryRun {
    /// The pipeline.
    pub pipeline: String,
    /// The name of the file that would come, or go.
    pub name: String,
    /// The submission that would be replaced or removed; none: the file would be one more.
    pub corrects: Option<u64>,
    /// Whether it would only take that one away.
    pub removes: bool,
    /// Why the file would be set aside, if it would; then nothing would change.
    pub failure: Option<Reason>,
    /// Records read from the new file.
    pub records: u64,
    /// How many of them were rejected.
    pub rejected: u64,
    /// How many outputs would change, by sink.
    pub sinks: Vec<SinkChanges>,
    /// The outputs that would change, at most 1000.
    pub outputs: Vec<OutputChange>,
    /// The tables that would change.
    pub tables: Vec<TableChanges>,
    /// How long it took.
    pub took: Duration,
}

/// How many outputs of a sink would change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkChanges {
    /// The sink.
    pub sink: String,
    /// Outputs that are not there now.
    pub new: u64,
    /// Outputs that would have other bytes.
    pub replaced: u64,
    /// Outputs that would go.
    pub removed: u64,
    /// Outputs that would be written again with the same bytes.
    pub same: u64,
}

/// An output that would change: its size in bytes now and then, where it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputChange {
    /// Its path below the pipeline's `out/`.
    pub path: String,
    /// Its size now; none: it is not there.
    pub before: Option<u64>,
    /// Its size then; none: it would go.
    pub after: Option<u64>,
}

/// What would change in a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableChanges {
    /// The name of its sink.
    pub table: String,
    /// Rows whose key is not there now.
    pub added: u64,
    /// Rows whose key would be gone.
    pub removed: u64,
    /// Rows that would become others of the same key.
    pub changed: u64,
    /// Some of them, in the order of the key: the row as it is and as it would be, as JSON.
    pub sample: Vec<(Option<String>, Option<String>)>,
}

impl Client {
    /// Sends a file that is to take the place of an earlier one, and returns what that would change.
    /// Nothing is changed, and nothing of the file is kept; the options' id is not used.
    pub async fn try_file(
        &self,
        path: &Path,
        options: &SubmitOptions,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<DryRun, Error> {
        let (mut body, name, size) = open(path, options).await?;
        let header = v1::SubmitHeader {
            pipeline: options.pipeline.clone().unwrap_or_default(),
            name,
            size,
            replaces: convert::replaces(options.replaces),
            ..v1::SubmitHeader::default()
        };
        let mut client = self.corrections();
        let call = |messages| async move { Ok(client.try_replace(messages).await?.into_inner()) };
        feed(header, &mut body, &mut progress, call).await.map(told)
    }

    /// Returns what taking a committed file away would change. Nothing is changed.
    pub async fn try_removal(&self, which: Which) -> Result<DryRun, Error> {
        let request = convert::removal(which);
        Ok(told(self.corrections().try_remove(request).await?.into_inner()))
    }

    fn corrections(&self) -> CorrectionsClient<Channel> {
        CorrectionsClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }
}

fn told(wire: v1::DryRun) -> DryRun {
    let sink = |one: v1::SinkChanges| {
        let v1::SinkChanges { sink, new, replaced, removed, same } = one;
        SinkChanges { sink, new, replaced, removed, same }
    };
    let output = |one: v1::OutputChange| {
        let v1::OutputChange { path, before, after } = one;
        OutputChange { path, before, after }
    };
    let table = |one: v1::TableChanges| {
        let v1::TableChanges { table, added, removed, changed, sample } = one;
        let sample = sample.into_iter().map(|row| (row.before, row.after)).collect();
        TableChanges { table, added, removed, changed, sample }
    };
    DryRun {
        pipeline: wire.pipeline,
        name: wire.name,
        corrects: wire.corrects,
        removes: wire.removes,
        failure: wire.failure.map(|reason| Reason { code: reason.code, text: reason.text }),
        records: wire.records,
        rejected: wire.rejected,
        sinks: wire.sinks.into_iter().map(sink).collect(),
        outputs: wire.outputs.into_iter().map(output).collect(),
        tables: wire.tables.into_iter().map(table).collect(),
        took: wire.took.and_then(|took| Duration::try_from(took).ok()).unwrap_or_default(),
    }
}
