//! What the disk in memory promises, one fact per test: it must be cruel, and never crueller than a
//! disk may be.

use super::*;

/// A folder with `a/` and `b/`, all durable, and the calls that follow.
struct Given {
    folder: tempfile::TempDir,
    disk: Disk,
}

impl Given {
    fn new() -> Given {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a", "b"] {
            fs::create_dir_all(folder.path().join("disk").join(name)).unwrap();
        }
        let disk = Disk::load(&folder.path().join("disk"), &Looks::new());
        Given { folder, disk }
    }

    fn path(&self, name: &str) -> String {
        self.disk.root.join(name).to_str().unwrap().to_owned()
    }

    fn play(&mut self, inode: u64, name: &str, what: What) {
        let path = self.path(name);
        self.disk.play(&Entry { what, inode, modified_ns: 1, when_us: 1, path });
    }

    fn write(&mut self, inode: u64, name: &str, bytes: &str) {
        self.play(inode, name, What::Create);
        self.play(inode, name, What::Write { at: 0, bytes: bytes.into() });
    }

    fn sync_folder(&mut self, name: &str) {
        let inode = fs::metadata(self.disk.root.join(name)).unwrap().ino();
        self.play(inode, name, What::Sync);
    }

    /// Returns what is left: names with their bytes.
    fn left(&self, survival: Survival, seed: u64) -> Tree {
        let target = self.folder.path().join("left");
        self.disk.cut(survival, &mut Dice::new(seed), &target);
        let left = crate::tree::read(&target);
        fs::remove_dir_all(&target).unwrap();
        left
    }

    #[track_caller]
    fn check(&self, survival: Survival, expected: &[(&str, &str)]) {
        let expected: Tree =
            expected.iter().map(|(name, text)| ((*name).into(), text.as_bytes().into())).collect();
        assert_eq!(self.left(survival, 1), expected);
    }
}

/// No inode of the file system that the tests run on.
const FILE: u64 = u64::MAX - 1;
const OTHER: u64 = u64::MAX - 2;

#[test]
fn what_was_not_synced_may_be_lost_or_kept() {
    let mut given = Given::new();
    given.write(FILE, "a/x", "hello");
    given.check(Survival::Nothing, &[]);
    given.check(Survival::Everything, &[("a/x", "hello")]);
}

#[test]
fn bytes_need_their_own_sync_and_names_that_of_their_folder() {
    let mut given = Given::new();
    given.write(FILE, "a/x", "hello");
    given.sync_folder("a");
    given.check(Survival::Nothing, &[("a/x", "")]);
    given.play(FILE, "a/x", What::Sync);
    given.check(Survival::Nothing, &[("a/x", "hello")]);
    given.write(OTHER, "b/y", "there");
    given.play(OTHER, "b/y", What::Sync);
    given.check(Survival::Nothing, &[("a/x", "hello")]);
    given.play(OTHER, "b/y", What::SyncAll);
    given.check(Survival::Nothing, &[("a/x", "hello"), ("b/y", "there")]);
}

#[test]
fn what_a_failed_sync_lost_no_later_sync_brings_back() {
    let mut given = Given::new();
    given.write(FILE, "a/x", "hello");
    given.sync_folder("a");
    given.play(FILE, "a/x", What::SyncLost { all: false });
    given.play(FILE, "a/x", What::Write { at: 5, bytes: b" you".to_vec() });
    given.play(FILE, "a/x", What::Sync);
    given.check(Survival::Everything, &[("a/x", "\0\0\0\0\0 you")]);
    given.play(FILE, "a/x", What::Write { at: 0, bytes: b"again".to_vec() });
    given.play(FILE, "a/x", What::Sync);
    given.check(Survival::Nothing, &[("a/x", "again you")]);
}

#[test]
fn a_file_that_moves_is_always_in_exactly_one_place() {
    let mut given = Given::new();
    given.write(FILE, "a/x", "hello");
    given.play(FILE, "a/x", What::SyncAll);
    given.play(FILE, "a/x", What::Rename(given.path("b/x")));
    given.play(FILE, "b/x", What::Rename(given.path("b/y")));
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let left = given.left(Survival::ByChance, seed);
        assert_eq!(left.len(), 1, "{left:?}");
        seen.extend(left.into_keys());
    }
    assert_eq!(seen, BTreeSet::from(["a/x", "b/x", "b/y"].map(str::to_owned)));
    // Either folder makes both ends of a move durable, and what came before it.
    given.sync_folder("b");
    given.check(Survival::Nothing, &[("b/y", "hello")]);
}

#[test]
fn a_file_that_is_replaced_is_the_old_one_or_the_new_one() {
    let mut given = Given::new();
    given.write(FILE, "a/x", "old");
    given.play(FILE, "a/x", What::SyncAll);
    given.write(OTHER, "a/x.tmp", "new");
    given.play(OTHER, "a/x.tmp", What::Sync);
    given.play(OTHER, "a/x.tmp", What::Rename(given.path("a/x")));
    for seed in 0..200 {
        let left = given.left(Survival::ByChance, seed);
        let bytes = String::from_utf8(left["a/x"].clone()).unwrap();
        assert!(bytes == "old" || bytes == "new" && left.len() == 1, "{left:?}");
    }
}

#[test]
fn nothing_is_in_a_folder_that_is_not_there() {
    let mut given = Given::new();
    given.write(FILE, "a/x", "hello");
    given.play(FILE, "a/x", What::SyncAll);
    given.play(OTHER, "b/new", What::MakeFolder);
    given.play(FILE, "a/x", What::Rename(given.path("b/new/x")));
    for seed in 0..200 {
        assert_eq!(given.left(Survival::ByChance, seed).len(), 1);
    }
}

#[test]
fn bytes_that_were_not_synced_may_be_cut_off_or_zero_but_never_others() {
    let mut given = Given::new();
    given.write(FILE, "a/x", "hello");
    given.play(FILE, "a/x", What::Write { at: 5, bytes: b" you".to_vec() });
    given.sync_folder("a");
    let mut seen = BTreeSet::new();
    for seed in 0..500 {
        let bytes = given.left(Survival::ByChance, seed).remove("a/x").unwrap();
        assert!(bytes.iter().zip(b"hello you").all(|(one, whole)| one == whole || *one == 0));
        seen.insert(bytes);
    }
    assert!(seen.len() > 6, "{seen:?}");
    assert!(seen.contains(b"\0\0\0\0\0 you".as_slice()), "{seen:?}");
}
