//! The three output files of one input file.
//!
//! It owns their names and buffers. A class without lines gets no file.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Bytes gathered before a write.
const WRITE_BYTES: usize = 256 << 10;

/// What a status says about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// 500 and more.
    ServerError,
    /// 400 to 499.
    ClientError,
    /// Everything else.
    Ok,
}

impl Class {
    /// All classes, in the order in which a status is tried.
    pub const ALL: [Self; 3] = [Self::ServerError, Self::ClientError, Self::Ok];

    /// Returns the name of its sink and folder.
    pub fn name(self) -> &'static str {
        match self {
            Self::ServerError => "server_error",
            Self::ClientError => "client_error",
            Self::Ok => "ok",
        }
    }

    /// Returns the class of a status.
    pub fn of(status: i64) -> Self {
        match status {
            500.. => Self::ServerError,
            400.. => Self::ClientError,
            _ => Self::Ok,
        }
    }
}

/// When an output file gets its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    AtOnce,
    WhenWhole,
}

/// The outputs of one input file.
pub(super) struct ClassFiles {
    outputs: [ClassFile; 3],
    naming: Naming,
}

struct ClassFile {
    path: PathBuf,
    file: Option<File>,
    pending: Vec<u8>,
}

impl ClassFiles {
    pub(super) fn new(output: &Path, input: &Path, naming: Naming) -> Result<Self> {
        let name = input.file_name().context("an input file has no name")?;
        let outputs = Class::ALL.map(|class| ClassFile {
            path: output.join(class.name()).join(name),
            file: None,
            pending: Vec::new(),
        });
        Ok(Self { outputs, naming })
    }

    /// Takes some whole lines of a class.
    #[inline]
    pub(super) fn push(&mut self, class: Class, lines: &[u8]) {
        self.outputs[class as usize].pending.extend_from_slice(lines);
    }

    /// Writes what has become much; called between chunks.
    pub(super) fn spill(&mut self) -> Result<()> {
        let naming = self.naming;
        let full = |output: &&mut ClassFile| output.pending.len() >= WRITE_BYTES;
        self.outputs.iter_mut().filter(full).try_for_each(|output| output.write(naming))
    }

    /// Writes the rest and gives the files their names.
    pub(super) fn finish(mut self) -> Result<()> {
        for output in &mut self.outputs {
            if !output.pending.is_empty() {
                output.write(self.naming)?;
            }
            if output.file.take().is_some() && self.naming == Naming::WhenWhole {
                fs::rename(part_of(&output.path), &output.path)
                    .with_context(|| format!("rename to {}", output.path.display()))?;
            }
        }
        Ok(())
    }
}

impl ClassFile {
    fn write(&mut self, naming: Naming) -> Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let path = match naming {
                    Naming::AtOnce => self.path.clone(),
                    Naming::WhenWhole => part_of(&self.path),
                };
                let file =
                    File::create(&path).with_context(|| format!("create {}", path.display()))?;
                self.file.insert(file)
            }
        };
        file.write_all(&self.pending).with_context(|| format!("write {}", self.path.display()))?;
        self.pending.clear();
        Ok(())
    }
}

fn part_of(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or(OsStr::new("output")));
    name.push(".part");
    path.with_file_name(name)
}
