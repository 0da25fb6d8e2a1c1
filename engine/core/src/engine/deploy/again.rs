//! Again: whether what a deployment makes anew can be made of the files that were committed before it.
//!
//! Looks at plans and at the beginnings of files; changes nothing. What it lets pass by mistake ends the next
//! life, so it is asked before the boundary is drawn, and once more of the files that came meanwhile.

use tidemill_store::{AcceptedFile, Folders};

use crate::deploy::{Fate, PartFate};
use crate::intake::Patterns;
use crate::plan::{Plan, SinkPlan, SourcePlan};
use crate::start::earlier::unreadable;

/// Returns why a plan cannot take over, if files are read again for it that it would read in another way than
/// they were meant, or tables whose changelog would not add up to them any more.
pub(super) fn refusal(
    old: Option<&Plan>,
    new: &Plan,
    parts: &[PartFate],
    read: &[AcceptedFile],
    folders: &Folders,
) -> Option<String> {
    let first = read.iter().find(|file| !file.is_removal())?;
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
            read.len(),
            first.stored_name
        ));
    }
    let patterns = old.map(|old| Patterns::new(&old.sources));
    let taken_by = |file: &AcceptedFile| {
        let named = |name: &str| old?.sources.iter().find(|one| one.name == name);
        // The source may have another name now.
        named(&file.source).or_else(|| named(patterns.as_ref()?.source_of(&file.name)?))
    };
    read.iter().find_map(|file| {
        let source = new.sources.iter().position(|source| source.name == file.source)?;
        let was = taken_by(file);
        let why = misread(was, &new.sources[source]).or_else(|| unreadable(new, file, folders))?;
        Some(format!(
            "{} was committed before and is read again for what is made anew, and source {} of the new file \
             cannot read it: {why}; let a pipeline of another name begin with it, or a source that takes other names",
            file.stored_name, file.source
        ))
    })
}

/// Returns why files of a source would be read in another way than they were.
fn misread(was: Option<&SourcePlan>, is: &SourcePlan) -> Option<String> {
    let frame = |source: &SourcePlan| {
        source.contract.as_ref().map(crate::contract::Contract::frame).unwrap_or_default()
    };
    let (was, is) = (frame(was?), frame(is));
    (was != is).then(|| {
        format!(
            "its contract says {} header and {} trailer lines, and {} and {} when it was committed: records \
             would be taken for such lines, or lines for records",
            is.head, is.tail, was.head, was.tail
        )
    })
}
