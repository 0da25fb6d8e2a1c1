//! Lots: whether `split`, `sample` and `weighted` fit what arrives, and what they give. Derived.

use tidemill_operators::lots::LotsKind;

use crate::diagnostic::{Mistakes, quoted};
use crate::graph::OperatorKind;
use crate::graph::flow::Stream;
use crate::graph::operators::column::{every, named};
use crate::spec::{LotsSpec, OperatorSpec};

/// Returns what the operator does and the stream of its ports.
pub(super) fn check(
    operator: &OperatorSpec,
    lots: &LotsSpec,
    input: &Stream,
    mistakes: &mut Mistakes<'_>,
) -> (Option<OperatorKind>, Stream) {
    let word = lots.kind.word();
    if let Some(passed) = input.changed_by.as_deref().filter(|_| lots.by.is_empty()) {
        let message = format!(
            "`{word}` without a key draws records of files; the rows of {} are none",
            quoted(passed)
        );
        let hint = "say what is drawn, with `by: [...]`, or draw before it".to_owned();
        operator.name.wrong(mistakes, message, hint);
    }
    let schema = input.schema.as_ref();
    let by = schema.and_then(|schema| every(&lots.by, |column| named(column, schema, mistakes)));
    // A split is by the hash of its key and nothing else, so that it is the same everywhere.
    let seed = match (lots.kind, &lots.seed) {
        (LotsKind::Split, _) => None,
        (_, Some(seed)) => Some(seed.text.clone()),
        (_, None) => Some(operator.name.text.clone()),
    };
    let kind = by.map(|by| OperatorKind::Lots {
        kind: lots.kind,
        by,
        seed,
        weights: lots.weights.clone(),
    });
    (kind, input.clone())
}
