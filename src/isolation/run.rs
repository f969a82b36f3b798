//! The probe inside and on the bare node, and the neighbour, in turns.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::channel::{Look, Reading};
use super::judge::{Course, Moment, Phase, Readings};
use super::neighbour::{Marks, Order};
use super::probe::Answer;
use super::read::mounted;
use crate::host::cpulist::parse_list;
use crate::problem::Problem;

/// Begins the name of a variable that the caller of the environment has.
pub const VARIABLE: &str = "DENOVO_CHECK_";

/// Who runs inside, and so the neighbour beside it.
#[derive(Debug, Clone)]
pub struct Who {
    pub uid: u32,
    pub gid: u32,
    pub home: Option<PathBuf>,
}

/// What is to be looked at from inside.
#[derive(Debug)]
pub struct Subject {
    /// Starts the probe inside.
    pub command: Vec<OsString>,
    /// Starts the neighbour, if not bare on the node.
    pub neighbour: Option<Vec<OsString>>,
    /// It leaves the CPUs of the inside alone.
    pub apart: bool,
    /// Another user than the caller; root only.
    pub who: Option<Who>,
    /// Where the root of the inside is on the node, if files of it can be
    /// told apart there.
    pub files: Option<PathBuf>,
    /// How often the neighbour comes.
    pub rounds: usize,
}

/// How long nothing is done where the neighbour would work.
const IDLE: Duration = Duration::from_millis(200);
/// Far above what an answer takes; a runtime may have to fetch its image first.
const PATIENCE: Duration = Duration::from_secs(120);
/// For who has been told to end, and then for who has been asked to by a signal.
const TO_CLEAR_AWAY: Duration = Duration::from_secs(60);
const TO_END: Duration = Duration::from_secs(5);
/// Most bytes of an answer.
const LONGEST: u64 = 16 << 20;
/// For what the kernel frees after a while.
const SETTLE: Duration = Duration::from_millis(60);

/// Starts everything, takes the readings, and leaves nothing.
///
/// # Errors
/// A process cannot be started, or the one inside does not answer.
pub fn course(subject: &Subject) -> Result<Course, Problem> {
    // The neighbour does it too, as whom it runs, but not from an environment.
    super::neighbour::sweep();
    let tag = format!("dnv{:08x}", std::process::id() ^ random());
    let (watched, unread) = subject.files.as_deref().map_or((None, None), find_files);
    let outside = |path: &Option<PathBuf>| {
        let root = subject.files.as_deref().unwrap_or(Path::new("/"));
        path.as_ref().map(|p| root.join(p).display().to_string())
    };
    let inside = |path: &Option<PathBuf>| {
        path.as_ref().map(|p| Path::new("/").join(p).display().to_string())
    };
    let on_node = Look {
        tag: tag.clone(),
        watched: outside(&watched),
        unread: outside(&unread),
        mounted: mounted(),
        granted: Vec::new(),
    };
    let within = Look { watched: inside(&watched), unread: inside(&unread), ..on_node.clone() };

    let own = || {
        let mut command = Command::new("/proc/self/exe");
        if let Some(who) = &subject.who {
            become_user(&mut command, who);
        }
        command.arg("probe");
        command
    };
    let mut beside = match subject.neighbour.as_deref().and_then(<[_]>::split_first) {
        Some((program, arguments)) => {
            let mut command = Command::new(program);
            command.args(arguments);
            command
        }
        None => {
            let mut command = own();
            command.arg("neighbour");
            command
        }
    };
    beside.env("DENOVO_NEIGHBOUR", &tag);
    let mut neighbour = Answering::start(&mut beside, "the neighbour")?;
    let mut host = Answering::start(&mut own(), "the probe on the node")?;
    let (program, arguments) = subject.command.split_first().ok_or_else(no_command)?;
    let mut command = Command::new(program);
    command.args(arguments).env(format!("{VARIABLE}{tag}"), "1");
    let mut probe = Answering::start(&mut command, "the probe inside")?;

    // What a process opens once (and the first look) is not to count.
    let (bare, first) = (host.ask::<Answer>(&on_node)?, probe.ask::<Answer>(&within)?);
    let granted = if subject.apart { cpus_of(&first.readings) } else { Vec::new() };
    if subject.apart && cpus_of(&bare.readings).iter().all(|cpu| granted.contains(cpu)) {
        return Err(Problem::user("--neighbour other-cpus: the inside has every CPU of this node")
            .hint("--cpus N gives it fewer"));
    }
    neighbour.say(&Look { granted, ..on_node.clone() })?;
    let same_network = bare.network.is_some() && bare.network == first.network;
    let mut course = Course { tag, same_network, phases: Vec::new() };
    for turn in 0..=2 * subject.rounds {
        let busy = turn % 2 == 1;
        let mut marks = Marks::new();
        if busy {
            marks = neighbour.ask(&Order::Come)?;
        } else if turn > 0 {
            let last = turn == 2 * subject.rounds;
            neighbour.ask::<Marks>(if last { &Order::Leave } else { &Order::Go })?;
        }
        std::thread::sleep(SETTLE);
        let start = look(&mut probe, &within)?;
        if busy {
            neighbour.ask::<Marks>(&Order::Work)?;
        } else {
            std::thread::sleep(IDLE);
        }
        let before = look(&mut host, &on_node)?;
        let inside = look(&mut probe, &within)?;
        let end = Moment { before, inside, after: look(&mut host, &on_node)? };
        course.phases.push(Phase { busy, start, end, marks });
    }
    neighbour.ask::<Marks>(&Order::Clean)?;
    Ok(course)
}

fn look(probe: &mut Answering, look: &Look) -> Result<Readings, Problem> {
    Ok(probe.ask::<Answer>(look)?.readings)
}

/// The CPUs that who read this may run on.
fn cpus_of(readings: &Readings) -> Vec<u32> {
    match readings.get("affinity") {
        Some(Reading::Text(list)) => parse_list(list).unwrap_or_default(),
        _ => Vec::new(),
    }
}

fn no_command() -> Problem {
    Problem::user("no command is given that runs the probe")
        .hint("denovo check isolation --with -- podman run -i … denovo probe")
}

/// Another process's standard input and output, a line of JSON each.
struct Answering {
    child: Child,
    answers: Receiver<Vec<u8>>,
    what: &'static str,
    /// It does not answer any more.
    silent: bool,
}

impl Answering {
    fn start(command: &mut Command, what: &'static str) -> Result<Self, Problem> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|e| {
            let program = command.get_program().to_string_lossy();
            Problem::user(format!("{what}: {program}: {e}"))
                .hint("give a program that exists and can be executed")
        })?;
        let (to, answers) = sync_channel(1);
        if let Some(output) = child.stdout.take() {
            std::thread::spawn(move || answers_of(output, &to));
        }
        Ok(Self { child, answers, what, silent: false })
    }

    fn say(&mut self, line: &impl Serialize) -> Result<(), Problem> {
        let text = serde_json::to_string(line).map_err(|e| Problem::ours(e.to_string()))?;
        let said = self.child.stdin.as_mut().map(|input| writeln!(input, "{text}"));
        said.transpose().map(drop).map_err(|e| self.gone(&e.to_string()))
    }

    fn ask<T: DeserializeOwned>(&mut self, line: &impl Serialize) -> Result<T, Problem> {
        self.say(line)?;
        match self.answers.recv_timeout(PATIENCE) {
            Ok(answer) => serde_json::from_slice(&answer).map_err(|e| {
                self.silent = true;
                self.problem(&format!("not an answer: {e}"))
            }),
            Err(RecvTimeoutError::Disconnected) => Err(self.gone("it ended")),
            Err(RecvTimeoutError::Timeout) => {
                self.silent = true;
                Err(self.problem(&format!("no answer for {} s", PATIENCE.as_secs())))
            }
        }
    }

    fn gone(&mut self, why: &str) -> Problem {
        // Whoever closes its end is most often about to end.
        let ended = self.ends_within(Duration::from_millis(500));
        let status = ended.then(|| self.child.wait().ok()).flatten();
        let why = status.map_or_else(|| why.to_owned(), |status| format!("ended with {status}"));
        self.problem(&why)
    }

    fn problem(&self, why: &str) -> Problem {
        Problem::user(format!("{}: {why}", self.what)).hint(
            "the command has to run `denovo probe` with its standard input and output handed \
             through (podman run -i)",
        )
    }

    fn ends_within(&mut self, time: Duration) -> bool {
        let start = Instant::now();
        while !matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
            if start.elapsed() > time {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        // The end of its input ends it; what does not listen is no probe.
        drop(self.child.stdin.take());
        if !self.silent && self.ends_within(TO_CLEAR_AWAY) {
            return;
        }
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        // Another user's process (sudo) we cannot end.
        if !self.ends_within(TO_END) && self.child.kill().is_ok() {
            let _ = self.child.wait();
        }
    }
}

/// Hands on each line that is an answer; a runtime may have something to say
/// as well. Ends with the output, or when nobody waits any more.
fn answers_of(output: ChildStdout, to: &SyncSender<Vec<u8>>) {
    let mut output = BufReader::new(output);
    loop {
        let mut line = Vec::new();
        match output.by_ref().take(LONGEST).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) if line.first() != Some(&b'{') => {}
            Ok(_) if to.send(line).is_err() => return,
            Ok(_) => {}
        }
    }
}

fn become_user(command: &mut Command, who: &Who) {
    command.uid(who.uid).gid(who.gid);
    if let Some(home) = &who.home {
        command.env("HOME", home);
    }
}

fn random() -> u32 {
    let mut bytes = [0; 4];
    // Without it the tag would only be less random.
    let _ = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    u32::from_ne_bytes(bytes)
}

/// Below `root`, as relative paths: a file large enough to count pages of, and
/// one whose time of access the next read will move (`relatime`, mount(8)).
fn find_files(root: &Path) -> (Option<PathBuf>, Option<PathBuf>) {
    let (mut watched, mut unread) = (None, None);
    let mut dirs = vec![root.join("bin"), root.join("usr/lib"), root.join("usr/share")];
    let mut seen = 0;
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            seen += 1;
            let Ok(meta) = entry.metadata() else { continue };
            let path = entry.path();
            if meta.is_dir() {
                dirs.push(path);
                continue;
            }
            let Ok(relative) = path.strip_prefix(root).map(Path::to_owned) else { continue };
            if !meta.is_file() || meta.len() == 0 {
                continue;
            }
            if watched.is_none() && (64 << 10..4 << 20).contains(&meta.len()) {
                watched = Some(relative);
            } else if unread.is_none() && moves_at_next_read(&meta) {
                unread = Some(relative);
            }
        }
        if (watched.is_some() && unread.is_some()) || seen > 20_000 {
            break;
        }
    }
    (watched, unread)
}

fn moves_at_next_read(meta: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let day = now.map_or(0, |d| d.as_secs() as i64) - 86_400;
    meta.atime() < day || meta.atime() <= meta.mtime() || meta.atime() <= meta.ctime()
}
