//! The wire: the messages and services of `tidemill.v1`, generated from the `.proto` files beside
//! this crate.
//!
//! Owns the schema and nothing else: no conversion, no policy. The server translates in its
//! `convert` module, the client into plain types of its own.

/// The messages, clients and servers of package `tidemill.v1`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::clone_on_ref_ptr,
    unreachable_pub,
    rustdoc::all,
    reason = "generated code; the .proto files carry the documentation"
)]
pub mod v1 {
    tonic::include_proto!("tidemill.v1");
}

/// The encoded descriptor set of the schema, for server reflection.
pub const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("tidemill_descriptor");

/// The response metadata key under which an error carries its stable word, such as `bad_name`.
pub const CODE_KEY: &str = "tidemill-code";
