//! Scratch: a folder for homes that nobody keeps, in memory where the system has a place for that.
//! Removed at the end, also when somebody interrupts.

use std::path::{Path, PathBuf};

use anyhow::Context;
use tempfile::TempDir;

/// Where Linux keeps files in memory. What is there survives nothing, so nothing waits for a disk.
const IN_MEMORY: &str = "/dev/shm";

/// The least room in memory with which it is used, in bytes.
const ROOM_MIN: u64 = 256 << 20;

/// The exit code of a process that was told to end.
const INTERRUPTED: i32 = 130;

/// A folder for homes.
pub(crate) struct Scratch {
    root: TempDir,
}

impl Scratch {
    /// Makes the folder.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let named = || {
            let mut builder = tempfile::Builder::new();
            builder.prefix("tidemill-test-");
            builder
        };
        let memory = Path::new(IN_MEMORY);
        let roomy = tidemill_store::space(memory).is_ok_and(|(free, _)| free >= ROOM_MIN);
        let in_memory = roomy.then(|| named().tempdir_in(memory).ok()).flatten();
        let root = match in_memory {
            Some(root) => root,
            None => named().tempdir().context("make a folder for the homes of tests")?,
        };
        remove_when_told_to_end(root.path().to_path_buf())?;
        Ok(Self { root })
    }

    /// Makes an empty folder in it, which goes with what is returned.
    pub(crate) fn folder(&self) -> anyhow::Result<TempDir> {
        tempfile::tempdir_in(&self.root).context("make a home for a test")
    }
}

fn remove_when_told_to_end(root: PathBuf) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::Builder::new().name("tidemill:signals".into()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        // What is left of it costs memory until the next start of the system, and nothing else.
        let _ = std::fs::remove_dir_all(&root);
        std::process::exit(INTERRUPTED);
    })?;
    Ok(())
}
