//! A torture that finds nothing proves nothing unless it finds what is wrong: programs that are not
//! exactly once, in a few lines of shell.

use super::*;
use crate::torture::script::plain;
use std::os::unix::fs::PermissionsExt;

/// Tortures a program that takes the files of `$in` one by one; returns what was found.
#[track_caller]
fn tally(body: &str) -> Tally {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("program");
    // What a killed shell had begun goes on without it: its next life waits for that by a lock.
    let script = format!(
        "#!/bin/sh\nset -e\nhome=$4\nin=$home/p/unprocessed\nout=$home/p/out/s\n\
         exec 9>$home.lock\nflock 9\n\
         mkdir -p $out $home/p/processed\n\
         for path in $in/*; do\n[ -e $path ] || continue\nname=$(basename $path)\n{body}\ndone\n"
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
    let mut inputs = BTreeMap::new();
    for n in 0..6 {
        let path = folder.path().join(format!("in-{n}"));
        std::fs::write(&path, format!("line {n}\n")).unwrap();
        inputs.insert(format!("in-{n}"), path);
    }
    let script = plain(&inputs);
    let subject = Subject {
        script,
        program,
        yaml: folder.path().join("p.yaml"),
        temporary: folder.path().to_path_buf(),
        pipeline: "p".to_owned(),
        inputs,
    };
    let wish = Wish { kills: 40, points: false, keep: false };
    let shape = Shape { processes: 1, workers: 1 };
    let ground = folder.path().join("ground");
    let campaign = Campaign::begin(&subject, shape, ground, &wish, Dice::new(3)).unwrap();
    campaign.run().unwrap()
}

#[test]
fn a_program_that_repeats_its_work_without_harm_passes() {
    let found = tally(
        "cp $path $out/.$name; mv $out/.$name $out/$name; sleep 0.01; mv $path $home/p/processed/",
    );
    // A copy that was not moved is found too, if a kill hits between two commands; that is rare.
    assert_eq!((found.lost, found.doubled, found.different, found.failed), (0, 0, 0, 0));
    assert!(found.kills > 5, "{found:?}");
}

#[test]
fn a_program_that_doubles_is_found_out() {
    let found = tally("cat $path >> $out/all; sleep 0.02; mv $path $home/p/processed/");
    assert!(!found.is_equal() && found.different > 0, "{found:?}");
    let (told, kept) = (&found.differences[0], &found.kept[0]);
    assert!(told.contains("out/s/all") && told.contains(kept.to_str().unwrap()), "{told}");
}

#[test]
fn a_program_that_loses_is_found_out() {
    let found =
        tally("mv $path $home/p/processed/; sleep 0.02; cp $home/p/processed/$name $out/$name");
    assert!(!found.is_equal() && found.lost > 0, "{found:?}");
}

#[test]
fn a_program_that_leaves_something_behind_is_found_out() {
    let found = tally(
        "mkdir -p $home/stage; cp $path $home/stage/$$; sleep 0.02; mv $home/stage/$$ $out/$name; \
         mv $path $home/p/processed/",
    );
    assert!(!found.is_equal() && found.left > 0, "{found:?}");
}

#[test]
fn a_program_that_fails_by_itself_is_found_out() {
    let found = tally(
        "[ ! -e $home/mark ] || { echo the words; exit 70; }; touch $home/mark; sleep 0.02; \
         mv $path $home/p/processed/; rm $home/mark",
    );
    assert!(!found.is_equal() && found.failed > 0, "{found:?}");
    assert!(found.differences.iter().any(|told| told.contains("the words")), "{found:?}");
}
