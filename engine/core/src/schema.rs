//! Schema: the pipeline file as a JSON schema (draft-07), for editors that complete and check while one writes.
//!
//! It owns the descriptions. What there is is decided by `spec`: a test holds every object, key and word of
//! `schema.json` against what was asked of real files. It never replaces `check`, which knows names and types.

/// Returns the schema as JSON text.
pub const fn text() -> &'static str {
    include_str!("schema.json")
}

#[cfg(test)]
mod tests;
