//! What packs and manifests promise: what was written reads back, what was not is refused, and files
//! that belong to nobody go.

use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::home::Home;
use crate::journal::{CheckpointRow, Journal, JournalError};

fn header(state: &str) -> PackHeader {
    PackHeader {
        format: FORMAT,
        state: state.into(),
        fingerprint: "f".into(),
        epoch: 7,
        generation: 2,
    }
}

/// Writes a pack with these blocks, and says that it holds these shards.
fn pack(folder: &Path, name: &str, blocks: &[(u8, u32, &[u8])], shards: &[u8]) -> Pack {
    let mut writer = PackWriter::create(folder, name, &header("aggregate/a")).unwrap();
    for (shard, rows, bytes) in blocks {
        writer.block(*shard, *rows, bytes).unwrap();
    }
    writer.finish(shards.iter().copied()).unwrap()
}

fn read(path: &Path, wanted: impl Fn(u8) -> bool) -> Result<Vec<Block>, CheckpointError> {
    let mut reader = PackReader::open(path)?;
    let mut blocks = Vec::new();
    while let Some(block) = reader.next_block(&wanted)? {
        blocks.push(block);
    }
    Ok(blocks)
}

#[test]
fn blocks_read_back_shard_by_shard() {
    let folder = tempfile::tempdir().unwrap();
    let long = vec![b'x'; 300_000];
    let blocks: [(u8, u32, &[u8]); 4] =
        [(3, 2, b"three"), (255, 1, &long), (3, 1, b"more"), (0, 1, b"")];
    let pack = pack(folder.path(), "p.pack", &blocks, &[0, 3, 9, 255]);
    let path = folder.path().join("p.pack");
    let all = read(&path, |_| true).unwrap();
    let as_given: Vec<(u8, u32, &[u8])> =
        all.iter().map(|block| (block.shard, block.rows, &*block.bytes)).collect();
    assert_eq!(as_given, blocks);
    let three = read(&path, |shard| shard == 3).unwrap();
    assert_eq!(three.iter().map(|block| block.bytes.len()).collect::<Vec<_>>(), [5, 4]);
    assert_eq!(PackReader::open(&path).unwrap().header(), &header("aggregate/a"));
    let rows: Vec<(u8, u64)> = pack.shards.iter().map(|one| (one.shard, one.rows)).collect();
    assert_eq!(rows, [(0, 1), (3, 3), (9, 0), (255, 1)]);
    assert_eq!(pack.bytes, path.metadata().unwrap().len());
    verify_pack(&path, pack.bytes, &pack.hash).unwrap();
    assert!(pack.bytes < 10_000, "{} bytes are not packed", pack.bytes);
}

#[test]
fn a_pack_that_is_not_finished_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = PackWriter::create(folder.path(), "p.pack", &header("s")).unwrap();
    writer.block(1, 1, b"x").unwrap();
    drop(writer);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    assert!(PackWriter::create(folder.path(), "../p.pack", &header("s")).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn hostile_bytes_are_refused_or_read(
        at in any::<prop::sample::Index>(),
        bytes in proptest::collection::vec(any::<u8>(), 1..20),
        cut in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.pack");
        let pack = pack(folder.path(), "p.pack", &[(1, 1, b"abc"), (2, 9, &[7; 400])], &[1, 2]);
        let mut all = fs::read(&path).unwrap();
        let at = at.index(all.len());
        if cut {
            all.truncate(at);
        } else {
            all.splice(at.., bytes);
        }
        fs::write(&path, &all).unwrap();
        // Never a panic, never more memory than there are bytes; and the hash tells.
        let _ = read(&path, |_| true);
        let _ = read(&path, |shard| shard == 2);
        prop_assert!(verify_pack(&path, pack.bytes, &pack.hash).is_err());
    }
}

#[test]
fn lengths_that_cannot_be_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.pack");
    let empty = |text: &[u8]| {
        pack(folder.path(), "p.pack", &[], &[]);
        let mut all = fs::read(&path).unwrap();
        all.extend_from_slice(text);
        fs::write(&path, all).unwrap();
        read(&path, |_| true).unwrap_err().to_string()
    };
    let block = |numbers: [u32; 4]| numbers.map(u32::to_le_bytes).concat();
    assert!(empty(&block([256, 1, 1, 1])).ends_with("no such shard"));
    assert!(empty(&block([1, 1, u32::MAX, 1])).ends_with("too long"));
    assert!(empty(&block([1, 1, 1, u32::MAX])).ends_with("in the middle of a block"));
    assert!(empty(b"abc").ends_with("too early"));
    fs::write(&path, b"tmckpt01\xff\xff\xff\xff").unwrap();
    assert!(read(&path, |_| true).unwrap_err().to_string().ends_with("its header is too long"));
    assert!(matches!(
        read(&folder.path().join("none"), |_| true),
        Err(CheckpointError::Gone { .. })
    ));
}

fn manifest(epoch: u64, states: &[&str]) -> Manifest {
    let state =
        |id: &&str| KeptState { id: (*id).into(), fingerprint: "f".into(), shards: Vec::new() };
    Manifest {
        format: FORMAT,
        pipeline: "p".into(),
        epoch,
        generation: 1,
        binary_version: "0".into(),
        packs: Vec::new(),
        states: states.iter().map(state).collect(),
    }
}

fn row(epoch: u64, (manifest, hash): (String, [u8; 32])) -> CheckpointRow {
    CheckpointRow { epoch, generation: 1, manifest, hash, bytes: 1, took_ms: 1 }
}

#[test]
fn a_later_pack_takes_over_the_shards_it_holds_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let mut manifest = manifest(9, &["a", "b"]);
    manifest.put("a", &pack(folder.path(), "1.pack", &[(1, 5, b"x"), (2, 1, b"y")], &[1, 2, 3]));
    manifest.put("b", &pack(folder.path(), "2.pack", &[(1, 7, b"z")], &[1]));
    manifest.put("a", &pack(folder.path(), "3.pack", &[(3, 2, b"w")], &[2, 3]));
    let place = |manifest: &Manifest, id: &str| -> Vec<(u64, String, u64)> {
        let rows = &manifest.state(id).unwrap().shards;
        let name = |pack: u64| manifest.packs[pack as usize].name.clone();
        rows.iter().map(|row| (row.shard, name(row.pack), row.rows)).collect()
    };
    let expected = [(1, "1.pack".to_owned(), 5), (3, "3.pack".to_owned(), 2)];
    assert_eq!(place(&manifest, "a"), expected, "shard 2 is empty now");
    assert_eq!(manifest.count(), 14);
    manifest.put("a", &pack(folder.path(), "4.pack", &[(1, 1, b"v")], &[1]));
    manifest.forget_unused();
    let names: Vec<&str> = manifest.packs.iter().map(|pack| &*pack.name).collect();
    assert_eq!(names, ["2.pack", "3.pack", "4.pack"]);
    let expected = [(1, "4.pack".to_owned(), 1), (3, "3.pack".to_owned(), 2)];
    assert_eq!(place(&manifest, "a"), expected);
    assert_eq!(place(&manifest, "b"), [(1, "2.pack".to_owned(), 7)]);
    // It reads back as it was, and every pack of it is what was written.
    let row = row(9, write_manifest(folder.path(), &manifest).unwrap());
    assert_eq!(read_manifest(folder.path(), &row).unwrap(), manifest);
    manifest.verify(folder.path()).unwrap();
    fs::write(folder.path().join("4.pack"), b"something else").unwrap();
    assert!(matches!(manifest.verify(folder.path()), Err(CheckpointError::Damaged { .. })));
    fs::remove_file(folder.path().join("4.pack")).unwrap();
    assert!(matches!(manifest.verify(folder.path()), Err(CheckpointError::Gone { .. })));
}

#[test]
fn a_manifest_that_is_not_the_one_the_journal_names_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let written = write_manifest(folder.path(), &manifest(4, &["a"])).unwrap();
    let row = row(4, written);
    let read = |row: &CheckpointRow| read_manifest(folder.path(), row);
    read(&row).unwrap();
    let refused = |row: CheckpointRow| assert!(read(&row).is_err(), "{row:?}");
    refused(CheckpointRow { epoch: 5, ..row.clone() });
    refused(CheckpointRow { hash: [0; 32], ..row.clone() });
    refused(CheckpointRow { manifest: "../x".into(), ..row.clone() });
    refused(CheckpointRow { manifest: "gone".into(), ..row.clone() });
    // Whole, and wrong all the same.
    let mut wrong = manifest(4, &["a"]);
    wrong.states[0].shards.push(ShardRow { shard: 1, pack: 0, rows: 1, bytes: 1 });
    let row = self::row(4, write_manifest(folder.path(), &wrong).unwrap());
    assert!(read(&row).unwrap_err().to_string().contains("a pack that there is not"));
}

#[test]
fn what_belongs_to_no_checkpoint_is_deleted_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let mut kept = manifest(2, &["a"]);
    kept.put("a", &pack(path, "1.pack", &[(1, 5, b"x")], &[1]));
    let kept = row(2, write_manifest(path, &kept).unwrap());
    write_manifest(path, &manifest(1, &["a"])).unwrap();
    pack(path, "0.pack", &[], &[]);
    fs::write(path.join("9.pack.tmp"), b"half").unwrap();
    fs::write(path.join("notes.txt"), b"somebody's").unwrap();
    assert_eq!(sweep(path, std::slice::from_ref(&kept)).unwrap(), 3);
    let mut left: Vec<String> = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    left.sort();
    assert_eq!(left, ["1.pack", "2-1.manifest.json", "notes.txt"]);
    assert_eq!(sweep(&path.join("none"), &[]).unwrap(), 0);
}

#[test]
fn the_journal_keeps_two_checkpoints_and_none_of_an_epoch_that_is_not_finished() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::open(&folder.path().join("home")).unwrap();
    let mut journal = Journal::open(&home).unwrap();
    let with = |epoch| row(epoch, (format!("{epoch}.json"), [epoch as u8; 32]));
    let refused = journal.add_checkpoint("p", &with(1));
    assert!(matches!(refused, Err(JournalError::Invariant { .. })), "{refused:?}");
    crate::journal::tests::finish_some(&mut journal, "p", 5);
    for epoch in [1, 3, 5] {
        journal.add_checkpoint("p", &with(epoch)).unwrap();
    }
    assert_eq!(journal.checkpoints("p").unwrap(), [with(5), with(3)]);
    assert!(journal.add_checkpoint("p", &with(6)).is_err());
    journal.drop_checkpoints("p", &[5]).unwrap();
    assert_eq!(journal.checkpoints("p").unwrap(), [with(3)]);
    assert_eq!(journal.checkpoints("q").unwrap(), []);
    assert_eq!(
        [journal.last_committed("p").unwrap(), journal.last_committed("q").unwrap()],
        [5, 0]
    );
}
