//! Expressions: SQL over columns.
