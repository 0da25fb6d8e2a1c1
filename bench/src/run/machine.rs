//! The machine that a table was made on.
//!
//! It owns the facts without which a number means nothing. A fact that cannot be read is `unknown`.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::calendar::Civil;

/// What a reader must know of the machine.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Date and time of the run, UTC.
    pub when: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Model of the processor.
    pub processor: String,
    /// Memory of the machine in MiB.
    pub memory_mib: u64,
    /// Release of the kernel.
    pub kernel: String,
    /// Load average of the last minute before the runs: foreign work makes numbers worse.
    pub load: String,
    /// Type of the file system that the runs wrote to.
    pub file_system: String,
}

impl Machine {
    /// Reads the facts; `work` is the folder that the runs write to.
    pub fn here(work: &Path) -> Self {
        let seconds =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let first = |path: &str, key: &str| {
            let text = fs::read_to_string(path).ok()?;
            let line = text.lines().find(|line| line.starts_with(key))?;
            line.split_once(':').map(|(_, value)| value.trim().to_owned())
        };
        let memory = first("/proc/meminfo", "MemTotal")
            .and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").ok();
        Self {
            when: Civil::from_unix(seconds).to_minute(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            processor: first("/proc/cpuinfo", "model name").unwrap_or_else(unknown),
            memory_mib: memory.unwrap_or(0) / 1_024,
            kernel: kernel.map_or_else(unknown, |text| text.trim().to_owned()),
            load: fs::read_to_string("/proc/loadavg")
                .ok()
                .and_then(|text| text.split(' ').next().map(str::to_owned))
                .unwrap_or_else(unknown),
            file_system: file_system(work).unwrap_or_else(unknown),
        }
    }
}

fn unknown() -> String {
    "unknown".into()
}

fn file_system(folder: &Path) -> Option<String> {
    let folder = folder.canonicalize().ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    file_system_of(&folder, &mounts)
}

/// The mount point that is the longest prefix decides; of two on the same place, the later one.
fn file_system_of(folder: &Path, mounts: &str) -> Option<String> {
    mounts
        .lines()
        .filter_map(|line| {
            let (mount, rest) = line.split_once(" - ")?;
            Some((Path::new(mount.split(' ').nth(4)?), rest.split(' ').next()?))
        })
        .filter(|(point, _)| folder.starts_with(point))
        .max_by_key(|(point, _)| point.as_os_str().len())
        .map(|(_, kind)| kind.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_mount_point_decides() {
        let mounts = "1 0 8:1 / / rw shared:1 - ext4 /dev/a rw\n\
                      2 1 0:5 / /dev/shm rw - tmpfs tmpfs rw\n\
                      3 1 0:6 / /data rw - xfs /dev/b rw\n";
        for (folder, expected) in
            [("/home/me", "ext4"), ("/dev/shm/x", "tmpfs"), ("/data", "xfs"), ("/database", "ext4")]
        {
            assert_eq!(file_system_of(Path::new(folder), mounts).as_deref(), Some(expected));
        }
        assert_eq!(file_system_of(Path::new("/x"), "nonsense"), None);
    }

    #[test]
    fn this_machine_has_a_core_and_a_kernel() {
        let machine = Machine::here(Path::new("."));
        assert!(machine.cores > 0 && machine.kernel != "unknown");
    }
}
