//! Tables: the rows of `table` sinks, found, scanned and followed.

use tidemill_proto::v1;
use tidemill_proto::v1::tables_client::TablesClient;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::client::{ANSWER_BYTES_MAX, Client};
use crate::convert;
use crate::error::Error;
use crate::model::{Cell, Column, TableChange, TableInfo, TableRow, TableRows};
use crate::retry::patiently;

/// Which rows and columns of a table are wanted; all of them if nothing is said.
#[derive(Clone, Debug, Default)]
pub struct TableQuestion {
    /// The pipeline; may be left out where only one has such a table.
    pub pipeline: Option<String>,
    /// The table: the name of its sink.
    pub table: String,
    /// An SQL condition over the columns that is true for the rows that are wanted.
    pub condition: Option<String>,
    /// The columns that are wanted, in this order.
    pub columns: Vec<String>,
    /// Values of the key columns, or of the first of them. A text is read as its column is.
    pub key: Vec<(String, Cell)>,
}

impl TableQuestion {
    /// Returns the question for all rows of a table.
    pub fn all(table: impl Into<String>) -> Self {
        Self { table: table.into(), ..Self::default() }
    }

    fn key_parts(&self) -> Vec<v1::KeyPart> {
        let part = |(column, cell): &(String, Cell)| v1::KeyPart {
            column: column.clone(),
            value: Some(convert::cell_to_wire(cell)),
        };
        self.key.iter().map(part).collect()
    }
}

impl Client {
    /// Returns the tables of one pipeline or of all.
    pub async fn tables(&self, pipeline: Option<&str>) -> Result<Vec<TableInfo>, Error> {
        let request = v1::ListTablesRequest { pipeline: pipeline.map(str::to_owned) };
        let answer = patiently(|| {
            let (mut client, request) = (self.tables_client(), request.clone());
            async move { Ok(client.list(request).await?) }
        });
        Ok(answer.await?.into_inner().tables.into_iter().map(convert::table).collect())
    }

    /// Returns the rows with the key of the question, or with one that begins so: at most 1000.
    pub async fn lookup(&self, question: &TableQuestion) -> Result<TableRows, Error> {
        let request = v1::LookupRequest {
            pipeline: question.pipeline.clone(),
            table: question.table.clone(),
            key: question.key_parts(),
            columns: question.columns.clone(),
        };
        let answer = patiently(|| {
            let (mut client, request) = (self.tables_client(), request.clone());
            async move { Ok(client.lookup(request).await?) }
        });
        let answer = answer.await?.into_inner();
        Ok(TableRows {
            epoch: answer.epoch,
            columns: convert::columns(answer.columns),
            rows: answer.rows.into_iter().map(convert::table_row).collect(),
            more: answer.more,
        })
    }

    /// Begins to read rows in the order of the key, all as of one epoch: at most `limit`, 0 for all,
    /// behind the place where an earlier scan ended ([`TableScan::next_page`]).
    pub async fn scan(
        &self,
        question: &TableQuestion,
        limit: u64,
        after: &[u8],
    ) -> Result<TableScan, Error> {
        let request = v1::ScanRequest {
            pipeline: question.pipeline.clone(),
            table: question.table.clone(),
            r#where: question.condition.clone(),
            columns: question.columns.clone(),
            key: question.key_parts(),
            limit,
            after: after.to_vec(),
        };
        let answer = patiently(|| {
            let (mut client, request) = (self.tables_client(), request.clone());
            async move {
                let mut answer = client.scan(request).await?.into_inner();
                // The first message says how the rows look.
                let first = answer.message().await?;
                Ok((answer, first))
            }
        });
        let (answer, first) = answer.await?;
        let mut scan =
            TableScan { answer, epoch: 0, columns: Vec::new(), waiting: None, next: Vec::new() };
        let first = first.ok_or(Error::Answer { what: "columns" })?;
        scan.columns = convert::columns(first.columns.clone());
        scan.waiting = Some(scan.take(first));
        Ok(scan)
    }

    /// Begins to follow a table: with all its rows, or with what came after an epoch that is known.
    pub async fn subscribe(
        &self,
        question: &TableQuestion,
        after_epoch: Option<u64>,
    ) -> Result<TableFollow, Error> {
        let request = v1::SubscribeRequest {
            pipeline: question.pipeline.clone(),
            table: question.table.clone(),
            r#where: question.condition.clone(),
            columns: question.columns.clone(),
            key: question.key_parts(),
            after_epoch,
        };
        let answer = patiently(|| {
            let (mut client, request) = (self.tables_client(), request.clone());
            async move {
                let mut answer = client.subscribe(request).await?.into_inner();
                // The first message says how the rows look.
                let first = answer.message().await?;
                Ok((answer, first))
            }
        });
        let (answer, first) = answer.await?;
        let first = first.ok_or(Error::Answer { what: "columns" })?;
        let columns = convert::columns(first.columns.clone());
        let waiting =
            Some(convert::change(first)).filter(|one| one.complete || !one.rows.is_empty());
        Ok(TableFollow { answer, columns, waiting })
    }

    fn tables_client(&self) -> TablesClient<Channel> {
        TablesClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }
}

/// Rows of a table as they come.
#[derive(Debug)]
pub struct TableScan {
    answer: Streaming<v1::ScanResponse>,
    epoch: u64,
    columns: Vec<Column>,
    waiting: Option<Vec<TableRow>>,
    next: Vec<u8>,
}

impl TableScan {
    /// Returns the epoch as of which all rows are.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Returns the columns of the rows.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Returns where a next scan goes on, once this one has ended at its limit; else nothing.
    pub fn next_page(&self) -> &[u8] {
        &self.next
    }

    /// Returns the next rows; `None` when all were given.
    pub async fn next(&mut self) -> Result<Option<Vec<TableRow>>, Error> {
        if let Some(rows) = self.waiting.take() {
            return Ok(Some(rows));
        }
        let message = self.answer.message().await?;
        Ok(message.map(|message| self.take(message)))
    }

    fn take(&mut self, message: v1::ScanResponse) -> Vec<TableRow> {
        self.epoch = message.epoch;
        self.next = message.next;
        message.rows.into_iter().map(convert::table_row).collect()
    }
}

/// A table's rows and changes as they come.
///
/// Rows of an epoch count once a message of it is `complete`: whoever goes on elsewhere after an
/// error gives the last such epoch to [`Client::subscribe`], and forgets what came behind it.
#[derive(Debug)]
pub struct TableFollow {
    answer: Streaming<v1::SubscribeResponse>,
    columns: Vec<Column>,
    waiting: Option<TableChange>,
}

impl TableFollow {
    /// Returns the columns of the rows.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Returns what comes next, once it comes; `None` when the server has ended it without a reason.
    pub async fn next(&mut self) -> Result<Option<TableChange>, Error> {
        if let Some(change) = self.waiting.take() {
            return Ok(Some(change));
        }
        Ok(self.answer.message().await?.map(convert::change))
    }
}
