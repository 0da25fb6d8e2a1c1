//! Watch: what the system tells of the folders. Hints only: whatever is not told, a scan finds.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RenameMode};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};

/// What was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hint {
    /// A file was closed after writing, or renamed into place.
    Complete {
        /// The folder it is in.
        folder: PathBuf,
        /// Its name there.
        name: OsString,
    },
    /// Something was not told, or a folder is not watched any more: look for yourself.
    Lost,
}

/// Watches folders.
#[derive(Debug)]
pub(super) struct Watch {
    watcher: Option<RecommendedWatcher>,
}

impl Watch {
    /// Begins to watch `folders`. Where the system cannot, scanning alone must do.
    pub(super) fn start(folders: &[&Path], hints: Sender<Hint>) -> Self {
        let watched: Vec<PathBuf> = folders.iter().map(|folder| folder.to_path_buf()).collect();
        let handler = move |event: notify::Result<notify::Event>| {
            for hint in hints_of(event, &watched) {
                // The intake may have ended.
                let _ = hints.send(hint);
            }
        };
        let watcher = match notify::recommended_watcher(handler) {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::warn!("cannot watch folders ({error}); they are scanned instead");
                None
            }
        };
        let mut watch = Self { watcher };
        folders.iter().for_each(|folder| watch.follow(folder));
        watch
    }

    /// Watches a folder that was made again under its old path.
    pub(super) fn follow_again(&mut self, folder: &Path) {
        if let Some(watcher) = &mut self.watcher {
            // The old one may be gone together with its folder.
            let _ = watcher.unwatch(folder);
        }
        self.follow(folder);
    }

    fn follow(&mut self, folder: &Path) {
        let Some(watcher) = &mut self.watcher else { return };
        if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
            tracing::warn!(folder = %folder.display(), "cannot watch ({error}); it is scanned");
        }
    }
}

/// Returns what an event means. Most mean nothing, and are not passed on.
fn hints_of(event: notify::Result<notify::Event>, watched: &[PathBuf]) -> Vec<Hint> {
    let Ok(event) = event else { return vec![Hint::Lost] };
    if event.need_rescan() {
        tracing::info!(
            "more happens in the folders than the system can tell; looking at all of it"
        );
        return vec![Hint::Lost];
    }
    let is_complete = matches!(
        event.kind,
        EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(RenameMode::To))
    );
    let is_gone =
        matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)));
    let hint = |path: &PathBuf| {
        if watched.contains(path) {
            return is_gone.then_some(Hint::Lost);
        }
        let (folder, name) = (path.parent()?.to_path_buf(), path.file_name()?.to_owned());
        is_complete.then_some(Hint::Complete { folder, name })
    };
    event.paths.iter().filter_map(hint).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use notify::event::{CreateKind, Flag, RemoveKind};

    #[test]
    fn only_what_says_that_a_file_is_complete_or_that_something_was_lost_is_passed_on() {
        let watched = [PathBuf::from("/in")];
        let check = |event: notify::Result<notify::Event>, expected: &[Hint]| {
            let shown = format!("{event:?}");
            assert_eq!(hints_of(event, &watched), expected, "{shown}");
        };
        let event = |kind, path: &str| Ok(notify::Event::new(kind).add_path(path.into()));
        let complete = Hint::Complete { folder: "/in".into(), name: "a".into() };
        let closed = |mode| EventKind::Access(AccessKind::Close(mode));
        let renamed = |mode| EventKind::Modify(ModifyKind::Name(mode));
        check(event(closed(AccessMode::Write), "/in/a"), std::slice::from_ref(&complete));
        check(event(renamed(RenameMode::To), "/in/a"), &[complete]);
        check(event(closed(AccessMode::Read), "/in/a"), &[]);
        check(event(renamed(RenameMode::From), "/in/a"), &[]);
        check(event(EventKind::Create(CreateKind::File), "/in/a"), &[]);
        check(event(EventKind::Remove(RemoveKind::File), "/in/a"), &[]);
        check(event(EventKind::Remove(RemoveKind::Folder), "/in"), &[Hint::Lost]);
        check(event(renamed(RenameMode::From), "/in"), &[Hint::Lost]);
        check(Ok(notify::Event::new(EventKind::Other).set_flag(Flag::Rescan)), &[Hint::Lost]);
        check(Err(notify::Error::generic("no")), &[Hint::Lost]);
    }
}
