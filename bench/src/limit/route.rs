//! J1: whole lines by a substring, without looking at the lines that have none.
//!
//! Two searches run side by side over a chunk. Between two hits all lines are `ok`, so they go out as
//! one run and are never split.

use memchr::memmem::Finder;

use super::outputs::{Class, ClassFiles};

/// The two substrings, prepared.
pub(super) struct Needles {
    server_error: Finder<'static>,
    client_error: Finder<'static>,
}

impl Default for Needles {
    fn default() -> Self {
        Self {
            server_error: Finder::new(b"\"status\":5"),
            client_error: Finder::new(b"\"status\":4"),
        }
    }
}

/// Sends the lines of a chunk to their classes; the first class that matches a line has it.
pub(super) fn route(needles: &Needles, lines: &[u8], files: &mut ClassFiles) {
    let find = |finder: &Finder<'_>, from: usize| {
        finder.find(&lines[from..]).map_or(lines.len(), |at| from + at)
    };
    let mut done = 0;
    let mut server_error = find(&needles.server_error, 0);
    let mut client_error = find(&needles.client_error, 0);
    while done < lines.len() {
        let hit = server_error.min(client_error);
        let start = memchr::memrchr(b'\n', &lines[done..hit]).map_or(done, |at| done + at + 1);
        if hit == lines.len() {
            files.push(Class::Ok, &lines[done..]);
            return;
        }
        let end = memchr::memchr(b'\n', &lines[hit..]).map_or(lines.len(), |at| hit + at + 1);
        files.push(Class::Ok, &lines[done..start]);
        let class = if server_error < end { Class::ServerError } else { Class::ClientError };
        files.push(class, &lines[start..end]);
        done = end;
        if server_error < end {
            server_error = find(&needles.server_error, end);
        }
        if client_error < end {
            client_error = find(&needles.client_error, end);
        }
    }
}
