//! Async client of a tidemill server.

mod model;

pub use model::{
    Edge, Filter, Frontier, Node, Operator, OutputFile, Page, Phase, Pipeline, Reason,
    StageLatency, Submission,
};
