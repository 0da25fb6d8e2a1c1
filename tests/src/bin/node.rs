//! The binary under test, where the tests of this crate find it: the same `main` as `tidemill`.

fn main() -> std::process::ExitCode {
    tidemill::main()
}
