//! Receipt: where every record of a file went, as a table for people and as JSON for programs.

use serde_json::{Value, json};
use tidemill_client::{Receipt, ReceiptNode};

use crate::human;
use crate::table::{Side, Table};

/// Returns the receipt as a table: a row for each source, operator and sink.
pub(crate) fn table(receipt: &Receipt, colours: bool) -> String {
    let mut table = Table::new(&[
        ("NODE", Side::Left),
        ("KIND", Side::Left),
        ("IN", Side::Right),
        ("OUT", Side::Left),
        ("FILTERED", Side::Right),
        ("REJECTED", Side::Right),
        ("MERGED", Side::Right),
    ]);
    for node in &receipt.nodes {
        let some = |count: u64| if count == 0 { String::new() } else { human::count(count) };
        table.row(vec![
            human::name(&node.name).into(),
            human::name(&node.kind).into(),
            human::count(node.records_in).into(),
            out(node).into(),
            some(node.filtered).into(),
            some(node.rejected.saturating_add(node.reported)).into(),
            some(node.merged).into(),
        ]);
    }
    table.text(colours)
}

/// Returns what a node gave out: `9`, `low 4, high 3`, `two 4, three 3 (1 twice)`.
fn out(node: &ReceiptNode) -> String {
    let port = |(tag, count): &(String, u64)| {
        let gap = if tag.is_empty() { "" } else { " " };
        format!("{}{gap}{}", human::name(tag), human::count(*count))
    };
    let mut text = node.out.iter().map(port).collect::<Vec<_>>().join(", ");
    if node.copies > 0 {
        text += &format!(" ({} more than once)", human::count(node.copies));
    }
    if ["aggregate", "keyed"].contains(&node.role.as_str()) {
        text += " changed rows";
    }
    text
}

/// Returns the receipt as `--json` prints it.
pub(crate) fn json(receipt: &Receipt) -> Value {
    let node = |node: &ReceiptNode| {
        let out: Vec<Value> = (node.out.iter())
            .map(|(tag, records)| json!({ "tag": tag, "records": records }))
            .collect();
        json!({
            "name": node.name,
            "role": node.role,
            "kind": node.kind,
            "in": node.records_in,
            "out": out,
            "copies": node.copies,
            "filtered": node.filtered,
            "rejected": node.rejected,
            "merged": node.merged,
            "reported": node.reported,
            "fed_by": node.fed_by,
        })
    };
    let output = |output: &tidemill_client::ReceiptOutput| json!({ "path": output.path, "bytes": output.bytes, "blake3": output.hash });
    json!({
        "generation": receipt.generation,
        "processes": receipt.processes,
        "workers": receipt.workers,
        "binary_version": receipt.binary_version,
        "plan_hash": receipt.plan_hash,
        "claimed_at": human::rfc3339(receipt.claimed_at),
        "read_at": human::rfc3339(receipt.read_at),
        "answered_at": human::rfc3339(receipt.answered_at),
        "nodes": receipt.nodes.iter().map(node).collect::<Vec<_>>(),
        "outputs": receipt.outputs.iter().map(output).collect::<Vec<_>>(),
    })
}
