//! Place: where the processes of one generation meet, as the parent prepares it and a child finds it.
//!
//! Owns the folder of the sockets and the token; both are made for one generation and gone with it, so
//! that nobody of an older one can knock.

use std::fmt::Write as _;
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use tidemill_engine::mesh::Endpoint;

use super::{Parent, SupervisorError};

/// Set to `1` for a child: its standard input is the link to its parent.
pub const SUPERVISED: &str = "TIDEMILL_SUPERVISED";
/// Set for a child of a generation that is not the first of its run.
pub(super) const FOLLOWS: &str = "TIDEMILL_FOLLOWS";
/// The token of the mesh, in hex.
pub const MESH_TOKEN: &str = "TIDEMILL_MESH_TOKEN";
/// The folder of the sockets: `0.sock`, `1.sock`, ...
pub const MESH_DIR: &str = "TIDEMILL_MESH_DIR";
/// The exit code of a child whose parent is gone.
pub const ORPHANED: u8 = 1;

const TOKEN_BYTES: usize = 32;
/// A Unix socket's path is limited to 108 bytes; what we add to the folder's is shorter than the rest.
pub(super) const FOLDER_BYTES_MAX: usize = 90;

/// The folder of the sockets, which only we can enter, and the token; the folder goes when dropped.
pub(super) struct Place {
    folder: PathBuf,
    token: String,
}

impl Place {
    /// Makes a new one, with the pipeline files as they were read.
    pub(super) fn create(pipelines: &[String]) -> Result<Place, SupervisorError> {
        let mut parent = std::env::temp_dir();
        if parent.as_os_str().len() > FOLDER_BYTES_MAX - 30 {
            parent = PathBuf::from("/tmp");
        }
        let token = hex(&random::<TOKEN_BYTES>()?);
        let folder = parent.join(format!("tidemill-{}", hex(&random::<8>()?)));
        // Fails if it exists: nobody can have put one there before us.
        std::fs::DirBuilder::new().mode(0o700).create(&folder).map_err(|source| {
            SupervisorError::Prepare { action: "create a folder for sockets", source }
        })?;
        let place = Place { folder, token };
        for (index, text) in pipelines.iter().enumerate() {
            std::fs::write(text_path(&place.folder, index), text).map_err(|source| {
                SupervisorError::Prepare { action: "hand on the pipeline files", source }
            })?;
        }
        Ok(place)
    }

    /// Returns what a child must find in its environment.
    pub(super) fn environment(&self) -> [(&'static str, &Path); 3] {
        [
            (SUPERVISED, Path::new("1")),
            (MESH_TOKEN, Path::new(&self.token)),
            (MESH_DIR, &self.folder),
        ]
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            let folder = self.folder.display();
            tracing::warn!(%folder, %error, "a temporary folder stays behind");
        }
    }
}

/// The place of a supervised process in its mesh.
#[derive(Clone)]
pub struct SupervisedMesh {
    /// Where each process listens.
    pub endpoints: Vec<Endpoint>,
    /// The shared token.
    pub token: Vec<u8>,
}

/// Returns the mesh that the parent prepared, `None` when there is no parent.
pub fn supervised_mesh(processes: usize) -> Result<Option<SupervisedMesh>, SupervisorError> {
    if !is_supervised() {
        return Ok(None);
    }
    let read = |variable: &'static str| {
        let missing = SupervisorError::Environment { variable, reason: "it is not set" };
        std::env::var_os(variable).ok_or(missing)
    };
    let folder = PathBuf::from(read(MESH_DIR)?);
    let token = read(MESH_TOKEN)?;
    let token = token.to_str().and_then(unhex).filter(|token| token.len() == TOKEN_BYTES);
    let token = token.ok_or(SupervisorError::Environment {
        variable: MESH_TOKEN,
        reason: "it is not 64 hex digits",
    })?;
    let socket = |index| Endpoint::Unix(folder.join(format!("{index}.sock")));
    Ok(Some(SupervisedMesh { endpoints: (0..processes).map(socket).collect(), token }))
}

/// Returns the text of the pipeline file with this place among the arguments, as the parent has read it;
/// `None` when there is no parent. The file itself may have been changed since.
pub fn pipeline_text(index: usize) -> Result<Option<String>, SupervisorError> {
    let Some(folder) = std::env::var_os(MESH_DIR).filter(|_| is_supervised()) else {
        return Ok(None);
    };
    let text = std::fs::read_to_string(text_path(Path::new(&folder), index));
    text.map(Some).map_err(|source| SupervisorError::Prepare {
        action: "read the pipeline files that the parent has read",
        source,
    })
}

fn text_path(folder: &Path, index: usize) -> PathBuf {
    folder.join(format!("{index}.yaml"))
}

/// Returns the parent of a supervised process, `None` when there is none. Takes the standard input.
pub fn parent() -> Result<Option<Parent>, SupervisorError> {
    if !is_supervised() {
        return Ok(None);
    }
    let taken = Parent::of_stdin();
    let failed = |source| SupervisorError::Prepare { action: "take the standard input", source };
    taken.map(Some).map_err(failed)
}

/// Ends this process, with [`ORPHANED`], when its parent is gone. Returns at once.
pub fn end_with(parent: &Parent) -> Result<(), SupervisorError> {
    #[cfg(target_os = "linux")]
    {
        // A process that is stopped cannot find out by itself. The kernel wakes it up only when nobody of
        // its session takes it over; in a container somebody does, and it would hold the home for ever.
        let kill = Some(rustix::process::Signal::KILL);
        rustix::process::set_parent_process_death_signal(kill).map_err(|errno| {
            SupervisorError::Prepare { action: "end with the parent", source: errno.into() }
        })?;
    }
    let parent = parent.clone();
    std::thread::Builder::new()
        .name("parent".to_string())
        .spawn(move || {
            parent.outlive();
            tracing::error!("the process that started this one is gone: ending");
            std::process::exit(i32::from(ORPHANED));
        })
        .map(|_| ())
        .map_err(|source| SupervisorError::Prepare { action: "start a thread", source })
}

/// Returns whether this process was started by another one of its run.
pub fn is_supervised() -> bool {
    std::env::var_os(SUPERVISED).is_some_and(|value| value == "1")
}

/// Returns whether this process belongs to a generation that follows another one of the same run.
pub fn follows() -> bool {
    is_supervised() && std::env::var_os(FOLLOWS).is_some()
}

pub(super) fn random<const N: usize>() -> Result<[u8; N], SupervisorError> {
    let mut bytes = [0; N];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(|source: io::Error| SupervisorError::Prepare {
            action: "read /dev/urandom",
            source,
        })?;
    Ok(bytes)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // a String takes everything
        text
    })
}

pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| Some((digit(high)? * 16 + digit(low)?) as u8)).collect()
}
