//! Output: where a command writes, and what it may assume of a reader.

use std::io::{IsTerminal, Write};

/// Where a command writes.
pub struct Output<'a> {
    /// Takes the answer: text or JSON.
    pub out: &'a mut (dyn Write + Send),
    /// Whether colours and screen control may be written to `out`.
    pub colours: bool,
    /// Whether a progress bar may be drawn on standard error.
    pub progress: bool,
}

impl<'a> Output<'a> {
    /// Returns an output for this process: `out` is its standard output. Colours only on a terminal
    /// and without `NO_COLOR`, progress only when standard error is a terminal.
    pub fn process(out: &'a mut (dyn Write + Send)) -> Self {
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            out,
            colours: std::io::stdout().is_terminal() && !no_colour,
            progress: std::io::stderr().is_terminal(),
        }
    }
}
