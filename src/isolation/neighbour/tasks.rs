//! Its processes: many that sleep, some that compute, one with memory.

use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};

use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, pipe};

use crate::kernel::sys::{self, Forked, probe};

const SLEEPERS: usize = 64;
/// Open files of each.
const FILES: usize = 40;
/// Signals that wait to be taken.
const SIGNALS: usize = 50;
/// Bytes in memory.
const MEMORY: usize = 192 << 20;
/// What is done at each order to work.
const FORKS: usize = 300;
const TURNS: usize = 3000;
const TOUCHED: usize = 96 << 20;

/// They end with it.
pub struct Tasks(Vec<Pid>);

impl Tasks {
    pub fn start(tag: &str) -> Self {
        let mut tasks = Self(Vec::new());
        let name = CString::new(tag).unwrap_or_default();
        for _ in 0..SLEEPERS {
            tasks.add(|| {
                let _ = prctl::set_name(&name);
                let files: Vec<_> = (0..FILES).map(|_| File::open("/dev/null")).collect();
                sleep_with(files);
            });
        }
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..cpus.min(8) + 3 {
            tasks.add(|| {
                loop {
                    std::hint::spin_loop();
                }
            });
        }
        tasks.add(|| {
            // A real-time signal that libraries leave alone: each is kept.
            let signal = libc::SIGRTMIN() + 3;
            probe::block_signal(signal);
            for _ in 0..SIGNALS {
                let _ = probe::queue_to_self(signal);
            }
            sleep_with((touched(MEMORY), probe::asynchronous_io(64)));
        });
        tasks
    }

    fn add(&mut self, body: impl FnOnce()) {
        if let Ok(forked) = sys::clone3(0, None) {
            match forked {
                Forked::Child => {
                    let _ = prctl::set_pdeathsig(Signal::SIGKILL);
                    body();
                    sys::exit_now(0)
                }
                Forked::Parent(pid) => self.0.push(Pid::from_raw(pid)),
            }
        }
    }
}

fn sleep_with<T>(held: T) {
    loop {
        nix::unistd::pause();
        let _ = &held;
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        for pid in &self.0 {
            let _ = kill(*pid, Signal::SIGKILL);
        }
        for pid in &self.0 {
            let _ = waitpid(*pid, None);
        }
    }
}

/// Forks, switches between two processes, page faults: each a fixed number.
pub fn work() {
    for _ in 0..FORKS {
        match sys::clone3(0, None) {
            Ok(Forked::Child) => sys::exit_now(0),
            Ok(Forked::Parent(pid)) => drop(waitpid(Pid::from_raw(pid), None)),
            Err(_) => break,
        }
    }
    let _ = take_turns();
    drop(touched(TOUCHED));
}

/// Fresh memory, each page of it written to.
fn touched(bytes: usize) -> Vec<u8> {
    let mut memory = vec![0; bytes];
    memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    std::hint::black_box(memory)
}

/// A byte goes to a child and back.
fn take_turns() -> std::io::Result<()> {
    let ((there_out, there_in), (back_out, back_in)) = (pipe()?, pipe()?);
    match sys::clone3(0, None)? {
        Forked::Child => {
            drop((there_in, back_out));
            let (mut from, mut to) = (File::from(there_out), File::from(back_in));
            let mut byte = [0];
            while from.read_exact(&mut byte).and_then(|()| to.write_all(&byte)).is_ok() {}
            sys::exit_now(0)
        }
        Forked::Parent(pid) => {
            drop((there_out, back_in));
            let (mut from, mut to) = (File::from(back_out), File::from(there_in));
            let mut byte = [0];
            for _ in 0..TURNS {
                to.write_all(&byte)?;
                from.read_exact(&mut byte)?;
            }
            drop(to);
            let _ = waitpid(Pid::from_raw(pid), None);
        }
    }
    Ok(())
}
