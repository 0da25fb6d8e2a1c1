//! Flat: a composed tree written as a YAML file that needs nothing else. Derived; planned again it gives the
//! same plan.

use std::fmt::Write as _;

use crate::spec::tree::{Node, Value};

/// Returns a tree as YAML.
pub(crate) fn text(root: &Node) -> String {
    let mut out = String::new();
    if let Value::Map(_) = &root.value {
        block(root, 0, &mut out);
    } else {
        inline(root, &mut out);
        out.push('\n');
    }
    out
}

/// Returns how many values a tree holds.
pub(crate) fn count(node: &Node) -> usize {
    match &node.value {
        Value::Null | Value::Scalar(_) => 1,
        Value::List(items) => 1 + items.iter().map(count).sum::<usize>(),
        Value::Map(entries) => 1 + entries.iter().map(|(_, node)| 1 + count(node)).sum::<usize>(),
    }
}

/// Writes a list or map, an entry a line.
fn block(node: &Node, indent: usize, out: &mut String) {
    let margin = " ".repeat(indent);
    let mut entry = |head: String, node: &Node| {
        out.push_str(&margin);
        out.push_str(&head);
        if is_short(node) {
            out.push(' ');
            inline(node, out);
            out.push('\n');
        } else {
            out.push('\n');
            block(node, indent + 2, out);
        }
    };
    match &node.value {
        Value::Map(entries) => {
            for (key, node) in entries {
                entry(format!("{}:", quoted(&key.name)), node);
            }
        }
        Value::List(items) => items.iter().for_each(|item| entry("-".to_owned(), item)),
        Value::Null | Value::Scalar(_) => {}
    }
}

/// Returns whether a value fits behind its key: a single value, or a list of them.
fn is_short(node: &Node) -> bool {
    let single = |node: &Node| matches!(node.value, Value::Null | Value::Scalar(_));
    match &node.value {
        Value::List(items) => items.iter().all(single),
        Value::Map(entries) => entries.is_empty(),
        Value::Null | Value::Scalar(_) => true,
    }
}

fn inline(node: &Node, out: &mut String) {
    match &node.value {
        Value::Null => out.push('~'),
        Value::Scalar(text) => out.push_str(&quoted(text)),
        Value::Map(_) => out.push_str("{}"),
        Value::List(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push_str(", ");
                }
                inline(item, out);
            }
            out.push(']');
        }
    }
}

/// Returns a scalar, between quotes unless it is a plain word or number. `${` would be a parameter.
fn quoted(text: &str) -> String {
    let is_word = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && text.chars().all(|next| next.is_ascii_alphanumeric() || "_./-".contains(next));
    let is_reserved = ["null", "~", "y", "n", "yes", "no", "on", "off"]
        .iter()
        .any(|word| text.eq_ignore_ascii_case(word));
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_number = !digits.is_empty() && digits.chars().all(|next| next.is_ascii_digit());
    if (is_word && !is_reserved) || is_number {
        return text.to_owned();
    }
    let text = text.replace("${", "$${");
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for next in text.chars() {
        match next {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            // What YAML takes for an end of line or does not take at all.
            next if next.is_control()
                || matches!(
                    next,
                    '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}'
                ) =>
            {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{:04X}", next as u32);
            }
            next => out.push(next),
        }
    }
    out.push('"');
    out
}
