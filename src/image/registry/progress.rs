//! What a person sees of long work: a line for each blob on its way, with its
//! rate and what is left. Nothing at all where standard error is no terminal.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};

/// All lines of one command.
#[derive(Debug, Clone)]
pub struct Progress {
    lines: MultiProgress,
}

/// One line; it goes away when it is dropped.
#[derive(Debug)]
pub struct Line {
    bar: ProgressBar,
}

impl Progress {
    /// On standard error, if that is a terminal.
    pub fn new() -> Self {
        Self { lines: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()) }
    }

    /// Shows nothing.
    pub fn hidden() -> Self {
        Self { lines: MultiProgress::with_draw_target(ProgressDrawTarget::hidden()) }
    }

    /// A transfer of so many bytes.
    pub fn bytes(&self, name: &str, total: u64) -> Line {
        let style = ProgressStyle::with_template(
            "{prefix:>14} {bar:28} {binary_bytes:>11} of {binary_total_bytes:<11} {binary_bytes_per_sec:>13}  {eta} left",
        );
        self.line(ProgressBar::new(total), style, name)
    }

    /// Work whose end nobody knows.
    pub fn step(&self, name: &str, text: &str) -> Line {
        let style = ProgressStyle::with_template("{prefix:>14} {spinner} {msg}  {elapsed}");
        let line = self.line(ProgressBar::new_spinner(), style, name);
        line.bar.set_message(text.to_owned());
        line.bar.enable_steady_tick(Duration::from_millis(200));
        line
    }

    fn line(
        &self,
        bar: ProgressBar,
        style: Result<ProgressStyle, indicatif::style::TemplateError>,
        name: &str,
    ) -> Line {
        let bar = bar.with_finish(ProgressFinish::AndClear).with_prefix(name.to_owned());
        let bar = if let Ok(style) = style { bar.with_style(style) } else { bar };
        Line { bar: self.lines.add(bar) }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Line {
    /// So many bytes are there.
    pub fn at(&self, position: u64) {
        self.bar.set_position(position);
    }

    /// So many bytes more.
    pub fn more(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// A reader that moves it on.
    pub fn counting<R: std::io::Read>(&self, reader: R) -> impl std::io::Read + use<R> {
        self.bar.wrap_read(reader)
    }

    /// What is being done now.
    pub fn says(&self, text: &str) {
        self.bar.set_message(text.to_owned());
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
