//! Scenario: the folders of `scenarios/`, and a site with the files of one of them.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::site::Site;
use crate::tree;

/// Returns the scenario folders, sorted.
#[track_caller]
pub fn folders() -> Vec<PathBuf> {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let entries = fs::read_dir(all).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    folders.sort();
    assert!(folders.len() >= 20, "only {} scenarios: were some moved?", folders.len());
    folders
}

/// Returns a site with the pipeline of a scenario and its files dropped. `node` is the binary.
pub fn site(node: &str, folder: &Path) -> Site {
    let mut site = with_pipeline(node, folder, "pipeline.yaml");
    for (name, bytes) in tree::read(&folder.join("parts")) {
        let path = site.path().join("parts").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let params = folder.join("params.yaml");
    if params.exists() {
        site.always(&["--params", &params.display().to_string()]);
    }
    site
}

/// Returns a site with the same files and the pipeline as it is written without includes, parameters and groups;
/// nothing if the scenario has none.
pub fn flat_site(node: &str, folder: &Path) -> Option<Site> {
    folder.join("flat.yaml").exists().then(|| with_pipeline(node, folder, "flat.yaml"))
}

fn with_pipeline(node: &str, folder: &Path, pipeline: &str) -> Site {
    let site = Site::new(node, &fs::read_to_string(folder.join(pipeline)).unwrap());
    for (name, bytes) in tree::read(&folder.join("in")) {
        match name.strip_suffix(".plain") {
            None => site.put(&name, &bytes),
            Some(name) => site.put(name, &packed(name, &bytes)),
        }
    }
    site
}

/// Compresses by the ending of the name, in two members so that readers must go on after the first.
fn packed(name: &str, bytes: &[u8]) -> Vec<u8> {
    let (one, other) = bytes.split_at(bytes.len() / 2);
    let member = |bytes: &[u8]| match Path::new(name).extension().and_then(|ending| ending.to_str())
    {
        Some("gz") => {
            let level = flate2::Compression::default();
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Some("zst") => zstd::encode_all(bytes, 3).unwrap(),
        _ => panic!("{name}.plain: only .gz and .zst can be made"),
    };
    [member(one), member(other)].concat()
}
