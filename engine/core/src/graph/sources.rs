//! Sources: which columns a source gives, and whether it can ever get a file. Derived.

use std::collections::HashMap;

use tidemill_operators::format::{Field, Format};
use tidemill_operators::{Column, Schema, Type};

use crate::diagnostic::{Mistakes, quoted};
use crate::graph::contract;
use crate::graph::names::Names;
use crate::graph::{COLUMNS_MAX, GraphSource, NodeId};
use crate::spec::read::names_of;
use crate::spec::{PipelineSpec, SourceSpec, Text};

/// Checks all sources; `None` for one whose columns are not known.
pub(crate) fn check(
    spec: &PipelineSpec,
    names: &Names,
    mistakes: &mut Mistakes<'_>,
) -> Vec<Option<GraphSource>> {
    check_reachable(&spec.sources, mistakes);
    let sources = spec.sources.iter().enumerate();
    sources
        .map(|(at, source)| check_one(source, names.errors_read(NodeId::Source(at)), mistakes))
        .collect()
}

fn check_one(
    source: &SourceSpec,
    errors_used: bool,
    mistakes: &mut Mistakes<'_>,
) -> Option<GraphSource> {
    let format = source.format.clone()?;
    let fields = fields(source, &format, mistakes)?;
    let names = match &format {
        Format::Csv(options) if !options.header => match &source.columns {
            Some(columns) => columns.iter().map(|column| column.text.clone()).collect(),
            None => fields.iter().flat_map(|field| field.path.iter().cloned()).collect(),
        },
        _ => Vec::new(),
    };
    let columns = fields.iter().map(|field| Column::new(&field.name, field.kind)).collect();
    let schema = Schema::new(columns);
    let expect = contract::expectations(&source.expect, &schema, mistakes);
    let contract = contract::contract(source, &schema, mistakes);
    Some(GraphSource {
        name: source.name.text.clone(),
        patterns: source.patterns.iter().map(|pattern| pattern.text.clone()).collect(),
        format,
        fields,
        names,
        record_bytes_max: source.record_bytes_max,
        inflate_ratio_max: source.inflate_ratio_max,
        max_rejects: source.policy.max_rejects,
        on_error: source.policy.on_error,
        expect: expect?,
        contract,
        taking: source.taking.clone(),
        errors_used,
    })
}

fn fields(source: &SourceSpec, format: &Format, mistakes: &mut Mistakes<'_>) -> Option<Vec<Field>> {
    let written = source.fields.as_ref()?;
    if *format == Format::Text {
        let line = "line".to_owned();
        return Some(vec![Field { name: line.clone(), kind: Type::String, path: vec![line] }]);
    }
    if written.len() > COLUMNS_MAX {
        let message =
            format!("{} columns are too many; at most {COLUMNS_MAX} may be", written.len());
        source.name.wrong(mistakes, message, None);
        return None;
    }
    let mut fields = Vec::with_capacity(written.len());
    let mut taken: HashMap<Vec<String>, &str> = HashMap::new();
    for field in written {
        let at = field.path.as_ref().unwrap_or(&field.name);
        let path: Vec<String> = match (format, &field.path) {
            (Format::Jsonl, Some(path)) => path.text.split('.').map(str::to_owned).collect(),
            _ => vec![at.text.clone()],
        };
        if path.iter().any(String::is_empty) {
            let message = format!("the path {} has an empty part", quoted(&at.text));
            at.wrong(mistakes, message, Some("for example user.id".to_owned()));
        }
        if let Some(other) = taken.insert(path.clone(), &field.name.text) {
            let message = format!("{} is read into {} already", quoted(&at.text), quoted(other));
            at.wrong(mistakes, message, Some("use that column twice".to_owned()));
        }
        check_in_file(source, at, mistakes);
        fields.push(Field { name: field.name.text.clone(), kind: field.kind, path });
    }
    Some(fields)
}

/// Notes a field that is not among the `columns` of its file.
fn check_in_file(source: &SourceSpec, at: &Text, mistakes: &mut Mistakes<'_>) {
    let Some(columns) = &source.columns else { return };
    if columns.iter().any(|column| column.text == at.text) {
        return;
    }
    let message = format!("{} is not one of the file's `columns`", quoted(&at.text));
    let hint = mistakes.nearest_hint(
        &at.text,
        columns.iter().map(|column| column.text.as_str()),
        "they are",
    );
    at.wrong(mistakes, message, hint);
}

/// Notes a source that never gets a file because those before it take every name it would.
fn check_reachable(sources: &[SourceSpec], mistakes: &mut Mistakes<'_>) {
    let mut taken: HashMap<&str, &str> = HashMap::new();
    let mut takes_all: Option<&str> = None;
    for source in sources {
        let covered =
            source.patterns.iter().all(|pattern| taken.contains_key(pattern.text.as_str()));
        let by = match (takes_all, source.patterns.first()) {
            (Some(all), _) => Some(all),
            (None, Some(pattern)) if covered => taken.get(pattern.text.as_str()).copied(),
            _ => None,
        };
        if let (Some(by), Some(pattern)) = (by, source.patterns.first()) {
            let message = format!(
                "no file reaches {}: {} stands before it and takes every name that matches {}",
                quoted(&source.name.text),
                quoted(by),
                names_of(&source.patterns),
            );
            let hint = "the first source whose `pattern` matches takes the file; give each its own";
            pattern.wrong(mistakes, message, Some(hint.to_owned()));
        }
        for pattern in &source.patterns {
            taken.entry(&pattern.text).or_insert(&source.name.text);
            if matches!(pattern.text.as_str(), "*" | "**") && takes_all.is_none() {
                takes_all = Some(&source.name.text);
            }
        }
    }
}
