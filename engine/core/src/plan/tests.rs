//! What a plan promises.
