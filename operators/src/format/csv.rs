//! CSV: records of quoted and delimited fields.

use super::ReadPlan;

/// Which file column feeds which field of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {}

/// Why the header of a file does not serve the plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("header")]
pub struct HeaderError {}

impl Header {
    /// Reads the header of a file.
    pub fn parse(_plan: &ReadPlan, _first_record: &[u8]) -> Result<Self, HeaderError> {
        Ok(Self {})
    }
}
