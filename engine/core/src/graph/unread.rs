//! Unread: nothing may vanish by accident, so what nobody reads is a mistake. Derived.

use crate::diagnostic::{Mistakes, quoted};
use crate::graph::NodeId;
use crate::graph::names::Names;
use crate::spec::{BodySpec, PipelineSpec, Text};

/// Notes every source, operator and tag that nothing reads, unless it is dropped on purpose.
///
/// While some `from` leads nowhere it says nothing: that one probably means what seems unread.
pub(crate) fn check(spec: &PipelineSpec, names: &Names, mistakes: &mut Mistakes<'_>) {
    if !names.all_known {
        return;
    }
    for (at, source) in spec.sources.iter().enumerate() {
        if !names.is_read(NodeId::Source(at), 0) {
            let message = format!("nothing reads the source {}", quoted(&source.name.text));
            let hint = format!("add an operator or a sink with `from: {}`", source.name.text);
            source.name.wrong(mistakes, message, hint);
        }
    }
    for (at, written) in names.order.iter().enumerate() {
        let operator = &spec.operators[*written];
        let node = NodeId::Operator(at);
        match &operator.body {
            Some(BodySpec::Route { rules, otherwise, .. }) => {
                let tags = rules.iter().map(|(tag, _)| tag).chain(otherwise);
                for (port, tag) in tags.enumerate() {
                    let read = names.is_read(node, port);
                    let drop = (operator.drop.as_slice(), "beside `route`");
                    check_tag(tag, read, drop, &operator.name, mistakes);
                }
            }
            Some(BodySpec::Lots(lots)) => {
                let place = format!("beside `{}`", lots.kind.word());
                for (port, tag) in lots.tags.iter().enumerate() {
                    let read = names.is_read(node, port);
                    let drop = (operator.drop.as_slice(), place.as_str());
                    check_tag(tag, read, drop, &operator.name, mistakes);
                }
            }
            Some(BodySpec::State(state)) => {
                for (port, tag) in state.tags.iter().enumerate() {
                    let read = names.is_read(node, port);
                    let drop = (state.drop.as_slice(), "in `state`");
                    check_tag(tag, read, drop, &operator.name, mistakes);
                }
            }
            Some(_) if !names.is_read(node, 0) => {
                let message = format!("nothing reads the operator {}", quoted(&operator.name.text));
                let written = mistakes.as_written(&operator.name.text);
                let hint = format!("add an operator or a sink with `from: {written}`");
                operator.name.wrong(mistakes, message, hint);
            }
            _ => {}
        }
    }
}

fn check_tag(
    tag: &Text,
    read: bool,
    (drop, place): (&[Text], &str),
    operator: &Text,
    mistakes: &mut Mistakes<'_>,
) {
    let dropped = drop.iter().find(|dropped| dropped.text == tag.text);
    match dropped {
        Some(dropped) if read => {
            let message =
                format!("the tag {} is dropped here and read elsewhere", quoted(&tag.text));
            dropped.wrong(mistakes, message, Some("take it out of `drop`".to_owned()));
        }
        None if !read => {
            let message = format!("nothing reads the tag {}", quoted(&tag.text));
            let hint = format!(
                "read it with `from: {}.{}`, or drop its records on purpose with `drop: [{}]` {place}",
                mistakes.as_written(&operator.text),
                tag.text,
                tag.text
            );
            tag.wrong(mistakes, message, hint);
        }
        _ => {}
    }
}
