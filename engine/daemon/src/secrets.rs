//! Secrets: the keys that expressions may hash with, from the environment and from a folder of files.
//!
//! `TIDEMILL_SECRET_NAME` is the key `NAME`. `TIDEMILL_SECRETS` is a folder in which each file is a key that
//! is called like it, as those are that a service manager or a container is given. They are read once, when
//! a command begins, and never written or shown.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

use anyhow::Context;
use tidemill_engine::Plan;
use tidemill_engine::plan::{KEY_BYTES_MIN, Secret, Secrets};

/// The beginning of the variables that are keys.
const VARIABLES: &str = "TIDEMILL_SECRET_";
/// The variable that names the folder of keys.
const FOLDER: &str = "TIDEMILL_SECRETS";
/// The longest key, in bytes.
const KEY_BYTES_MAX: u64 = 64 * 1024;

/// Reads all keys that are given.
///
/// # Errors
/// When the folder of keys cannot be read. A key that cannot be used is told to who uses it.
pub(crate) fn gather() -> anyhow::Result<Secrets> {
    let mut all = BTreeMap::new();
    if let Some(folder) = std::env::var_os(FOLDER) {
        let folder = Path::new(&folder);
        let shown = || format!("read the folder of secrets {} ({FOLDER})", folder.display());
        for entry in fs::read_dir(folder).with_context(shown)? {
            let entry = entry.with_context(shown)?;
            // Other names can stand in no expression; managers keep files of their own there.
            if let Ok(name) = entry.file_name().into_string()
                && !name.starts_with('.')
            {
                all.insert(name, of_file(&entry.path()));
            }
        }
    }
    for (variable, value) in std::env::vars_os() {
        let name = variable.to_str().and_then(|variable| variable.strip_prefix(VARIABLES));
        if let Some(name) = name {
            all.insert(name.to_owned(), of_bytes(value.as_encoded_bytes()));
        }
    }
    Ok(Secrets::new(all))
}

/// Reads the key in a file; the end of its only line is no part of it.
fn of_file(path: &Path) -> Result<Secret, String> {
    let told = |what: &str| format!("{}: {what}", path.display());
    let is_file = fs::metadata(path).map_err(|error| told(&error.to_string()))?.is_file();
    if !is_file {
        return Err(told("it is not a plain file")); // to open a pipe could last for ever
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| told(&error.to_string()))?;
    file.take(KEY_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| told(&error.to_string()))?;
    if bytes.len() as u64 > KEY_BYTES_MAX {
        return Err(told(&format!("it has more than {KEY_BYTES_MAX} bytes")));
    }
    let key = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    of_bytes(key.strip_suffix(b"\r").unwrap_or(key)).map_err(|reason| told(&reason))
}

fn of_bytes(key: &[u8]) -> Result<Secret, String> {
    let bytes = key.len();
    Secret::new(key).ok_or_else(|| {
        format!("its value has {bytes} bytes, and at least {KEY_BYTES_MIN} are needed")
    })
}

/// Says which secrets a pipeline lacks, if it lacks some.
pub(crate) fn lacks(plan: &Plan) -> Option<String> {
    let (first, _) = plan.lacks.first()?;
    let names = plan.lacks.iter().map(|(name, place)| format!("`{name}` ({place})"));
    let names: Vec<String> = names.collect();
    let s = if names.len() == 1 { "" } else { "s" };
    Some(format!(
        "pipeline {}: the secret{s} {} {} not given; set {VARIABLES}{first}, or put a file {first} into a \
         folder and set {FOLDER} to it",
        plan.name,
        names.join(", "),
        if names.len() == 1 { "is" } else { "are" },
    ))
}
