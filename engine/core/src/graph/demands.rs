//! Demands: whether what is fed to a group has the columns that the group says it needs. Derived.

use crate::diagnostic::{Mistakes, quoted};
use crate::graph::flow::Flow;
use crate::graph::names::Names;
use crate::spec::PipelineSpec;

/// Notes every column that is demanded and is not there, or has another type.
pub(crate) fn check(spec: &PipelineSpec, names: &Names, flow: &Flow, mistakes: &mut Mistakes<'_>) {
    for (demand, reads) in spec.demands.iter().zip(&names.demands) {
        for (port, read) in demand.ports.iter().zip(reads) {
            let Some(schema) = flow.stream(*read).and_then(|stream| stream.schema.as_ref()) else {
                continue; // a mistake that has been noted
            };
            let there = schema.columns();
            for (column, kind) in &demand.columns {
                let found = there.iter().find(|one| one.name == column.text);
                let message = match found {
                    Some(found) if found.kind == *kind => continue,
                    Some(found) => format!(
                        "{} needs {} as {kind}; in {} it is {}",
                        demand.input,
                        quoted(&column.text),
                        quoted(&port.text),
                        found.kind
                    ),
                    None => format!(
                        "{} needs the column {}, which {} has not",
                        demand.input,
                        quoted(&column.text),
                        quoted(&port.text)
                    ),
                };
                let hint = format!("it is demanded in {}", mistakes.shown(column.place));
                port.wrong(mistakes, message, hint);
            }
        }
    }
}
