//! Piece: the bytes of whole records, out of a range of a file or out of a stream.
//!
//! A range owns the records that *begin* in it: it looks for the first line end before its start
//! and reads on behind its end until its last record is whole. So any cut of a file into ranges
//! gives each record to exactly one of them.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use arrow_buffer::{Buffer, MutableBuffer};
use memchr::{memchr, memchr_iter, memrchr};
use tidemill_operators::format::{self, Header, HeaderEnd, ReadPlan};
use tidemill_operators::reject::REJECT_RAW_BYTES_MAX;
use tidemill_operators::{OnError, Reject, RejectCode};
use tidemill_store::{Frame, Identity};

use crate::code::FileCode;
use crate::contract::{Framed, shortened};
use crate::ingest::buffers::Buffers;
use crate::ingest::coordinator::PIECE_BYTES;
use crate::ingest::digest::{ChunkHash, hash_piece};
use crate::ingest::frame::{self, Edge, FRAME_BYTES_MAX};
use crate::ingest::inflate::{Compression, InflateError, Inflater};
use crate::ingest::order::FileOrder;
use crate::retry::Class;

/// How much is read at a time when a record goes on behind the end of its range, in bytes.
const TAIL_BYTES: usize = 32 << 10;

/// How much is read in front of a range, in bytes. One would do to see whether a record begins at its
/// start; but the kernel copies at half the speed into memory that lies a few bytes further into its
/// page than what it copies, so a range keeps its place in the cache line.
const LEAD_BYTES: u64 = 64;

/// Why a file as a whole cannot be processed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct FileFailure {
    /// Which word says so.
    pub code: FileCode,
    /// What happened, for a person.
    pub detail: String,
    /// Whether it may pass.
    pub class: Class,
}

impl FileFailure {
    fn new(code: FileCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), class: Class::Permanent }
    }

    fn read(path: &Path, error: &io::Error) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let class = Class::of_read(error);
        Self { class, ..Self::new(FileCode::Unreadable, format!("read {name}: {error}")) }
    }

    /// The file is not where it must be: on a shared disk it may come back.
    fn gone(detail: &str) -> Self {
        Self { class: Class::Transient, ..Self::changed(detail) }
    }

    fn changed(detail: impl Into<String>) -> Self {
        Self::new(FileCode::Changed, detail)
    }
}

impl From<InflateError> for FileFailure {
    fn from(error: InflateError) -> Self {
        let code = match &error {
            InflateError::Bomb { .. } => FileCode::Bomb,
            InflateError::Damaged { .. } => FileCode::BadFormat,
            InflateError::Disk(_) => FileCode::Unreadable,
        };
        let class = match &error {
            InflateError::Disk(error) => Class::of_read(error),
            InflateError::Bomb { .. } | InflateError::Damaged { .. } => Class::Permanent,
        };
        Self { class, ..Self::new(code, error.to_string()) }
    }
}

/// Whole records in memory.
pub struct Chunk {
    /// The bytes; views of the batch will point into it.
    pub buffer: Buffer,
    /// Where in the buffer the whole records are.
    pub range: Range<usize>,
    /// The offset of `range.start` in the (inflated) file.
    pub offset: u64,
    /// Lines before the first record that hold no record.
    pub skipped_lines: u32,
    /// A record behind the range that is too long to be held; its line is not filled in.
    pub too_long: Option<Reject>,
    /// Bytes of the file, as it came, that were read for this chunk.
    pub packed_bytes: u64,
    /// What is known of the file's hash by them.
    pub hash: ChunkHash,
}

/// What stands before the first record of a file.
#[derive(Clone, Debug, Default)]
pub struct Preamble {
    /// Its length in bytes: a byte order mark, lines that are no records, a header.
    pub bytes: u64,
    /// Its length in lines.
    pub lines: u32,
    /// The header, if the format has one.
    pub header: Option<Header>,
    /// Where the records end, if lines stand behind them.
    pub records_end: Option<u64>,
    /// The lines that are no records.
    pub framed: Vec<Framed>,
}

/// Reads what stands before the first record, and finds what stands behind the last.
pub fn preamble(order: &FileOrder, plan: &ReadPlan, frame: Frame) -> Result<Preamble, FileFailure> {
    let file = open_checked(order)?;
    let (end, tail) = match frame.tail {
        0 => (order.identity.bytes, None),
        lines => find_tail(&file, order, lines)?,
    };
    let mut start = vec![0; end.min(64 << 10) as usize];
    loop {
        read_exactly(&file, &mut start, 0, order)?;
        let whole = start.len() as u64 == end;
        match find_preamble(&start, plan, whole, frame.head)? {
            Some(mut preamble) => {
                preamble.records_end = tail.is_some().then_some(end);
                preamble.framed.extend(tail);
                return Ok(preamble);
            }
            // The header is longer than what was read: twice as much, up to the record limit.
            None => {
                let longer = (start.len() as u64 * 2).min(end);
                start.resize(longer as usize, 0);
            }
        }
    }
}

/// Returns where the last lines of a file begin, and what they are.
fn find_tail(
    file: &File,
    order: &FileOrder,
    lines: u32,
) -> Result<(u64, Option<Framed>), FileFailure> {
    let size = order.identity.bytes;
    let longest = size.min(FRAME_BYTES_MAX as u64);
    let mut len = size.min(16 << 10);
    loop {
        let mut last = vec![0; len as usize];
        read_exactly(file, &mut last, size - len, order)?;
        let why = match frame::tail_start(&last, lines, len == size) {
            Edge::At(start) => {
                let framed = frame::framed(false, &last[start..]);
                return Ok((size - len + start as u64, Some(framed)));
            }
            Edge::More if len < longest => {
                len = (len * 8).min(longest);
                continue;
            }
            Edge::More => frame::too_long(),
            Edge::Missing(why) => why,
        };
        // Whatever it is, the file does not count; all of it is read as records.
        return Ok((size, Some(frame::missing(false, why))));
    }
}

/// Returns the preamble, or nothing if more bytes are needed to tell.
fn find_preamble(
    start: &[u8],
    plan: &ReadPlan,
    whole: bool,
    head_lines: u32,
) -> Result<Option<Preamble>, FileFailure> {
    let mark = if start.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    let mut before = Preamble { bytes: mark as u64, ..Preamble::default() };
    match frame::head_end(&start[mark..], head_lines, whole) {
        Edge::At(0) if head_lines == 0 => {}
        Edge::At(end) => {
            before.framed.push(frame::framed(true, &start[mark..mark + end]));
            before.bytes += end as u64;
            before.lines = head_lines;
        }
        Edge::More => return Ok(None),
        Edge::Missing(why) => before.framed.push(frame::missing(true, why)),
    }
    let mark = before.bytes as usize;
    let text = &start[mark..];
    let end = match format::header_end(plan, text) {
        HeaderEnd::None => return Ok(Some(before)),
        HeaderEnd::At(end) => end,
        HeaderEnd::Incomplete if whole && text.len() <= plan.record_bytes_max => text.len(),
        HeaderEnd::Incomplete if text.len() > plan.record_bytes_max => {
            let limit = plan.record_bytes_max;
            return Err(FileFailure::new(
                FileCode::BadFormat,
                format!("header longer than {limit} bytes"),
            ));
        }
        HeaderEnd::Incomplete => return Ok(None),
    };
    if end == 0 {
        // An empty file has no header, and needs none.
        return Ok(Some(before));
    }
    let line = before.lines + 1;
    let header = Header::parse(plan, &text[..end]).map_err(|error| {
        // Where a line of the contract is missing, the next ones are taken for what they are not.
        let head = before.framed.first().and_then(|framed| framed.text.as_ref().ok());
        let head = head.map(|head| format!("; before it stands {:?}", shortened(head)));
        let detail = format!("line {line}: {error}{}", head.unwrap_or_default());
        FileFailure::new(FileCode::BadFormat, detail)
    })?;
    let lines = before.lines + memchr_iter(b'\n', &text[..end]).count().max(1) as u32;
    Ok(Some(Preamble { bytes: (mark + end) as u64, lines, header: Some(header), ..before }))
}

/// Reads the records that begin in `[start, end)`. Without a `known` preamble it is taken from the
/// range itself, which is right for the first range and for formats without a header.
pub fn read_range(
    order: &FileOrder,
    start: u64,
    end: u64,
    plan: &ReadPlan,
    known: Option<Preamble>,
    buffers: &Buffers,
) -> Result<(Chunk, Preamble), FileFailure> {
    let file = open_checked(order)?;
    let size = order.identity.bytes;
    let from = start.saturating_sub(LEAD_BYTES);
    let more = if end < size { TAIL_BYTES } else { 0 };
    let mut bytes = buffers.take((end - from) as usize, more);
    read_exactly(&file, &mut bytes, from, order)?;
    unchanged(&file, order)?;
    if start == 0 {
        is_as_ordered(order, &bytes)?;
    }
    // While they are in the cache, and before more is read behind them.
    let hash = hash_piece(&bytes[(start - from) as usize..], start, size);
    let preamble = match known {
        Some(preamble) => preamble,
        None if start > 0 => Preamble::default(),
        None => match find_preamble(&bytes, plan, end == size, 0)? {
            Some(preamble) => preamble,
            None => self::preamble(order, plan, Frame::default())?,
        },
    };
    // What stands behind the records is read for the hash alone.
    let records_end = preamble.records_end.unwrap_or(size);
    bytes.truncate((records_end.max(from) - from).min(bytes.len() as u64) as usize);
    let first = if start > 0 && start >= records_end {
        bytes.len()
    } else if start <= preamble.bytes {
        // The first range with records in it begins right behind the preamble.
        (preamble.bytes - from).min(bytes.len() as u64) as usize
    } else {
        // The byte in front of the range shows whether a record begins at its start.
        let before = (start - from).saturating_sub(1) as usize;
        let found = format::record_start(&plan.format, &bytes[before..]);
        found.map_or(bytes.len(), |at| before + at)
    };
    let skipped_lines = if start == 0 { preamble.lines } else { 0 };
    let mut chunk = Chunk {
        buffer: Buffer::default(),
        range: 0..0,
        offset: from + first as u64,
        skipped_lines,
        too_long: None,
        packed_bytes: end - start,
        hash,
    };
    if first >= bytes.len() {
        return Ok((chunk, preamble));
    }
    let whole = bytes.ends_with(b"\n") || end >= records_end;
    let last = if whole {
        bytes.len()
    } else {
        complete_last_record(&file, order, &mut bytes, first, end, plan, &mut chunk.too_long)?
    };
    bytes.truncate(last);
    chunk.range = first.min(last)..last;
    chunk.buffer = buffers.share(bytes);
    Ok((chunk, preamble))
}

/// Reads on until the last record is whole. Returns where the whole records end: before it, if it
/// is longer than a record may be.
fn complete_last_record(
    file: &File,
    order: &FileOrder,
    bytes: &mut MutableBuffer,
    first: usize,
    end: u64,
    plan: &ReadPlan,
    too_long: &mut Option<Reject>,
) -> Result<usize, FileFailure> {
    let size = order.identity.bytes;
    let begin = memrchr(b'\n', &bytes[first..]).map_or(first, |at| first + at + 1);
    let mut at = end;
    while at < size {
        let old = bytes.len();
        let more = TAIL_BYTES.min((size - at) as usize);
        bytes.resize(old + more, 0);
        read_exactly(file, &mut bytes[old..], at, order)?;
        at += more as u64;
        if let Some(found) = memchr(b'\n', &bytes[old..]) {
            unchanged(file, order)?;
            return Ok(old + found + 1);
        }
        if bytes.len() - begin > plan.record_bytes_max {
            *too_long = Some(over_long(&bytes[begin..], (begin - first) as u32, plan));
            return Ok(begin);
        }
    }
    unchanged(file, order)?;
    Ok(bytes.len())
}

/// Checks that a file is not packed that was not seen to be: whoever ordered it could not read it.
fn is_as_ordered(order: &FileOrder, bytes: &[u8]) -> Result<(), FileFailure> {
    let found = Compression::of(bytes);
    if order.compression != Compression::None || found == Compression::None {
        return Ok(());
    }
    let detail = format!("its first bytes could not be read before; it is {}", found.word());
    Err(FileFailure { class: Class::Transient, ..FileFailure::new(FileCode::Unreadable, detail) })
}

fn over_long(start: &[u8], offset: u32, plan: &ReadPlan) -> Reject {
    Reject {
        line: 0,
        offset,
        round: 0,
        operator: String::new(),
        code: RejectCode::TooLong,
        message: format!("record longer than {} bytes (max_record)", plan.record_bytes_max),
        raw: start[..start.len().min(REJECT_RAW_BYTES_MAX)].to_vec(),
        on_error: OnError::Reject,
    }
}

/// Opens a file and checks that it is the one that was accepted.
fn open_checked(order: &FileOrder) -> Result<File, FileFailure> {
    let mut opened = File::open(&order.path);
    // It may be moved on between two looks, but never back.
    for other in &order.or_at {
        match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => opened = File::open(other),
            _ => break,
        }
    }
    let file = opened.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound if order.is_taken_back() => FileFailure::changed("it is gone"),
        io::ErrorKind::NotFound => FileFailure::gone("it is gone from underprocess/"),
        _ => FileFailure::read(&order.path, &error),
    })?;
    unchanged(&file, order)?;
    Ok(file)
}

/// Checks that nobody has written to the file since it was accepted.
fn unchanged(file: &File, order: &FileOrder) -> Result<(), FileFailure> {
    let now = Identity::of(file).map_err(|error| FileFailure::read(&order.path, &error))?;
    // The number of a device can change when the machine starts again.
    if now == (Identity { device: now.device, ..order.identity }) {
        return Ok(());
    }
    let detail = if now.bytes != order.identity.bytes {
        format!(
            "it was written to while it was read: {} bytes when accepted, {} now",
            order.identity.bytes, now.bytes
        )
    } else {
        "it was written to, or replaced, while it was read".to_owned()
    };
    Err(FileFailure::changed(detail))
}

fn read_exactly(
    file: &File,
    target: &mut [u8],
    at: u64,
    order: &FileOrder,
) -> Result<(), FileFailure> {
    file.read_exact_at(target, at).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => FileFailure::changed("it became shorter while it was read"),
        _ => FileFailure::read(&order.path, &error),
    })
}

/// Reads a file that cannot be cut, chunk after chunk.
pub struct StreamReader {
    inflater: Inflater,
    check: File,
    order: FileOrder,
    /// Bytes of the record that the last chunk ended in.
    carry: Vec<u8>,
    /// The offset of `carry` in the inflated file.
    offset: u64,
    preamble: Option<Preamble>,
    /// The rest of a record that was too long is being passed over.
    passing_over: bool,
    frame: Frame,
    /// Lines that are no records, and were not told yet.
    framed: Vec<Framed>,
    ended: bool,
    packed_before: u64,
}

impl StreamReader {
    /// Opens the file and checks that it is the one that was accepted.
    pub fn open(
        order: &FileOrder,
        inflate_ratio_max: u32,
        frame: Frame,
    ) -> Result<Self, FileFailure> {
        let file = open_checked(order)?;
        let failed = |error: io::Error| FileFailure::read(&order.path, &error);
        let check = file.try_clone().map_err(failed)?;
        // What was committed once stays so, also when the limit was lowered since.
        let again = order.replay || order.is_taken_back();
        let ratio_max = if again { u32::MAX } else { inflate_ratio_max };
        Ok(Self {
            inflater: Inflater::open(file, order.compression, ratio_max).map_err(failed)?,
            check,
            order: order.clone(),
            carry: Vec::new(),
            offset: 0,
            preamble: None,
            passing_over: false,
            frame,
            framed: Vec::new(),
            ended: false,
            packed_before: 0,
        })
    }

    /// Returns the header, once the first chunk has been read.
    pub fn header(&self) -> Option<&Header> {
        self.preamble.as_ref()?.header.as_ref()
    }

    /// Returns the lines that are no records and were found since.
    pub fn take_framed(&mut self) -> Vec<Framed> {
        std::mem::take(&mut self.framed)
    }

    /// Takes what may be the lines behind the records out of `bytes`, to be looked at again with what
    /// follows; at the end, what they are.
    fn hold_back(&mut self, bytes: &mut MutableBuffer) -> Vec<u8> {
        let lines = self.frame.tail;
        if lines == 0 {
            return Vec::new();
        }
        if !self.ended {
            let passing = frame::may_pass(bytes, lines);
            let held = bytes[passing..].to_vec();
            bytes.truncate(passing);
            return held;
        }
        // What was handed on ended with a line.
        match frame::tail_start(bytes, lines, true) {
            Edge::At(start) => {
                self.framed.push(frame::framed(false, &bytes[start..]));
                bytes.truncate(start);
            }
            Edge::More | Edge::Missing(_) if self.offset > 0 => {
                self.framed.push(frame::missing(false, frame::too_long()));
            }
            Edge::More => self.framed.push(frame::missing(false, frame::too_long())),
            Edge::Missing(why) => self.framed.push(frame::missing(false, why)),
        }
        Vec::new()
    }

    /// Returns the next chunk, or nothing at the end. A chunk may hold no record.
    pub fn next_chunk(
        &mut self,
        plan: &ReadPlan,
        buffers: &Buffers,
    ) -> Result<Option<Chunk>, FileFailure> {
        if self.ended {
            return Ok(None);
        }
        let kept = self.carry.len();
        let mut bytes = buffers.take(kept + PIECE_BYTES as usize, 0);
        bytes[..kept].copy_from_slice(&self.carry);
        let filled = kept + self.inflater.fill(&mut bytes[kept..])?;
        self.ended = filled < bytes.len();
        bytes.truncate(filled);
        let mut hash = ChunkHash::Later;
        if self.ended {
            hash = ChunkHash::Whole(self.inflater.finish()?);
            unchanged(&self.check, &self.order)?;
            if self.inflater.packed() != self.order.identity.bytes {
                return Err(FileFailure::changed("its length changed while it was read"));
            }
        }
        let packed = self.inflater.packed();
        let mut chunk = Chunk {
            buffer: Buffer::default(),
            range: 0..0,
            offset: self.offset,
            skipped_lines: 0,
            too_long: None,
            packed_bytes: packed - self.packed_before,
            hash,
        };
        self.packed_before = packed;
        let held = self.hold_back(&mut bytes);

        let mut first = 0;
        if self.preamble.is_none() {
            if self.offset == 0 {
                is_as_ordered(&self.order, &bytes)?;
            }
            self.refuse_nesting(&bytes)?;
            match find_preamble(&bytes, plan, self.ended, self.frame.head)? {
                Some(mut preamble) => {
                    self.framed.append(&mut preamble.framed);
                    first = preamble.bytes as usize;
                    chunk.skipped_lines = preamble.lines;
                    self.preamble = Some(preamble);
                }
                None => {
                    self.carry = bytes.to_vec();
                    self.carry.extend(held);
                    return Ok(Some(chunk));
                }
            }
        }
        if self.passing_over {
            match memchr(b'\n', &bytes[first..]) {
                Some(found) => {
                    first += found + 1;
                    self.passing_over = false;
                }
                None => first = bytes.len(),
            }
        }
        chunk.offset = self.offset + first as u64;
        let mut last = format::last_record_end(&plan.format, &bytes[first..], self.ended)
            .map_or(first, |end| first + end);
        if self.ended {
            last = bytes.len();
        }
        if bytes.len() - last > plan.record_bytes_max {
            chunk.too_long = Some(over_long(&bytes[last..], (last - first) as u32, plan));
            // The record is passed over up to its next line end; the search begins in what is
            // already here.
            self.passing_over = true;
            match memchr(b'\n', &bytes[last..]) {
                Some(found) if found > plan.record_bytes_max => {
                    self.carry = bytes[last + found..].to_vec();
                    self.offset += (last + found) as u64;
                }
                _ => {
                    self.offset += bytes.len() as u64;
                    self.carry.clear();
                }
            }
        } else {
            self.offset += last as u64;
            self.carry.clear();
            self.carry.extend_from_slice(&bytes[last..]);
        }
        self.carry.extend(held);
        bytes.truncate(last);
        chunk.range = first.min(last)..last;
        chunk.buffer = buffers.share(bytes);
        Ok(Some(chunk))
    }

    fn refuse_nesting(&self, bytes: &[u8]) -> Result<(), FileFailure> {
        let inner = Compression::of(bytes);
        if self.order.compression == Compression::None || inner == Compression::None {
            return Ok(());
        }
        let (outer, inner) = (self.order.compression.word(), inner.word());
        Err(FileFailure::new(
            FileCode::PackedTwice,
            format!("{inner} inside {outer}: unpack it once first"),
        ))
    }
}
