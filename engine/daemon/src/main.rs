//! The binary `tidemill`: everything is in the library, so that tests can find it.

/// Small files mean many small pieces of memory that one thread asks for and another gives back; the
/// allocator of the C library is slow at that (`docs/adr/0032-an-allocator-of-its-own.md`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    // Each huge page that is given back and asked for again would be cleared as a whole. A kernel
    // that does not know the request has none.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    tidemill::main()
}
