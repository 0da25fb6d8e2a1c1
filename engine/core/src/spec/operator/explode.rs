//! Explode: what an `explode` says, as written. Derived.

use tidemill_operators::explode::List;

use crate::diagnostic::Mistakes;
use crate::spec::operator::BodySpec;
use crate::spec::read::{self, Entries};
use crate::spec::tree::Node;

/// The longest separator, in bytes.
const SEPARATOR_BYTES_MAX: usize = 64;

/// Reads the body of an `explode`.
pub(super) fn read(node: Node, mistakes: &mut Mistakes<'_>) -> Option<BodySpec> {
    let mut entries = Entries::open(node, "`explode`", mistakes)?;
    let column = entries.require("column", mistakes);
    let split = entries.take("split");
    let json = entries.take("json");
    let element = entries.take("as");
    if split.is_none() && json.is_none() && entries.rest().next().is_none() {
        let hint = "`split: \",\"` for elements between separators, `json: true` for a JSON array";
        let message = "`explode` needs to know how the list is written".to_owned();
        entries.wrong(mistakes, message, Some(hint.to_owned()));
    }
    entries.finish(mistakes);
    let list = match (split, json) {
        (Some(_), Some(second)) => {
            let message = "a list has `split` or is `json`, not both";
            mistakes.add(second.owner, &second.path, message, None);
            None
        }
        (Some(node), None) => read::text(node, "`split`", mistakes).and_then(|separator| {
            let length = separator.text.len();
            if (1..=SEPARATOR_BYTES_MAX).contains(&length) {
                return Some(List::Split(separator.text));
            }
            let message = match length {
                0 => "`split` is empty".to_owned(),
                _ => format!("`split` is longer than {SEPARATOR_BYTES_MAX} bytes"),
            };
            separator.wrong(mistakes, message, Some("for example `split: \",\"`".to_owned()));
            None
        }),
        (None, Some(node)) => {
            read::choice(node, "`json`", &[("true", ())], mistakes).map(|()| List::Json)
        }
        (None, None) => None,
    };
    let element = element.map(|node| {
        let name = read::text(node, "`as`", mistakes)?;
        read::check_column_name(&name, mistakes);
        Some(name)
    });
    let column = column.and_then(|node| read::text(node, "`column`", mistakes));
    let element = match element {
        Some(element) => Some(element?),
        None => None,
    };
    Some(BodySpec::Explode { column: column?, list: list?, element })
}
