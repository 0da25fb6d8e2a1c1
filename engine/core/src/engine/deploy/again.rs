//! Again: whether what a deployment makes anew can be made of the files that were committed before it.
//!
//! Looks at plans and at the beginnings of files; changes nothing. What it lets pass by mistake ends the next
//! life, so it is asked before the boundary is drawn, and once more of the files that came meanwhile.

use tidemill_store::Folders;

use crate::deploy::{Fate, PartFate};
use crate::plan::{Plan, SinkPlan};
use crate::sink::changes;
use crate::start::earlier::Inputs;
use crate::start::readable::unreadable;

/// Returns why a plan cannot take over, if files are read again for it that it would read in another way than
/// they were meant, or tables whose changelog would not add up to them any more.
pub(super) fn refusal(
    old: Option<&Plan>,
    new: &Plan,
    parts: &[PartFate],
    read: &Inputs,
    folders: &Folders,
) -> Option<String> {
    // What was committed under this very plan comes out the same.
    let is_other = read.was_otherwise();
    let table = new.sinks.iter().filter(|sink| sink.has_changelog()).find(|sink| {
        let is_it = |part: &&PartFate| part.role == "sink" && part.name == sink.name;
        let is_anew = parts.iter().find(is_it).is_some_and(|part| part.fate == Fate::Rebuilt);
        let before = old.map(|old| old.sinks.iter().find(|one| one.name == sink.name));
        let told = before.map(|before| before.is_some_and(SinkPlan::has_changelog));
        // A new one only begins with the next file; one that comes back does not know what happened meanwhile.
        match told {
            Some(true) => is_anew && is_other,
            Some(false) => changes::has_told(folders, &sink.name),
            None => is_anew && is_other && changes::has_told(folders, &sink.name),
        }
    });
    if let Some(table) = table {
        return Some(format!(
            "what the changelog of the table {} told so far would not add up to it any more; leave the changelog \
             out, or let a pipeline of another name begin anew",
            table.name
        ));
    }
    let (file, why) = unreadable(new, read, folders)?;
    Some(format!(
        "{} was committed before and is read again for what is made anew, and source {} of the new file \
         cannot read it: {why}; let a pipeline of another name begin with it, or a source that takes other names",
        file.stored_name, file.source
    ))
}
