//! What a claim promises, one fact per test.

use super::*;
use crate::home::Home;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

fn given() -> (tempfile::TempDir, Folders) {
    let folder = tempfile::tempdir().unwrap();
    let folders = Home::open(&folder.path().join("home")).unwrap().pipeline("p").unwrap();
    (folder, folders)
}

fn drop_file(folders: &Folders, name: &str, bytes: &str) -> PathBuf {
    let path = folders.unprocessed.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

fn count(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

#[test]
fn a_claimed_file_is_in_underprocess_with_its_id() {
    let (_folder, folders) = given();
    let path = drop_file(&folders, "-a b.csv", "hello");
    let claimed = claim(&folders, OsStr::new("-a b.csv"), 42).unwrap();
    assert_eq!(claimed.claimed_name, "42-a_b.csv");
    assert_eq!(claimed.path, folders.underprocess.join("42-a_b.csv"));
    assert_eq!(claimed.identity.bytes, 5);
    assert_eq!(claimed.identity.inode, fs::metadata(&claimed.path).unwrap().ino());
    assert_eq!(super::super::hash(&claimed.file).unwrap(), *blake3::hash(b"hello").as_bytes());
    assert!(!path.exists());
}

#[test]
fn a_file_that_is_gone_is_skipped() {
    let (_folder, folders) = given();
    let result = claim(&folders, OsStr::new("a"), 1);
    assert!(matches!(result, Err(ClaimError::Gone { .. })));
}

#[test]
fn what_is_no_file_is_never_opened_and_stays_where_it_is() {
    let (_folder, folders) = given();
    symlink("/etc/passwd", folders.unprocessed.join("link")).unwrap();
    fs::create_dir(folders.unprocessed.join("folder")).unwrap();
    // Opening a pipe for reading would wait for a writer: that this test ends is the promise.
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let pipe = folders.unprocessed.join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, mode).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(folders.unprocessed.join("socket"));
    for (name, expected) in [
        ("link", "a symbolic link"),
        ("folder", "a folder"),
        ("pipe", "a pipe"),
        ("socket", "a socket"),
    ] {
        match claim(&folders, OsStr::new(name), 1) {
            Err(ClaimError::NotAFile { kind, .. }) => assert_eq!(kind, expected),
            other => panic!("{name}: {other:?}"),
        }
        assert!(fs::symlink_metadata(folders.unprocessed.join(name)).is_ok());
    }
    assert_eq!(count(&folders.underprocess), 0);
}

#[test]
fn a_file_with_another_name_elsewhere_is_left() {
    let (folder, folders) = given();
    let path = drop_file(&folders, "a", "a");
    fs::hard_link(&path, folder.path().join("elsewhere")).unwrap();
    let result = claim(&folders, OsStr::new("a"), 1);
    assert!(matches!(result, Err(ClaimError::HardLinked { links: 2, .. })), "{result:?}");
    assert!(path.exists());
}

#[test]
fn a_file_swapped_between_look_and_move_goes_back_unread() {
    let (folder, folders) = given();
    let path = drop_file(&folders, "a", "good");
    let result = take(&path, &folders, "a", "1-a".into(), || {
        fs::rename(&path, folder.path().join("kept")).unwrap();
        symlink("/etc/passwd", &path).unwrap();
    });
    assert!(matches!(result, Err(ClaimError::Swapped { .. })), "{result:?}");
    assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
    assert_eq!(count(&folders.underprocess), 0);
}

#[test]
fn a_file_removed_between_look_and_move_is_gone() {
    let (_folder, folders) = given();
    let path = drop_file(&folders, "a", "a");
    let result = take(&path, &folders, "a", "1-a".into(), || fs::remove_file(&path).unwrap());
    assert!(matches!(result, Err(ClaimError::Gone { .. })), "{result:?}");
}

#[test]
fn a_claim_never_replaces_another() {
    let (_folder, folders) = given();
    drop_file(&folders, "a", "first");
    claim(&folders, OsStr::new("a"), 1).unwrap();
    let path = drop_file(&folders, "a", "second");
    assert!(matches!(claim(&folders, OsStr::new("a"), 1), Err(ClaimError::Refused { .. })));
    assert_eq!(fs::read(path).unwrap(), b"second");
    assert_eq!(fs::read(folders.underprocess.join("1-a")).unwrap(), b"first");
}

#[test]
fn a_bad_name_is_left_where_it_is() {
    let (_folder, folders) = given();
    let path = drop_file(&folders, "two\nlines", "a");
    match claim(&folders, OsStr::new("two\nlines"), 1) {
        Err(error @ ClaimError::Name { .. }) => assert!(error.to_string().contains("two\\nlines")),
        other => panic!("{other:?}"),
    }
    assert!(path.exists());
}

#[test]
fn a_file_that_may_not_be_read_does_not_stop_the_others() {
    let (_folder, folders) = given();
    let path = drop_file(&folders, "a", "a");
    fs::set_permissions(&path, PermissionsExt::from_mode(0o000)).unwrap();
    match claim(&folders, OsStr::new("a"), 1) {
        Err(ClaimError::Unreadable { .. }) => assert!(path.exists()),
        Ok(_) => {} // root may read everything
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_released_file_goes_back_and_replaces_nothing() {
    let (_folder, folders) = given();
    for (id, expected) in [(1, "a.csv"), (2, "a~2.csv"), (3, "a~3.csv")] {
        fs::write(folders.underprocess.join(format!("{id}-a.csv")), expected).unwrap();
        let path = folders.underprocess.join(format!("{id}-a.csv"));
        assert_eq!(put_back(&folders, &path, "a.csv").unwrap(), folders.unprocessed.join(expected));
        assert_eq!(fs::read_to_string(folders.unprocessed.join(expected)).unwrap(), expected);
    }
    drop_file(&folders, "b", "b");
    let claimed = claim(&folders, OsStr::new("b"), 4).unwrap();
    release(&folders, &claimed, "b").unwrap();
    assert!(folders.unprocessed.join("b").exists());
}

#[test]
fn an_upload_is_claimed_out_of_the_spool() {
    let (folder, folders) = given();
    let spooled = folder.path().join("home/spool/u1");
    fs::write(&spooled, "up").unwrap();
    let claimed = claim_upload(&folders, &spooled, OsStr::new("März.csv"), 5, None).unwrap();
    assert_eq!(claimed.claimed_name, "5-M_rz.csv");
    assert!(!spooled.exists());
    let again = claim_upload(&folders, &spooled, OsStr::new("März.csv"), 6, None);
    assert!(matches!(again, Err(ClaimError::Gone { .. })));
}

#[test]
fn a_name_that_its_slug_cannot_tell_is_found_again() {
    let (_folder, folders) = given();
    drop_file(&folders, "März 1.csv", "a");
    let claimed = claim(&folders, OsStr::new("März 1.csv"), 5).unwrap();
    let name = original_name(&claimed.path, &claimed.claimed_name);
    // File systems without attributes give the slug.
    assert!(name == "März 1.csv" || name == "M_rz_1.csv", "{name}");
    drop_file(&folders, "plain.csv", "a");
    let claimed = claim(&folders, OsStr::new("plain.csv"), 6).unwrap();
    assert_eq!(original_name(&claimed.path, &claimed.claimed_name), "plain.csv");
}

#[test]
fn a_forged_name_attribute_is_not_believed() {
    let (_folder, folders) = given();
    drop_file(&folders, "a", "a");
    let claimed = claim(&folders, OsStr::new("a"), 5).unwrap();
    for forged in ["../../etc/passwd", "b", ".hidden", ""] {
        let bytes = forged.as_bytes();
        let _ = rustix::fs::fsetxattr(&claimed.file, NAME_ATTRIBUTE, bytes, XattrFlags::empty());
        assert_eq!(original_name(&claimed.path, &claimed.claimed_name), "a");
    }
}
