//! Window: what a `window` says, as written. Derived.

use std::time::Duration;

use tidemill_operators::window::{WINDOWS_MAX, Windows};

use crate::diagnostic::{Mistakes, Place};
use crate::spec::operator::{BodySpec, NamedSpec, named};
use crate::spec::read::{self, Entries};
use crate::spec::tree::Node;

/// The shortest and the longest window.
const BOUNDS: (Duration, Duration) =
    (Duration::from_millis(1), Duration::from_secs(10 * 366 * 86_400));

/// Reads the body of a `window`.
pub(super) fn read(node: Node, mistakes: &mut Mistakes<'_>) -> Option<BodySpec> {
    let mut entries = Entries::open(node, "`window`", mistakes)?;
    let on = entries.require("on", mistakes);
    let tumbling = entries.take("tumbling");
    let hopping = entries.take("hopping");
    let session = entries.take("session");
    let lengths = [&tumbling, &hopping, &session];
    let written: Vec<_> = lengths.into_iter().flatten().collect();
    if written.is_empty() && entries.rest().next().is_none() {
        let hint = "for example `tumbling: 5m`, or `hopping: { size: 10m, every: 5m }`";
        entries.wrong(mistakes, "a window needs a length".to_owned(), Some(hint.to_owned()));
    }
    if let [_, second, ..] = written.as_slice() {
        let message = "a window is one of `tumbling`, `hopping` and `session`";
        mistakes.add(second.owner, &second.path, message, None);
        entries.finish(mistakes);
        return None;
    }
    entries.finish(mistakes);
    if let Some(session) = session {
        let session = read_session(session, mistakes);
        let on = on.and_then(|node| read::text(node, "`on`", mistakes));
        let (gap_us, by) = session?;
        return Some(BodySpec::Session { on: on?, gap_us, by });
    }
    let windows = match (tumbling, hopping) {
        (Some(node), _) => {
            let size_us = micros(node, "`tumbling`", mistakes);
            size_us.map(|size_us| Windows { size_us, every_us: size_us })
        }
        (None, Some(node)) => hopping_windows(node, mistakes),
        (None, None) => None,
    };
    let on = on.and_then(|node| read::text(node, "`on`", mistakes));
    Some(BodySpec::Window { on: on?, windows: windows? })
}

/// Reads how long a silence ends a session, and whose silence it is.
fn read_session(node: Node, mistakes: &mut Mistakes<'_>) -> Option<(i64, Vec<NamedSpec>)> {
    let mut entries = Entries::open(node, "`session`", mistakes)?;
    let gap = entries.require("gap", mistakes);
    let by = entries.require("by", mistakes);
    entries.finish(mistakes);
    let gap = gap.and_then(|node| micros(node, "`gap`", mistakes));
    let by = by.and_then(|node| named(node, "`by`", mistakes));
    Some((gap?, by?))
}

fn hopping_windows(node: Node, mistakes: &mut Mistakes<'_>) -> Option<Windows> {
    let (owner, path): (Place, String) = (node.owner, node.path.clone());
    let mut entries = Entries::open(node, "`hopping`", mistakes)?;
    let size = entries.require("size", mistakes);
    let every = entries.require("every", mistakes);
    entries.finish(mistakes);
    let size = size.and_then(|node| micros(node, "`size`", mistakes));
    let every = every.and_then(|node| micros(node, "`every`", mistakes));
    let windows = Windows { size_us: size?, every_us: every? };
    if windows.every_us > windows.size_us {
        let message = "between windows of this size there would be gaps";
        let hint = "`every` is not longer than `size`; drop records with a `filter`".to_owned();
        mistakes.add(owner, &path, message, hint);
        return None;
    }
    if (windows.size_us - 1) / windows.every_us >= WINDOWS_MAX {
        let message = format!("a record would lie in more than {WINDOWS_MAX} windows");
        mistakes.add(owner, &path, message, Some("make `every` longer".to_owned()));
        return None;
    }
    Some(windows)
}

/// Reads a duration as microseconds.
pub(super) fn micros(node: Node, what: &str, mistakes: &mut Mistakes<'_>) -> Option<i64> {
    let duration = read::duration(node, what, BOUNDS, mistakes)?;
    i64::try_from(duration.as_micros()).ok()
}
