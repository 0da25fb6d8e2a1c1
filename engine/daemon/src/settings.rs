//! Settings: what is in force, and from where. Flags win over the environment, the environment wins
//! over the settings file, the file wins over the defaults. This is the one list of all settings.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tidemill_engine::Reserve;

use crate::flags::SettingFlags;

/// The settings file that is read when it is there.
const USUAL_FILE: &str = "tidemill.settings.yaml";

/// The most workers in one process, and the most processes.
const COUNT_MAX: usize = 1024;

/// How long a process may be allowed to be silent.
const SILENCES: RangeInclusive<Duration> = Duration::from_millis(500)..=Duration::from_secs(3600);

/// Every setting: its name, its default, and what it is for. The environment variable of `log_format`
/// is `TIDEMILL_LOG_FORMAT`.
const ALL: [(&str, &str); 15] = [
    ("home", "./tidemill-home"),
    ("workers", "(cores)"),
    ("processes", "1"),
    ("process", ""),
    ("hostfile", ""),
    ("grpc", "127.0.0.1:7171"),
    ("reflection", "false"),
    ("quiet", "2s"),
    ("scan", "2s"),
    ("reserve", "standard"),
    ("checkpoint_every", "60s"),
    ("meet", "60s"),
    ("silence", "12s"),
    ("log", "info"),
    ("log_format", "text"),
];

/// A setting as it was written, and where.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Written {
    /// Its name.
    pub name: &'static str,
    /// Its text.
    pub value: String,
    /// `flag`, `environment NAME`, `file PATH` or `default`.
    pub origin: String,
}

/// The checked settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where everything is kept.
    pub home: PathBuf,
    /// Workers per process.
    pub workers: usize,
    /// Processes.
    pub processes: usize,
    /// Which of them this is; `None` starts them all.
    pub process: Option<usize>,
    /// Where the other processes are.
    pub hostfile: Option<PathBuf>,
    /// Where gRPC is served.
    pub grpc: SocketAddr,
    /// Whether the schema may be asked for.
    pub reflection: bool,
    /// How long a file must be unchanged.
    pub quiet: Duration,
    /// How often folders are scanned.
    pub scan: Duration,
    /// How much of the disk stays free.
    pub reserve: Reserve,
    /// The least time between two checkpoints; zero for none but at a clean end.
    pub checkpoint_every: Duration,
    /// How long processes wait for each other.
    pub meet: Duration,
    /// How long a process may be silent before it counts as lost.
    pub silence: Duration,
    /// What is logged.
    pub log: String,
    /// Whether it is logged as JSON.
    pub log_json: bool,
    /// Where each came from, in the order of the list.
    pub written: Vec<Written>,
}

/// What is wrong with the settings: everything, one a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the settings are not right:\n  {}", .0.join("\n  "))]
pub struct SettingsError(pub Vec<String>);

impl Settings {
    /// Puts together flags, environment and file. `environment` looks a variable up.
    pub fn gather(
        flags: &SettingFlags,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, SettingsError> {
        let mut mistakes = Vec::new();
        let (path, file) = read_file(flags.settings.as_deref(), &mut mistakes);
        let written: Vec<Written> = ALL
            .iter()
            .map(|(name, default)| {
                let variable = format!("TIDEMILL_{}", name.to_uppercase());
                let (value, origin) = if let Some(value) = flag(flags, name) {
                    (value, "flag".to_owned())
                } else if let Some(value) = environment(&variable) {
                    (value, format!("environment {variable}"))
                } else if let Some(value) = file.get(*name) {
                    (value.clone(), format!("file {path}"))
                } else if *name == "workers" {
                    (cores().to_string(), "default".to_owned())
                } else {
                    ((*default).to_owned(), "default".to_owned())
                };
                Written { name, value, origin }
            })
            .collect();
        let settings = Checking { written: &written, mistakes: &mut mistakes }.check();
        match settings {
            Some(settings) if mistakes.is_empty() => Ok(Self { written, ..settings }),
            _ => Err(SettingsError(mistakes)),
        }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

fn flag(flags: &SettingFlags, name: &str) -> Option<String> {
    match name {
        "home" => flags.home.clone(),
        "workers" => flags.workers.clone(),
        "processes" => flags.processes.clone(),
        "process" => flags.process.clone(),
        "hostfile" => flags.hostfile.clone(),
        "grpc" => flags.grpc.clone(),
        "reflection" => flags.reflection.clone(),
        "quiet" => flags.quiet.clone(),
        "scan" => flags.scan.clone(),
        "reserve" => flags.reserve.clone(),
        "checkpoint_every" => flags.checkpoint_every.clone(),
        "meet" => flags.meet.clone(),
        "silence" => flags.silence.clone(),
        "log" => flags.log.clone(),
        "log_format" => flags.log_format.clone(),
        _ => None,
    }
}

/// Reads the settings file: one flat mapping of names to values.
fn read_file(
    named: Option<&Path>,
    mistakes: &mut Vec<String>,
) -> (String, BTreeMap<String, String>) {
    let path = named.unwrap_or(Path::new(USUAL_FILE));
    let shown = path.display().to_string();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            if named.is_some() || error.kind() != std::io::ErrorKind::NotFound {
                mistakes.push(format!("settings file {shown}: {error}"));
            }
            return (shown, BTreeMap::new());
        }
    };
    if text.trim().is_empty() {
        return (shown, BTreeMap::new());
    }
    let values: BTreeMap<String, serde_json::Value> = match serde_saphyr::from_str(&text) {
        Ok(values) => values,
        Err(error) => {
            mistakes.push(format!("settings file {shown}: {error}"));
            return (shown, BTreeMap::new());
        }
    };
    let mut file = BTreeMap::new();
    for (name, value) in values {
        if ALL.iter().all(|(known, _)| *known != name) {
            let known: Vec<&str> = ALL.iter().map(|(known, _)| *known).collect();
            mistakes.push(format!(
                "settings file {shown}: there is no setting {name}; there are {}",
                known.join(", ")
            ));
            continue;
        }
        let text = match value {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        };
        file.insert(name, text);
    }
    (shown, file)
}

struct Checking<'a> {
    written: &'a [Written],
    mistakes: &'a mut Vec<String>,
}

impl Checking<'_> {
    fn check(&mut self) -> Option<Settings> {
        let home = self.text("home").map(PathBuf::from);
        let workers = self.count("workers");
        let processes = self.count("processes");
        let process =
            self.optional("process", "a number from 0", |text| text.parse::<usize>().ok());
        let hostfile = self.text("hostfile").map(PathBuf::from);
        let grpc = self.value("grpc", "an address like 127.0.0.1:7171", |text| text.parse().ok());
        let reflection = self.value("reflection", "true or false", |text| text.parse().ok());
        let quiet = self.value("quiet", "a duration like 500ms, 2s or 1m", duration);
        let scan = self.value("scan", "a duration like 500ms, 2s or 1m", duration);
        let reserve = self.value("reserve", "a size like 64MiB, a share like 1%", reserve);
        let checkpoint_every = self.value(
            "checkpoint_every",
            "a duration like 500ms, 2s or 1m; 0s for none but at a clean end",
            duration,
        );
        let meet = self.value("meet", "a duration like 500ms, 2s or 1m", duration);
        let silence = self.value("silence", "a duration from 500ms to 1h", |text| {
            duration(text).filter(|silence| SILENCES.contains(silence))
        });
        let log = self.text("log").unwrap_or_default();
        let log_json = self.value("log_format", "text or json", |text| match text {
            "text" => Some(false),
            "json" => Some(true),
            _ => None,
        });
        let (processes, process) = (processes?, process?);
        if let Some(process) = process
            && process >= processes
        {
            self.mistakes.push(format!(
                "process: {process} is not one of {processes} processes: they are 0 to {}",
                processes - 1
            ));
        }
        if hostfile.is_some() && process.is_none() {
            self.mistakes.push(
                "hostfile: with a host file, each process is started by itself: say which one with -p"
                    .to_owned(),
            );
        }
        Some(Settings {
            home: home.unwrap_or_default(),
            workers: workers?,
            processes,
            process,
            hostfile,
            grpc: grpc?,
            reflection: reflection?,
            quiet: quiet?,
            scan: scan?.max(Duration::from_millis(50)),
            reserve: reserve?,
            checkpoint_every: checkpoint_every?,
            meet: meet?,
            silence: silence?,
            log,
            log_json: log_json?,
            written: Vec::new(),
        })
    }

    fn find(&self, name: &str) -> &Written {
        self.written
            .iter()
            .find(|written| written.name == name)
            .expect("every setting of the list was written")
    }

    fn text(&self, name: &str) -> Option<String> {
        Some(self.find(name).value.clone()).filter(|value| !value.is_empty())
    }

    fn value<V>(
        &mut self,
        name: &str,
        expected: &str,
        read: impl Fn(&str) -> Option<V>,
    ) -> Option<V> {
        let Written { value, origin, .. } = self.find(name).clone();
        let found = read(&value);
        if found.is_none() {
            self.mistakes.push(format!("{name}: {value:?} is not {expected} (from {origin})"));
        }
        found
    }

    fn optional<V>(
        &mut self,
        name: &str,
        expected: &str,
        read: impl Fn(&str) -> Option<V>,
    ) -> Option<Option<V>> {
        if self.find(name).value.is_empty() {
            return Some(None);
        }
        self.value(name, expected, read).map(Some)
    }

    fn count(&mut self, name: &str) -> Option<usize> {
        let expected = format!("a number from 1 to {COUNT_MAX}");
        self.value(name, &expected, |text| {
            text.parse().ok().filter(|count| (1..=COUNT_MAX).contains(count))
        })
    }
}

/// Reads a reserve: a share of the disk, a number of bytes with or without its unit, or `standard`.
fn reserve(text: &str) -> Option<Reserve> {
    if text == "standard" {
        return Some(Reserve::Standard);
    }
    if let Some(percent) = text.strip_suffix('%') {
        let percent = percent.trim().parse().ok().filter(|percent| *percent <= 100);
        return percent.map(Reserve::Percent);
    }
    let split = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit: u64 = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit).map(Reserve::Bytes)
}

/// Reads a duration: a number and `ms`, `s`, `m` or `h`.
fn duration(text: &str) -> Option<Duration> {
    let split = text.find(|letter: char| letter.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(split);
    let number: f64 = number.trim().parse().ok()?;
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number * seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gather(
        flags: SettingFlags,
        environment: &[(&str, &str)],
    ) -> Result<Settings, SettingsError> {
        let environment = |name: &str| {
            environment.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string())
        };
        Settings::gather(&flags, &environment)
    }

    #[test]
    fn flags_win_over_the_environment_and_the_environment_over_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("s.yaml");
        std::fs::write(&file, "workers: 5\nquiet: 3s\nscan: 4s\n").unwrap();
        let flags = SettingFlags {
            workers: Some("2".into()),
            settings: Some(file.clone()),
            ..SettingFlags::default()
        };
        let environment = [("TIDEMILL_WORKERS", "3"), ("TIDEMILL_QUIET", "150ms")];
        let settings = gather(flags, &environment).unwrap();
        assert_eq!(settings.workers, 2);
        assert_eq!(settings.quiet, Duration::from_millis(150));
        assert_eq!(settings.scan, Duration::from_secs(4));
        let origin = |name: &str| {
            settings.written.iter().find(|one| one.name == name).unwrap().origin.clone()
        };
        assert_eq!(origin("workers"), "flag");
        assert_eq!(origin("quiet"), "environment TIDEMILL_QUIET");
        assert_eq!(origin("scan"), format!("file {}", file.display()));
        assert_eq!(origin("home"), "default");
    }

    #[test]
    fn a_reserve_is_a_size_or_a_share() {
        let check = |text: &str, expected: Option<Reserve>| {
            assert_eq!(reserve(text), expected, "{text}");
        };
        check("standard", Some(Reserve::Standard));
        check("0", Some(Reserve::Bytes(0)));
        check("64MiB", Some(Reserve::Bytes(64 << 20)));
        check("2 GB", Some(Reserve::Bytes(2_000_000_000)));
        check("10%", Some(Reserve::Percent(10)));
        for wrong in
            ["", "101%", "-1", "1.5GiB", "lots", "99999999999999999999", "9999999999999GiB"]
        {
            check(wrong, None);
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let flags = SettingFlags {
            workers: Some("0".into()),
            processes: Some("2".into()),
            process: Some("2".into()),
            grpc: Some("here".into()),
            ..SettingFlags::default()
        };
        let SettingsError(mistakes) =
            gather(flags, &[("TIDEMILL_QUIET", "2 parsecs")]).unwrap_err();
        let told = |part: &str| assert!(mistakes.iter().any(|m| m.contains(part)), "{mistakes:?}");
        told("workers: \"0\" is not a number from 1");
        told("grpc: \"here\"");
        told("quiet: \"2 parsecs\" is not a duration like 500ms, 2s or 1m (from environment");
        told("process: 2 is not one of 2 processes: they are 0 to 1");
    }
}
