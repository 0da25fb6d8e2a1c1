//! Again: whether what a deployment makes anew can be made of the files that were committed before it.
//!
//! Looks at plans and at the beginnings of files; changes nothing. What it lets pass by mistake ends the next
//! life, so it is asked before the boundary is drawn, and once more of the files that came meanwhile.

use tidemill_store::Folders;

use crate::deploy::{Fate, PartFate};
use crate::plan::{Plan, SinkPlan};
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
    let first = read.there.iter().find(|file| !file.is_removal())?;
    let table = new.sinks.iter().find(|sink| {
        let is_it = |part: &&PartFate| part.role == "sink" && part.name == sink.name;
        let fate = parts.iter().find(is_it).map(|part| part.fate);
        // A new one only begins with the next file.
        let mut before = old.iter().flat_map(|old| &old.sinks).filter(|one| one.name == sink.name);
        before.any(SinkPlan::has_changelog) && sink.has_changelog() && fate == Some(Fate::Rebuilt)
    });
    if let Some(table) = table {
        return Some(format!(
            "the table {} is made anew from {} committed files (first: {}), and its changelog would not add up \
             to it any more; leave the changelog out, or let a pipeline of another name begin anew",
            table.name,
            read.there.len(),
            first.stored_name
        ));
    }
    let (file, why) = unreadable(new, &read.there, &read.readings, folders)?;
    Some(format!(
        "{} was committed before and is read again for what is made anew, and source {} of the new file \
         cannot read it: {why}; let a pipeline of another name begin with it, or a source that takes other names",
        file.stored_name, file.source
    ))
}
