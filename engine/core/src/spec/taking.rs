//! Taking: which of the files that lie there a source takes, in which order, and which of them count
//! as the same. As written, and as it is used. Derived.
//!
//! None of it but [`Arrival`] changes what becomes of a file that is taken, so it is no part of a plan's
//! hash.

use tidemill_store::Dedupe;

use crate::diagnostic::Mistakes;
use crate::retry::Policy;
use crate::spec::arrival::Arrival;
use crate::spec::correcting::{self, Correcting};
use crate::spec::read::{self, Entries};
use crate::spec::source::check_globs;

/// Names that are passed over when `ignore` is not given: files that are still being made, and what
/// editors and browsers leave. A name that begins with a dot is always passed over.
const IGNORED_DEFAULT: [&str; 8] =
    ["~*", "*~", "*.tmp", "*.part", "*.partial", "*.swp", "*.filepart", "*.crdownload"];

/// The bounds of `priority`.
const PRIORITY_BOUNDS: (i32, i32) = (-1000, 1000);

/// In which order a source takes files that wait together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// As they were seen; those that were seen at once by their names.
    #[default]
    Arrival,
    /// By their names, byte by byte.
    Name,
    /// By when they were last written, then by their names.
    Modified,
}

/// How a source takes files.
#[derive(Clone, Debug, PartialEq)]
pub struct Taking {
    /// Which of its files count as the same.
    pub dedupe: Dedupe,
    /// In which order it takes those that wait together.
    pub order: Order,
    /// Files of sources with a higher one are taken first.
    pub priority: i32,
    /// Globs over names that it passes over.
    pub ignore: Vec<String>,
    /// Whether and how its files may be replaced and removed later.
    pub correcting: Correcting,
    /// How reading one of them is tried again when it fails.
    pub retry: Policy,
    /// What must be there before one of them is taken.
    pub arrival: Arrival,
}

impl Default for Taking {
    fn default() -> Self {
        Self {
            dedupe: Dedupe::None,
            order: Order::Arrival,
            priority: 0,
            ignore: IGNORED_DEFAULT.map(str::to_owned).to_vec(),
            correcting: Correcting::default(),
            retry: Policy::STANDARD,
            arrival: Arrival::default(),
        }
    }
}

/// Reads how a source takes files.
pub(super) fn parse(entries: &mut Entries, mistakes: &mut Mistakes<'_>) -> Taking {
    let mut taking = Taking::default();
    if let Some(node) = entries.take("dedupe") {
        let choices =
            [("none", Dedupe::None), ("name", Dedupe::Name), ("content", Dedupe::Content)];
        taking.dedupe = read::choice(node, "`dedupe`", &choices, mistakes).unwrap_or_default();
    }
    if let Some(node) = entries.take("order") {
        let choices =
            [("arrival", Order::Arrival), ("name", Order::Name), ("mtime", Order::Modified)];
        taking.order = read::choice(node, "`order`", &choices, mistakes).unwrap_or_default();
    }
    if let Some(node) = entries.take("priority")
        && let Some(written) = read::text(node, "`priority`", mistakes)
    {
        let (least, most) = PRIORITY_BOUNDS;
        match written.text.parse::<i32>() {
            Ok(priority) if (least..=most).contains(&priority) => taking.priority = priority,
            _ => {
                let message = format!("`priority` cannot be {:?}", written.text);
                let hint =
                    format!("it is a whole number from {least} to {most}; higher goes first");
                written.wrong(mistakes, message, Some(hint));
            }
        }
    }
    if let Some(node) = entries.take("ignore")
        && let Some(globs) = read::texts(node, "`ignore`", mistakes)
    {
        check_globs(&globs, mistakes);
        taking.ignore = globs.into_iter().map(|glob| glob.text).collect();
    }
    taking.correcting = correcting::parse(entries, taking.dedupe, mistakes);
    taking
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan;

    fn yaml(settings: &str) -> String {
        format!(
            "pipeline: p\nsources:\n  a: {{ format: text{settings} }}\nsinks:\n  \
             o: {{ from: a, files: {{ format: raw }} }}\n"
        )
    }

    #[track_caller]
    fn check(settings: &str, expected: &Taking) {
        let plan = plan::plan(&yaml(settings)).unwrap();
        assert_eq!(plan.sources[0].taking, *expected, "{settings}");
        let plain = plan::plan(&yaml("")).unwrap();
        assert_eq!(plan.hash, plain.hash, "it does not change what becomes of a file");
    }

    #[track_caller]
    fn check_mistake(settings: &str, said: &str) {
        let mistakes = plan::plan(&yaml(settings)).unwrap_err();
        let all: Vec<String> = mistakes.iter().map(|mistake| format!("{mistake:?}")).collect();
        assert!(all.join("\n").contains(said), "{settings}: {all:?}");
    }

    #[test]
    fn a_source_says_how_it_takes_files() {
        let default = Taking::default();
        check("", &default);
        check(", dedupe: none, order: arrival, priority: 0", &default);
        check(", dedupe: name", &Taking { dedupe: Dedupe::Name, ..default.clone() });
        check(", dedupe: content", &Taking { dedupe: Dedupe::Content, ..default.clone() });
        check(", order: mtime", &Taking { order: Order::Modified, ..default.clone() });
        check(", order: name", &Taking { order: Order::Name, ..default.clone() });
        check(", priority: -7", &Taking { priority: -7, ..default.clone() });
        check(", ignore: []", &Taking { ignore: vec![], ..default.clone() });
        check(", ignore: \"*.bak\"", &Taking { ignore: vec!["*.bak".into()], ..default });
    }

    #[test]
    fn what_cannot_be_meant_is_told() {
        check_mistake(", dedupe: hash", "`dedupe` cannot be");
        check_mistake(", order: size", "`order` cannot be");
        check_mistake(", priority: high", "`priority` cannot be");
        check_mistake(", priority: 1001", "from -1000 to 1000");
        check_mistake(", ignore: [\"a/b\"]", "not its path");
    }
}
