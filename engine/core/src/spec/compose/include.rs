//! Include: reads the files that a pipeline file includes, and those that they include. Derived; bounds
//! their number, depth and size, and never decides where a path may lead.

use std::collections::HashSet;

use crate::diagnostic::{Mistakes, Place, quoted};
use crate::spec::compose::SECTIONS;
use crate::spec::read;
use crate::spec::surroundings::Surroundings;
use crate::spec::tree::{self, Node, Value};

/// How deep files may include each other.
const DEPTH_MAX: usize = 8;
/// How many files one pipeline may have.
const FILES_MAX: usize = 64;
/// How many bytes all files of a pipeline may have together.
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// Returns the included files, each before the one that includes it; `None` when one of them cannot be had.
pub(super) fn gather(
    root: &Node,
    surroundings: &dyn Surroundings,
    mistakes: &mut Mistakes<'_>,
) -> Option<Vec<Node>> {
    let (id, name) = match surroundings.file() {
        Some((id, name)) => (Some(id), name),
        None => (None, "the pipeline file".to_owned()),
    };
    let mut gathering = Gathering {
        surroundings,
        files: Vec::new(),
        seen: id.iter().cloned().collect(),
        chain: vec![Link { id, name }],
        whole: true,
    };
    gathering.visit(root, mistakes);
    gathering.whole.then_some(gathering.files)
}

/// One file on the way to the one that is read.
struct Link {
    id: Option<String>,
    name: String,
}

struct Gathering<'s> {
    surroundings: &'s dyn Surroundings,
    files: Vec<Node>,
    seen: HashSet<String>,
    chain: Vec<Link>,
    whole: bool,
}

impl Gathering<'_> {
    /// Reads what a file includes.
    fn visit(&mut self, file: &Node, mistakes: &mut Mistakes<'_>) {
        let Value::Map(entries) = &file.value else { return };
        let mut includes = entries.iter().filter(|(key, _)| key.name == "include");
        let Some((_, include)) = includes.next() else { return };
        if let Some((key, second)) = includes.next() {
            let hint = "put all files into one list".to_owned();
            mistakes.add(key.place, &second.path, "`include` stands twice here", hint);
            self.whole = false;
        }
        let Some(paths) = read::texts(include.clone(), "`include`", mistakes) else {
            self.whole = false;
            return;
        };
        read::check_once(&paths, mistakes);
        for path in paths {
            if self.one(&path, mistakes).is_none() {
                self.whole = false;
            }
        }
    }

    /// Reads one file, unless it was read already; `None` when it cannot be had.
    fn one(&mut self, path: &read::Text, mistakes: &mut Mistakes<'_>) -> Option<()> {
        if path.text.contains("${") {
            let hint = "write the path out".to_owned();
            path.wrong(mistakes, "a path of `include` takes no parameters", hint);
            return None;
        }
        let from = self.chain.last().and_then(|link| link.id.as_deref());
        let found = match self.surroundings.include(&path.text, from) {
            Ok(found) => found,
            Err(refusal) => {
                let message =
                    format!("{} cannot be included: {}", quoted(&path.text), refusal.message);
                path.wrong(mistakes, message, refusal.hint);
                return None;
            }
        };
        if let Some(at) = self.chain.iter().position(|link| link.id.as_ref() == Some(&found.id)) {
            let circle = self.chain.iter().skip(at).map(|link| link.name.as_str());
            let circle: Vec<&str> = circle.chain([found.name.as_str()]).collect();
            let message =
                format!("the files include each other in a circle: {}", circle.join(" -> "));
            path.wrong(mistakes, message, Some("take this one out".to_owned()));
            return None;
        }
        if !self.seen.insert(found.id.clone()) {
            return Some(()); // two ways lead to it; it counts once
        }
        let too_much = if self.chain.len() > DEPTH_MAX {
            Some(format!("files include each other more than {DEPTH_MAX} deep"))
        } else if self.seen.len() > FILES_MAX {
            Some(format!("a pipeline has more than {FILES_MAX} files"))
        } else if mistakes.yaml().len() + found.text.len() > BYTES_MAX {
            Some(format!("the files of a pipeline have more than {BYTES_MAX} bytes together"))
        } else {
            None
        };
        if let Some(message) = too_much {
            path.wrong(mistakes, message, None);
            return None;
        }
        let part = mistakes.attach(&found.name, &found.text);
        let start = part.start;
        let file = tree::read_part(part, mistakes)?;
        check_keys(&file, start, mistakes)?;
        self.chain.push(Link { id: Some(found.id), name: found.name });
        self.visit(&file, mistakes);
        self.chain.pop();
        self.files.push(file);
        Some(())
    }
}

/// Notes what only the pipeline file itself may hold.
fn check_keys(file: &Node, start: usize, mistakes: &mut Mistakes<'_>) -> Option<()> {
    let Value::Map(entries) = &file.value else {
        let message =
            format!("an included file is a map (`key: value`), not {}", file.value.what());
        mistakes.add(Place { start, len: 1 }, "", message, None);
        return None;
    };
    let mut seen = HashSet::new();
    for (key, node) in entries {
        let taken = SECTIONS.iter().chain(&["include"]).copied();
        if !taken.clone().any(|section| section == key.name) {
            let message = format!("an included file has no {}", quoted(&key.name));
            let hint = if key.name == "pipeline" {
                Some("the pipeline file has the name, for all that it includes".to_owned())
            } else {
                mistakes.nearest_hint(&key.name, taken, "it takes")
            };
            mistakes.add(key.place, &node.path, message, hint);
        } else if !seen.insert(&key.name) {
            let message = format!("{} stands twice here", quoted(&key.name));
            mistakes.add(key.place, &node.path, message, Some("keep one of them".to_owned()));
        }
    }
    Some(())
}
