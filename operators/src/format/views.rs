//! Views: text arrays over the bytes of a chunk that the parsers have already proved.
//!
//! Arrow's own constructor validates all text a second time, which is some 5 % of the work of
//! reading a file. This is the one place that leaves that out, and only in optimised builds: in
//! debug builds, and so in all tests, the text is proved again.

use std::sync::Arc;

use arrow_array::StringViewArray;
use arrow_buffer::{Buffer, NullBuffer, ScalarBuffer};

/// Bytes up to which a view holds its text itself.
const INLINE_BYTES_MAX: u32 = 12;

/// Returns the array of these text views.
///
/// # Panics
/// If a view does not lie in its block.
pub(super) fn strings(
    views: Vec<u128>,
    blocks: &Arc<[Buffer]>,
    nulls: Option<NullBuffer>,
) -> StringViewArray {
    let views = ScalarBuffer::from(views);
    if cfg!(debug_assertions) {
        return StringViewArray::try_new(views, Arc::clone(blocks), nulls)
            .expect("a parser found this text valid");
    }
    assert!(views.iter().all(|view| lies_in(*view, blocks)), "a view lies in its block");
    assert!(nulls.as_ref().is_none_or(|nulls| nulls.len() == views.len()), "one flag a view");
    #[allow(unsafe_code, reason = "a second proof of the same text costs 5 % of the throughput")]
    // SAFETY: each view lies in its block or is inlined, as was just checked. Its bytes are valid
    // UTF-8: the parser that pushed it had validated the record (or seen that it is ASCII) and cuts
    // text only at ASCII bytes. Debug builds prove that again, and all tests run in those.
    unsafe {
        StringViewArray::new_unchecked(views, Arc::clone(blocks), nulls)
    }
}

fn lies_in(view: u128, blocks: &[Buffer]) -> bool {
    let len = view as u32;
    let (block, start) = ((view >> 64) as u32, (view >> 96) as u32);
    len <= INLINE_BYTES_MAX
        || blocks
            .get(block as usize)
            .is_some_and(|block| u64::from(start) + u64::from(len) <= block.len() as u64)
}
