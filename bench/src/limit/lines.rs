//! Reading a file in chunks that end at a line's end.
//!
//! It owns the one buffer of a thread. After the lines of a chunk there are always [`SLACK`] spare
//! bytes, so that a scan may look 16 bytes ahead at every position without asking.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Bytes read at a time: chunks that fit the cache win.
const CHUNK_BYTES: usize = 512 << 10;
/// Readable bytes behind the last line.
pub(super) const SLACK: usize = 16;
/// A longer line is refused; nothing is longer in the data sets.
const LINE_BYTES_MAX: usize = 64 << 20;

/// Some whole lines, and [`SLACK`] bytes behind them.
#[derive(Clone, Copy)]
pub(super) struct Chunk<'a> {
    bytes: &'a [u8],
}

impl<'a> Chunk<'a> {
    /// The lines; each ends with a newline.
    pub(super) fn lines(self) -> &'a [u8] {
        &self.bytes[..self.bytes.len() - SLACK]
    }

    /// The lines and the slack.
    pub(super) fn with_slack(self) -> &'a [u8] {
        self.bytes
    }
}

/// Reads files one after the other through one buffer.
#[derive(Default)]
pub(super) struct LineReader {
    buffer: Vec<u8>,
}

impl LineReader {
    /// Calls `each` with the chunks of a file in order. A missing last newline is added.
    pub(super) fn for_each_chunk(
        &mut self,
        path: &Path,
        mut each: impl FnMut(Chunk<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut file = File::open(path).context("open")?;
        if self.buffer.is_empty() {
            self.buffer.resize(CHUNK_BYTES + SLACK, 0);
        }
        let mut filled = 0;
        loop {
            if filled + SLACK + 1 >= self.buffer.len() {
                self.grow()?;
            }
            let room = self.buffer.len() - SLACK - 1;
            let read = file.read(&mut self.buffer[filled..room]).context("read")?;
            let searched = filled;
            filled += read;
            if read == 0 && filled > 0 {
                self.buffer[filled] = b'\n';
                return each(Chunk { bytes: &self.buffer[..filled + 1 + SLACK] });
            }
            if read == 0 {
                return Ok(());
            }
            if let Some(last) = memchr::memrchr(b'\n', &self.buffer[searched..filled]) {
                let end = searched + last + 1;
                each(Chunk { bytes: &self.buffer[..end + SLACK] })?;
                self.buffer.copy_within(end..filled, 0);
                filled -= end;
            }
        }
    }

    fn grow(&mut self) -> Result<()> {
        if self.buffer.len() > LINE_BYTES_MAX {
            bail!("a line is longer than {LINE_BYTES_MAX} bytes");
        }
        self.buffer.resize(self.buffer.len() * 2, 0);
        Ok(())
    }
}
