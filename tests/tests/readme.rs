//! Readme: every command that the documents mark with `sh run` works as it stands there, and every
//! pipeline file of the repository checks.
//!
//! The blocks of one document run in their order, each in a shell of its own, all in one temporary
//! folder that holds a copy of `examples/`. The built binary is the first `tidemill` on the PATH.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use tidemill_tests::process::Process;
use tidemill_tests::tree;

const NODE: &str = env!("CARGO_BIN_EXE_node");

/// What opens a block that is run.
const MARK: &str = "```sh run";

/// Instead of building: `cargo run ... -- ARGUMENTS` is the built binary, all else does nothing.
const CARGO: &str = "#!/bin/sh
while [ $# -gt 0 ]; do
    if [ \"$1\" = -- ]; then
        shift
        exec tidemill \"$@\"
    fi
    shift
done
";

/// A block of commands and the line on which it begins.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    line: usize,
    commands: String,
}

fn blocks(text: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut inside = false;
    for (number, line) in text.lines().enumerate() {
        if inside && line.trim_start().starts_with("```") {
            inside = false;
        } else if inside {
            let block = found.last_mut().unwrap();
            block.commands.push_str(line);
            block.commands.push('\n');
        } else if line.trim() == MARK {
            inside = true;
            found.push(Block { line: number + 1, commands: String::new() });
        }
    }
    assert!(!inside, "the last block has no end");
    found
}

#[test]
fn marked_blocks_are_found_and_others_are_not() {
    let text = "a\n```sh run\none\ntwo\n```\n```sh\nno\n```\n```sh run\nthree\n```\n";
    let block = |line, commands: &str| Block { line, commands: commands.into() };
    assert_eq!(blocks(text), [block(2, "one\ntwo\n"), block(9, "three\n")]);
}

#[test]
fn every_marked_command_of_the_documents_works() {
    let root = root();
    let mut documents = vec![root.join("README.md")];
    documents.extend(files_below(&root.join("docs"), "md"));
    documents.extend(files_below(&root.join("examples"), "md"));
    for document in documents.iter().filter(|document| document.exists()) {
        let blocks = blocks(&fs::read_to_string(document).unwrap());
        let is_readme = document.ends_with("README.md") && document.parent() == Some(&*root);
        assert!(!is_readme || !blocks.is_empty(), "no block of README.md is marked `{MARK}`");
        if !blocks.is_empty() {
            run(&root, document, &blocks);
        }
    }
}

fn run(root: &Path, document: &Path, blocks: &[Block]) {
    let folder = tempfile::tempdir().unwrap();
    let programs = folder.path().join(".programs");
    fs::create_dir(&programs).unwrap();
    symlink(NODE, programs.join("tidemill")).unwrap();
    fs::write(programs.join("cargo"), CARGO).unwrap();
    fs::set_permissions(programs.join("cargo"), fs::Permissions::from_mode(0o755)).unwrap();
    tree::write(&folder.path().join("examples"), &tree::read(&root.join("examples")));
    let path = std::env::var("PATH").unwrap();
    for block in blocks {
        let mut command = Command::new("bash");
        command.args(["-e", "-u", "-o", "pipefail", "-c", &block.commands]);
        command.current_dir(folder.path());
        command.env("PATH", format!("{}:{path}", programs.display()));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TIDEMILL_") {
                command.env_remove(name);
            }
        }
        let ended = Process::start(&mut command).ended();
        let place = format!("{}:{}", document.display(), block.line);
        assert_eq!(ended.code, Some(0), "{place}\n{}\n{ended}", block.commands);
        ended.expect_no_errors(&[]);
    }
}

#[test]
fn every_pipeline_file_of_the_repository_checks() {
    let root = root();
    let mut pipelines = files_below(&root.join("examples"), "yaml");
    pipelines.extend(files_below(&root.join("bench/pipelines"), "yaml"));
    assert!(pipelines.len() >= 3, "{pipelines:?}");
    let ended = Process::start(Command::new(NODE).arg("check").args(&pipelines)).ended();
    ended.expect_code(0);
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn files_below(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let names = tree::read(folder).into_keys();
    let wanted = names.filter(|name| name.rsplit('.').next() == Some(ending));
    wanted.map(|name| folder.join(name)).collect()
}
