//! Compiles the schema in this process: no `protoc` on the machine.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    let files = [
        "tidemill/v1/receipts.proto",
        "tidemill/v1/submissions.proto",
        "tidemill/v1/introspection.proto",
        "tidemill/v1/pipelines.proto",
        "tidemill/v1/tables.proto",
        "tidemill/v1/corrections.proto",
    ];
    println!("cargo:rerun-if-changed=tidemill");
    println!("cargo:rerun-if-changed=build.rs");
    let set = protox::compile(files, ["."])?;

    // compile_fds() writes no descriptor file, and reflection needs one.
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("tidemill_descriptor.bin"), set.encode_to_vec())?;

    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        // Chunks are slices of the receive buffer, not copies of it.
        .bytes(".tidemill.v1.SubmitChunk")
        .bytes(".tidemill.v1.StageLatency")
        .compile_fds(set)?;
    Ok(())
}
