//! What can be armed, when it is due, and that the code and the list of names agree.

use super::*;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

#[track_caller]
fn check_parsed(text: &str, expected: &[(Option<usize>, &str, u64, Action)]) {
    let parsed = parse(text).unwrap();
    let parsed: Vec<_> = parsed
        .iter()
        .map(|(process, armed)| (*process, armed.name, armed.turn, armed.action))
        .collect();
    assert_eq!(parsed, expected, "{text}");
}

#[test]
fn a_failpoint_is_armed_by_its_name() {
    check_parsed("", &[]);
    check_parsed(" ; ", &[]);
    check_parsed("claim-renamed=kill", &[(None, "claim-renamed", 1, Action::Kill)]);
    check_parsed("any@7=error", &[(None, ANY, 7, Action::Error)]);
    check_parsed(
        "process=1:part-written@3=pause; commit-durable=error;commit-begin=panic",
        &[
            (Some(1), "part-written", 3, Action::Pause),
            (None, "commit-durable", 1, Action::Error),
            (None, "commit-begin", 1, Action::Panic),
        ],
    );
}

#[test]
fn what_cannot_be_armed_is_told() {
    let forms = [
        "claim-renamed",
        "claim-renamed=explode",
        "claim-renamed@0=kill",
        "claim-renamed@x=kill",
        "claim-renamed@-1=kill",
        "process=x:claim-renamed=kill",
        "process=1",
        "=",
    ];
    for text in forms {
        assert_eq!(check(text), Err(FailpointError::Form { part: text.into() }));
    }
    for name in ["claim", "", "CLAIM-RENAMED"] {
        let error = check(&format!("{name}=kill")).unwrap_err();
        assert_eq!(error, FailpointError::Unknown { name: name.into() });
        assert!(error.to_string().contains("claim-renamed"), "{error}");
    }
    let many = "claim-renamed=kill;".repeat(ARMED_MAX + 1);
    assert_eq!(check(&many), Err(FailpointError::Many { count: ARMED_MAX + 1 }));
}

#[test]
fn a_failpoint_is_due_once() {
    let due = |turn| {
        let armed = Armed { name: "x", turn, action: Action::Error, reached: AtomicU64::new(0) };
        (1..=5).filter(|_| armed.is_due()).count()
    };
    assert_eq!([due(1), due(5), due(6)], [1, 1, 0]);
    let third = Armed { name: "x", turn: 3, action: Action::Error, reached: AtomicU64::new(0) };
    assert_eq!([(); 4].map(|()| third.is_due()), [false, false, true, false]);
}

/// Returns how often each name is reached in the code of the engine, and where.
fn reached() -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::new();
    let engine = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    gather(engine, &mut found);
    found
}

fn gather(folder: &Path, found: &mut BTreeMap<String, Vec<String>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            gather(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs")
            && !path.ends_with("failpoint.rs")
            && !path.ends_with("failpoint/tests.rs")
        {
            let text = fs::read_to_string(&path).unwrap();
            for call in text.split("failpoint::reach(").skip(1) {
                let quoted =
                    call.trim_start().strip_prefix('"').and_then(|rest| rest.split_once('"'));
                let name = quoted.map_or("(not a literal)", |(name, _)| name).to_owned();
                found.entry(name).or_default().push(path.display().to_string());
            }
        }
    }
}

#[test]
fn every_name_is_reached_from_one_place_and_no_other_name_is() {
    let reached = reached();
    let mut wrong: Vec<String> = Vec::new();
    for name in NAMES {
        match reached.get(*name).map_or(&[][..], Vec::as_slice) {
            [_] => {}
            [] => wrong.push(format!("{name} is reached nowhere")),
            many => wrong.push(format!("{name} is reached from several places: {many:?}")),
        }
    }
    for (name, places) in &reached {
        if !NAMES.contains(&name.as_str()) {
            wrong.push(format!("{name:?} is not in NAMES: {places:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_trace_has_a_byte_for_each_name() {
    assert!(NAMES.len() <= usize::from(u8::MAX));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace");
    assert_eq!(read_trace(&path, 0).unwrap(), [""; 0]);
    fs::write(folder.path().join("trace.2"), [1, 0, 1]).unwrap();
    assert_eq!(read_trace(&path, 2).unwrap(), [NAMES[1], NAMES[0], NAMES[1]]);
    fs::write(folder.path().join("trace.2"), [255]).unwrap();
    assert_eq!(read_trace(&path, 2).unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[test]
fn names_are_words_between_hyphens() {
    for name in NAMES {
        let plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
        assert!(plain && !name.starts_with('-') && !name.ends_with('-'), "{name}");
    }
}
