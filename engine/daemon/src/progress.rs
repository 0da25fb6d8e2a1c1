//! Progress: a bar on the terminal while `run --once` works. Only looks; never in the way.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tidemill_engine::Engine;

/// How often the bar is drawn.
const EVERY: Duration = Duration::from_millis(100);

/// A bar that is being drawn.
pub struct Progress {
    end: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// Draws a bar if standard error is a terminal.
pub fn start(engine: &Engine) -> Option<Progress> {
    if !std::io::stderr().is_terminal() {
        return None;
    }
    let end = Arc::new(AtomicBool::new(false));
    let (ended, engine) = (Arc::clone(&end), engine.clone());
    let thread = std::thread::Builder::new()
        .name("tidemill:bar".into())
        .spawn(move || draw(&engine, &ended))
        .ok()?;
    Some(Progress { end, thread })
}

impl Progress {
    /// Takes the bar away.
    pub fn end(self) {
        self.end.store(true, Ordering::Relaxed);
        // A bar that panicked has ended the process.
        let _ = self.thread.join();
    }
}

fn draw(engine: &Engine, ended: &AtomicBool) {
    let before: u64 = finished(engine);
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} files  {msg}") {
        bar.set_style(style);
    }
    while !ended.load(Ordering::Relaxed) {
        let done = finished(engine) - before;
        let pending: u64 = engine.pipelines().iter().map(|pipeline| pipeline.accepted).sum();
        let records: u64 = engine
            .operators()
            .iter()
            .filter(|row| row.kind.starts_with("source"))
            .map(|row| row.records_in)
            .sum();
        bar.set_length(done + pending);
        bar.set_position(done);
        bar.set_message(format!("{records} records"));
        std::thread::sleep(EVERY);
    }
    bar.finish_and_clear();
}

fn finished(engine: &Engine) -> u64 {
    engine.pipelines().iter().map(|pipeline| pipeline.committed + pipeline.quarantined).sum()
}
