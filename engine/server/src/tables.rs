//! Tables: the service that reads tables while they change.
//!
//! Steps of reading run on threads that may block; between them nothing is held but a version of the
//! table. A reader that does not take what it asked for is cut off, so that it holds none for long.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidemill_engine::engine::tables::{Begin, Follow, Scan, TableError, TableRow, Told};
use tidemill_proto::v1;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::ask::ask;
use crate::backend::Backend;
use crate::closing::Closing;
use crate::config::Limits;
use crate::convert::tables::{columns, question, row, table};
use crate::refusal::Refusal;

/// Messages that may wait for a reader, at most.
const IN_FLIGHT: usize = 4;

/// Rows in the answer to a lookup, at most.
const LOOKUP_ROWS_MAX: usize = 1000;

/// Key columns, and columns, that a question may name at most.
const NAMES_MAX: usize = 1000;

/// How long one step looks for rows before it lets others have the thread.
const STEP: Duration = Duration::from_millis(50);

/// The service.
#[derive(Debug)]
pub(crate) struct Tables<B> {
    backend: B,
    limits: Limits,
    closing: Closing,
    /// Rings with each change of some table.
    changed: watch::Receiver<()>,
    readers: Arc<Semaphore>,
}

impl<B: Backend> Tables<B> {
    /// Returns the service over `backend`.
    pub(crate) fn new(backend: B, limits: Limits, closing: Closing) -> Self {
        let (bell, changed) = watch::channel(());
        backend.observe_tables(Arc::new(move || {
            bell.send_replace(());
        }));
        let readers = Arc::new(Semaphore::new(limits.table_readers_max));
        Self { backend, limits, closing, changed, readers }
    }

    /// Returns the right to read.
    fn turn(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        if self.closing.is_closed() {
            return Err(self.closing.refusal());
        }
        Arc::clone(&self.readers).try_acquire_owned().map_err(|_| Refusal::Readers)
    }

    fn sending<T>(&self, turn: OwnedSemaphorePermit) -> (Sending<T>, Answer<T>) {
        let (sender, receiver) = mpsc::channel(IN_FLIGHT + 1);
        let last = sender.clone().try_reserve_owned().ok();
        let sending = Sending {
            sender,
            last,
            closing: self.closing.clone(),
            idle: self.limits.reader_idle,
            read_max: self.limits.read_max,
            began: Instant::now(),
            _turn: turn,
        };
        (sending, Response::new(ReceiverStream::new(receiver)))
    }
}

type Answer<T> = Response<ReceiverStream<Result<T, Status>>>;

fn check_names(columns: &[String], key: &[v1::KeyPart]) -> Result<(), Refusal> {
    match columns.len().max(key.len()) > NAMES_MAX {
        true => Err(Refusal::Argument { field: "columns", reason: "are too many" }),
        false => Ok(()),
    }
}

#[tonic::async_trait]
impl<B: Backend> v1::tables_server::Tables for Tables<B> {
    type ScanStream = ReceiverStream<Result<v1::ScanResponse, Status>>;
    type SubscribeStream = ReceiverStream<Result<v1::SubscribeResponse, Status>>;

    async fn list(
        &self,
        request: Request<v1::ListTablesRequest>,
    ) -> Result<Response<v1::ListTablesResponse>, Status> {
        let wanted = request.into_inner().pipeline;
        let asked = ask(&self.backend, self.limits.answer_max, move |backend| {
            backend.tables(wanted.as_deref())
        });
        let tables = asked.await?.map_err(Refusal::from)?.into_iter().map(table).collect();
        Ok(Response::new(v1::ListTablesResponse { tables }))
    }

    async fn lookup(
        &self,
        request: Request<v1::LookupRequest>,
    ) -> Result<Response<v1::LookupResponse>, Status> {
        let v1::LookupRequest { pipeline, table, key, columns: names } = request.into_inner();
        check_names(&names, &key)?;
        let _turn = self.turn()?;
        let answer = ask(&self.backend, self.limits.answer_max, move |backend| {
            if key.is_empty() {
                let reason = "is empty: say at least the first column of it, or scan the table";
                return Err(Refusal::Argument { field: "key", reason });
            }
            let table = backend.table(pipeline.as_deref(), &table)?;
            let limit = LOOKUP_ROWS_MAX as u64 + 1;
            let mut scan = table.scan(&question(None, names, key), Some(limit), None)?;
            let mut rows = Vec::new();
            while let Some(more) = scan.more()? {
                rows.extend(more.into_iter().map(row));
            }
            let more = rows.len() > LOOKUP_ROWS_MAX;
            rows.truncate(LOOKUP_ROWS_MAX);
            let columns = columns(scan.columns());
            Ok(v1::LookupResponse { epoch: scan.epoch(), columns, rows, more })
        });
        Ok(Response::new(answer.await??))
    }

    async fn scan(
        &self,
        request: Request<v1::ScanRequest>,
    ) -> Result<Response<Self::ScanStream>, Status> {
        let request = request.into_inner();
        check_names(&request.columns, &request.key)?;
        let turn = self.turn()?;
        let scan = ask(&self.backend, self.limits.answer_max, move |backend| {
            let table = backend.table(request.pipeline.as_deref(), &request.table)?;
            let limit = Some(request.limit).filter(|limit| *limit > 0);
            let behind = Some(&*request.after).filter(|after| !after.is_empty());
            let question = question(request.r#where, request.columns, request.key);
            table.scan(&question, limit, behind)
        });
        let scan = scan.await?.map_err(Refusal::from)?;
        let (sending, answer) = self.sending(turn);
        tokio::spawn(sending.scan(scan));
        Ok(answer)
    }

    async fn subscribe(
        &self,
        request: Request<v1::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let request = request.into_inner();
        check_names(&request.columns, &request.key)?;
        let turn = self.turn()?;
        let follow = ask(&self.backend, self.limits.answer_max, move |backend| {
            let table = backend.table(request.pipeline.as_deref(), &request.table)?;
            let from = request.after_epoch.map_or(Begin::Snapshot, Begin::After);
            let question = question(request.r#where, request.columns, request.key);
            table.follow(&question, from)
        });
        let follow = follow.await?.map_err(Refusal::from)?;
        let (sending, answer) = self.sending(turn);
        tokio::spawn(sending.follow(follow, self.changed.clone(), request.after_epoch));
        Ok(answer)
    }
}

/// The way to one reader.
struct Sending<T> {
    sender: mpsc::Sender<Result<T, Status>>,
    /// The place of the last word: an answer that is cut short must never look whole.
    last: Option<mpsc::OwnedPermit<Result<T, Status>>>,
    closing: Closing,
    idle: Duration,
    read_max: Duration,
    began: Instant,
    _turn: OwnedSemaphorePermit,
}

/// The reader is gone, or was told why it is cut off.
struct Gone;

impl<T> Sending<T> {
    /// Sends a message. `seen` is the last epoch that was told completely.
    async fn send(&mut self, message: T, seen: u64) -> Result<(), Gone> {
        let refusal = tokio::select! {
            biased;
            () = self.closing.closed() => self.closing.refusal(),
            reserved = tokio::time::timeout(self.idle, self.sender.reserve()) => match reserved {
                Ok(Ok(place)) => {
                    place.send(Ok(message));
                    return Ok(());
                }
                Ok(Err(_)) => return Err(Gone),
                Err(_) => Refusal::ReaderStalled { idle: self.idle, seen },
            },
        };
        self.refuse(refusal)
    }

    /// Tells the reader why, if there is room for that; it may be too late for the word to arrive.
    fn refuse(&mut self, refusal: Refusal) -> Result<(), Gone> {
        if matches!(refusal, Refusal::ReaderStalled { .. } | Refusal::ReaderSlow { .. }) {
            tracing::warn!("a reader of a table was cut off: {refusal}");
        }
        if let Some(place) = self.last.take() {
            place.send(Err(refusal.into()));
        }
        Err(Gone)
    }

    fn check_time(&mut self) -> Result<(), Gone> {
        match self.began.elapsed() > self.read_max {
            true => self.refuse(Refusal::ReaderSlow { limit: self.read_max }),
            false => Ok(()),
        }
    }
}

impl Sending<v1::ScanResponse> {
    async fn scan(mut self, scan: Scan) {
        // Whoever is gone needs no answer.
        let _ = self.all(scan).await;
    }

    async fn all(&mut self, mut scan: Scan) -> Result<(), Gone> {
        let epoch = scan.epoch();
        let mut head = columns(scan.columns());
        loop {
            let stepped = blocking(scan, step).await.map_err(|refusal| self.told(refusal))?;
            scan = stepped.0;
            let (rows, ended) = stepped.1.map_err(|error| self.told(error.into()))?;
            let message = v1::ScanResponse {
                epoch,
                columns: std::mem::take(&mut head),
                rows: rows.into_iter().map(row).collect(),
                next: scan.last().filter(|_| ended).map(|row| row.to_vec()).unwrap_or_default(),
            };
            if !message.columns.is_empty() || !message.rows.is_empty() || !message.next.is_empty() {
                self.send(message, epoch).await?;
            } else if self.sender.is_closed() {
                return Err(Gone);
            }
            if ended {
                return Ok(());
            }
            self.check_time()?;
        }
    }
}

impl<T> Sending<T> {
    fn told(&mut self, refusal: Refusal) -> Gone {
        let _ = self.refuse(refusal);
        Gone
    }
}

impl Sending<v1::SubscribeResponse> {
    async fn follow(mut self, follow: Follow, changed: watch::Receiver<()>, seen: Option<u64>) {
        // Whoever is gone needs no answer.
        let _ = self.tell_all(follow, changed, seen.unwrap_or_default()).await;
    }

    async fn tell_all(
        &mut self,
        mut follow: Follow,
        mut changed: watch::Receiver<()>,
        mut seen: u64,
    ) -> Result<(), Gone> {
        let mut head = columns(follow.columns());
        loop {
            // What comes from here on is heard of, even while we look.
            changed.mark_unchanged();
            let asked = blocking(follow, Follow::more).await;
            let (back, told) = asked.map_err(|refusal| self.told(refusal))?;
            follow = back;
            let Some(told) = told.map_err(|error| self.told(error.into()))? else {
                if !head.is_empty() {
                    let columns = std::mem::take(&mut head);
                    let nothing =
                        v1::SubscribeResponse { epoch: seen, columns, ..Default::default() };
                    self.send(nothing, seen).await?;
                }
                tokio::select! {
                    biased;
                    () = self.closing.closed() => return self.refuse(self.closing.refusal()),
                    () = self.sender.closed() => return Err(Gone),
                    // An error means that the engine is gone.
                    rang = changed.changed() => if rang.is_err() {
                        return self.refuse(self.closing.refusal());
                    },
                }
                continue;
            };
            let Told { epoch, snapshot, rows, complete } = told;
            if rows.is_empty() && !complete && head.is_empty() {
                continue;
            }
            let message = v1::SubscribeResponse {
                epoch,
                columns: std::mem::take(&mut head),
                snapshot,
                rows: rows.into_iter().map(row).collect(),
                complete,
            };
            self.send(message, seen).await?;
            if complete {
                seen = epoch;
            } else if snapshot {
                self.check_time()?;
            }
        }
    }
}

/// Does one step of reading on a thread that may block.
async fn blocking<S, T>(
    mut reader: S,
    step: impl FnOnce(&mut S) -> T + Send + 'static,
) -> Result<(S, T), Refusal>
where
    S: Send + 'static,
    T: Send + 'static,
{
    let stepped = tokio::task::spawn_blocking(move || {
        let stepped = step(&mut reader);
        (reader, stepped)
    });
    stepped.await.map_err(|error| {
        tracing::error!(%error, "reading a table failed");
        Refusal::Internal
    })
}

/// Looks for some rows, for a moment; returns them, and whether these were the last.
fn step(scan: &mut Scan) -> Result<(Vec<TableRow>, bool), TableError> {
    let began = Instant::now();
    loop {
        match scan.more()? {
            None => return Ok((Vec::new(), true)),
            Some(rows) if !rows.is_empty() || began.elapsed() > STEP => return Ok((rows, false)),
            Some(_) => {}
        }
    }
}
