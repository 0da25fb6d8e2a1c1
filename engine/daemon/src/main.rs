//! The binary `tidemill`: everything is in the library, so that tests can find it.

fn main() -> std::process::ExitCode {
    tidemill::main()
}
