//! Formats: bytes to columns and columns to bytes.
