//! Correcting: whether and how the files of a source may be replaced and removed later. As written,
//! and as it is used. Derived.

use crate::diagnostic::Mistakes;
use crate::spec::read::{self, Entries};
use crate::spec::tree::{Node, Value};
use tidemill_store::Dedupe;

/// The bounds of `corrections: { days: N }`.
const DAYS_BOUNDS: (u32, u32) = (1, 36_500);

/// What becomes of a file whose name its source took before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnSameName {
    /// It is one more file.
    #[default]
    New,
    /// It takes the place of the newest current one.
    Replace,
}

/// What follows when somebody deletes a committed input from `processed/`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDelete {
    /// Nothing.
    #[default]
    Ignore,
    /// It is removed: what came of it is taken back.
    Retract,
}

/// How long the bytes of committed inputs are there, so that they can be corrected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Retention {
    /// Nothing is corrected.
    Off,
    /// As long as they lie in `processed/`.
    #[default]
    Processed,
    /// For so many days, by a second name in `retained/`.
    Days(u32),
    /// For ever, by a second name in `retained/`.
    Forever,
}

impl Retention {
    /// Returns whether inputs get a second name in `retained/` when they are committed.
    pub const fn links(self) -> bool {
        matches!(self, Retention::Days(_) | Retention::Forever)
    }
}

/// How the files of a source are corrected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Correcting {
    /// What becomes of a file whose name was taken before.
    pub on_same_name: OnSameName,
    /// What follows from a deletion in `processed/`.
    pub on_delete: OnDelete,
    /// How long a correction is possible.
    pub retention: Retention,
    /// Whether its files are never replaced or removed.
    pub append_only: bool,
}

impl Correcting {
    /// Returns whether no file is ever replaced or removed, so that operators may keep less.
    pub fn is_final(&self) -> bool {
        self.append_only || self.retention == Retention::Off
    }
}

/// Reads how the files of a source are corrected.
pub(super) fn parse(
    entries: &mut Entries,
    dedupe: Dedupe,
    mistakes: &mut Mistakes<'_>,
) -> Correcting {
    let mut correcting = Correcting::default();
    if let Some(node) = entries.take("append_only") {
        correcting.append_only = read::flag(node, "`append_only`", mistakes).unwrap_or_default();
    }
    if let Some(node) = entries.take("corrections") {
        correcting.retention = retention(node, mistakes).unwrap_or_default();
    }
    let is_off = correcting.retention == Retention::Off;
    if let Some(node) = entries.take("on_same_name") {
        let choices = [("new", OnSameName::New), ("replace", OnSameName::Replace)];
        let (owner, path) = (node.owner, node.path.clone());
        let chosen = read::choice(node, "`on_same_name`", &choices, mistakes).unwrap_or_default();
        correcting.on_same_name = chosen;
        if chosen == OnSameName::Replace {
            let wrong = if correcting.append_only {
                Some("files of an `append_only` source are never replaced")
            } else if is_off {
                Some("with `corrections: off` nothing is replaced")
            } else if dedupe == Dedupe::Name {
                Some(
                    "a file of a name that was taken is a duplicate (`dedupe: name`) or a replacement, not both",
                )
            } else {
                None
            };
            if let Some(wrong) = wrong {
                mistakes.add(owner, &path, wrong, "leave out one of the two".to_owned());
            }
        }
    }
    if let Some(node) = entries.take("on_delete") {
        let choices = [("ignore", OnDelete::Ignore), ("retract", OnDelete::Retract)];
        let (owner, path) = (node.owner, node.path.clone());
        let chosen = read::choice(node, "`on_delete`", &choices, mistakes).unwrap_or_default();
        correcting.on_delete = chosen;
        if chosen == OnDelete::Retract && correcting.append_only {
            let wrong = "files of an `append_only` source are never removed";
            mistakes.add(owner, &path, wrong, "leave out one of the two".to_owned());
        } else if chosen == OnDelete::Retract && !correcting.retention.links() {
            let wrong =
                "the rows of a deleted file can be taken back only if its bytes are kept elsewhere";
            let hint = "say `corrections: forever`, or `corrections: { days: 30 }`".to_owned();
            mistakes.add(owner, &path, wrong, hint);
        }
    }
    correcting
}

fn retention(node: Node, mistakes: &mut Mistakes<'_>) -> Option<Retention> {
    if matches!(node.value, Value::Map(_)) {
        let mut entries = Entries::open(node, "`corrections`", mistakes)?;
        let days = entries.require("days", mistakes);
        entries.finish(mistakes);
        return read::number(days?, "`days`", DAYS_BOUNDS, mistakes).map(Retention::Days);
    }
    let choices = [
        ("off", Retention::Off),
        ("processed", Retention::Processed),
        ("forever", Retention::Forever),
    ];
    read::choice(node, "`corrections`", &choices, mistakes)
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
    fn check(settings: &str, expected: Correcting) {
        let plan = plan::plan(&yaml(settings)).unwrap();
        assert_eq!(plan.sources[0].taking.correcting, expected, "{settings}");
    }

    #[track_caller]
    fn check_mistake(settings: &str, said: &str) {
        let mistakes = plan::plan(&yaml(settings)).unwrap_err();
        let all: Vec<String> = mistakes.iter().map(|mistake| format!("{mistake:?}")).collect();
        assert!(all.join("\n").contains(said), "{settings}: {all:?}");
    }

    #[test]
    fn a_source_says_how_its_files_are_corrected() {
        let default = Correcting::default();
        check("", default);
        check(", on_same_name: new, on_delete: ignore, corrections: processed", default);
        check(
            ", on_same_name: replace",
            Correcting { on_same_name: OnSameName::Replace, ..default },
        );
        let days = Correcting { retention: Retention::Days(30), ..default };
        check(", corrections: { days: 30 }", days);
        check(
            ", corrections: { days: 30 }, on_delete: retract",
            Correcting { on_delete: OnDelete::Retract, ..days },
        );
        check(", corrections: off", Correcting { retention: Retention::Off, ..default });
        check(", corrections: forever", Correcting { retention: Retention::Forever, ..default });
        check(", append_only: true", Correcting { append_only: true, ..default });
    }

    #[test]
    fn what_cannot_be_meant_is_told() {
        check_mistake(", corrections: never", "`corrections` cannot be");
        check_mistake(", corrections: { days: 0 }", "`days`");
        check_mistake(", corrections: { weeks: 1 }", "weeks");
        check_mistake(", on_same_name: keep", "`on_same_name` cannot be");
        check_mistake(", on_delete: retract", "only if its bytes are kept elsewhere");
        check_mistake(", on_same_name: replace, append_only: true", "never replaced");
        check_mistake(", on_same_name: replace, corrections: off", "nothing is replaced");
        check_mistake(", on_same_name: replace, dedupe: name", "not both");
        let settings = ", append_only: true, corrections: forever, on_delete: retract";
        check_mistake(settings, "never removed");
    }
}
