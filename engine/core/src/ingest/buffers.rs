//! Buffers: the memory that chunks are read into, used again once no batch points into it.
//!
//! One pool per worker. The number of buffers in use is bounded by the coordinator's window, the
//! number kept for reuse by a constant. Each begins at a cache line.

use std::sync::{Arc, Mutex, PoisonError};

use arrow_buffer::{Buffer, MutableBuffer};
use bytes::Bytes;

/// How many unused buffers a pool keeps: as many as the window may let be in use at once. Memory that
/// was given back would have to be cleared again.
const KEPT_MAX: usize = 96;

/// The largest buffer that is kept, in bytes; a longer one served an exceptional record.
const KEPT_BYTES_MAX: usize = 4 << 20;

/// A pool of byte buffers.
#[derive(Clone, Default)]
pub struct Buffers {
    free: Arc<Mutex<Vec<MutableBuffer>>>,
}

impl Buffers {
    /// Returns a buffer of exactly `len` initialised bytes, whose content is arbitrary. There is room for
    /// `more` behind them: memory that grows is copied, and cleared by the system once more.
    pub fn take(&self, len: usize, more: usize) -> MutableBuffer {
        let mut buffer = self.lock().pop().unwrap_or_default();
        if buffer.capacity() < len + more {
            buffer = MutableBuffer::from_len_zeroed(len + more);
        }
        // Only bytes that were never used before are cleared.
        buffer.resize(len.max(buffer.len()), 0);
        buffer.truncate(len);
        buffer
    }

    /// Turns a filled buffer into shared memory that comes back to the pool with its last user.
    pub fn share(&self, bytes: MutableBuffer) -> Buffer {
        let owner = Returning { bytes, pool: self.clone() };
        Buffer::from(Bytes::from_owner(owner))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<MutableBuffer>> {
        // A push or pop cannot leave the list half changed.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Returning {
    bytes: MutableBuffer,
    pool: Buffers,
}

impl AsRef<[u8]> for Returning {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Returning {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut free = self.pool.lock();
        if free.len() < KEPT_MAX && bytes.capacity() <= KEPT_BYTES_MAX {
            free.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_with_its_last_user() {
        let pool = Buffers::default();
        let mut bytes = pool.take(8, 0);
        bytes.copy_from_slice(b"12345678");
        let shared = pool.share(bytes);
        let slice = shared.slice_with_length(2, 3);
        drop(shared);
        assert_eq!(slice.as_slice(), b"345");
        assert!(pool.lock().is_empty());
        drop(slice);
        assert_eq!(pool.lock().len(), 1);
    }

    #[test]
    fn a_buffer_begins_at_a_cache_line() {
        let pool = Buffers::default();
        for len in [1, 4_096, 524_289, 1 << 20] {
            let bytes = pool.take(len, 100);
            assert_eq!((bytes.len(), bytes.as_ptr().align_offset(64)), (len, 0));
            assert!(bytes.capacity() >= len + 100);
        }
    }
}
