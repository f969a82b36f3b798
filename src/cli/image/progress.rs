//! How far long work has come, for a person who watches; and its end when
//! somebody asks for it.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use nix::sys::signal::{SigSet, Signal};

use crate::image::{child, store};

/// A bar on standard error with rate and what is left; nothing where that is
/// no terminal.
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// # Arguments
    /// * `what` - such as `import debian-12`
    /// * `total` - bytes, where they are known
    pub fn new(what: &str, total: Option<u64>) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self { bar: ProgressBar::hidden() };
        }
        let (bar, form) = match total {
            Some(total) => (
                ProgressBar::new(total),
                "{prefix} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}, {eta} left",
            ),
            None => (ProgressBar::new_spinner(), "{prefix} {spinner} {bytes} {bytes_per_sec}"),
        };
        if let Ok(style) = ProgressStyle::with_template(form) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar }
    }

    pub fn add(&self, bytes: u64) {
        // More than was announced (layers are read twice) must not look odd.
        let end = self.bar.position() + bytes;
        if self.bar.length().is_some_and(|length| length < end) {
            self.bar.set_length(end);
        }
        self.bar.inc(bytes);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A signal has ended this process; what is left is to clean up.
static ENDING: AtomicBool = AtomicBool::new(false);

/// SIGINT, SIGTERM and SIGHUP end the programs that work for this process,
/// remove what it has begun, then end it; a thread waits for them.
pub fn clean_up_when_told_to_end() {
    let mut ends = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        ends.add(signal);
    }
    if ends.thread_block().is_err() {
        return;
    }
    std::thread::spawn(move || {
        let signal = ends.wait().unwrap_or(Signal::SIGTERM);
        ENDING.store(true, Ordering::SeqCst);
        child::end_all();
        store::abandon();
        std::process::exit(128 + signal as i32);
    });
}

/// Does not return once a signal has ended this process: programs that were
/// told to end have failed then, and nobody wants to read that.
pub fn unless_told_to_end<T>(done: T) -> T {
    while ENDING.load(Ordering::SeqCst) {
        std::thread::park();
    }
    done
}
