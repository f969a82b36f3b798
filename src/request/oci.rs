//! Loads an OCI bundle: config.json by its crate types, and what stands at
//! `root.path`.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_ignored::Path as IgnoredPath;

use super::root::{self, RootState};
use crate::problem::Problem;

/// The crate's type of `linux.resources`, which `update` reads alone.
/// The crate's type of config.json, under the name that the rest of denovo uses.
pub use oci_spec::runtime::Spec as Config;

/// Most bytes of a config.json. The largest that engines write have some
/// 100 KiB; what is far beyond is a mistake or an attack on our memory.
pub const MAX_BYTES: u64 = 16 << 20;

/// A bundle as it was found on disk; nothing in it is checked yet.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The bundle's directory, absolute and without symlinks.
    pub dir: PathBuf,
    pub config: Config,
    /// Fields of config.json that nobody knows, by JSON path, such as
    /// `linux.resources.speed`. The OCI specification ("Extensibility") wants
    /// them ignored; we say that we did.
    pub unknown: Vec<String>,
    /// What stands at `root.path`.
    pub root: RootState,
}

/// A `process` object of its own, as `exec --process FILE` takes it.
#[derive(Debug, Clone)]
pub struct ProcessDocument {
    pub process: oci_spec::runtime::Process,
    /// Fields that nobody knows, by JSON path.
    pub unknown: Vec<String>,
}

impl Bundle {
    /// Reads the bundle in `dir`.
    ///
    /// # Errors
    /// One [`Problem`] when `dir` is no directory, or its config.json is
    /// missing, unreadable, larger than [`MAX_BYTES`] or no OCI configuration
    /// (with line and column).
    pub fn load(dir: &Path) -> Result<Self, Problem> {
        let dir = canonical_dir(dir)?;
        let file = dir.join("config.json");
        let (config, unknown) = parse::<Config>(&read(&file)?, &file)?;
        Ok(Self::new(dir, config, unknown))
    }

    /// Puts a bundle together from an already parsed `config`; `dir` is
    /// absolute and without symlinks.
    pub fn new(dir: PathBuf, config: Config, mut unknown: Vec<String>) -> Self {
        let root = match config.root() {
            Some(root) => root::inspect(&dir, root.path()),
            None => RootState::NotGiven,
        };
        note_invented_fields(&config, &mut unknown);
        Self { dir, config, unknown, root }
    }

    /// Takes `linux.cgroupsPath` out, which is no path where systemd makes the
    /// group; empty where there is none.
    pub fn take_cgroups_path(&mut self) -> String {
        let Some(linux) = self.config.linux_mut() else { return String::new() };
        let path = linux.cgroups_path().as_ref().map(|p| p.to_string_lossy().into_owned());
        linux.set_cgroups_path(None);
        path.unwrap_or_default()
    }
}

impl ProcessDocument {
    /// Reads the process document `file`.
    ///
    /// # Errors
    /// As [`Bundle::load`].
    pub fn load(file: &Path) -> Result<Self, Problem> {
        let (process, unknown) = parse(&read(file)?, file)?;
        Ok(Self { process, unknown })
    }
}

/// Parses `bytes` as one JSON document; `name` stands for it in messages.
///
/// Returns the document and the JSON paths of the fields it does not know.
///
/// # Errors
/// One [`Problem`] with line and column.
pub fn parse<T: DeserializeOwned>(bytes: &[u8], name: &Path) -> Result<(T, Vec<String>), Problem> {
    // serde would take a list for a structure with its fields in order.
    if bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'[') {
        return Err(Problem::user(format!(
            "{}: line 1, column 1: a list, not an object",
            name.display()
        ))
        .hint("see config.md of the OCI runtime specification"));
    }
    let mut unknown = Vec::new();
    let bytes = &with_the_crates_names(bytes)[..];
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let document = serde_ignored::deserialize(&mut json, |path| unknown.push(json_path(&path)))
        .and_then(|document| json.end().map(|()| document))
        .map_err(|error| broken(&error, name))?;
    Ok((document, unknown))
}

/// Names that oci-spec derives wrongly from its types, and so does not know
/// in the specification's spelling: a word of a list `flags`, and two keys.
const MISSPELT: [(&str, &str); 3] = [
    ("\"SCHED_FLAG_DL_OVERRUN\"", "\"SCHED_FLAG_D_L_OVERRUN\""),
    ("\"enableCMT\"", "\"enableCmt\""),
    ("\"enableMBM\"", "\"enableMbm\""),
];

/// The document with the crate's spelling; only where such a name is meant,
/// not where the same word is an argument.
fn with_the_crates_names(bytes: &[u8]) -> std::borrow::Cow<'_, [u8]> {
    let Ok(text) = std::str::from_utf8(bytes) else { return bytes.into() };
    let mut text = std::borrow::Cow::Borrowed(text);
    for (name, crates) in MISSPELT {
        if text.contains(name) {
            text = respelt(&text, name, crates).into();
        }
    }
    match text {
        std::borrow::Cow::Borrowed(text) => text.as_bytes().into(),
        std::borrow::Cow::Owned(text) => text.into_bytes().into(),
    }
}

fn respelt(text: &str, name: &str, crates: &str) -> String {
    let mut changed = String::with_capacity(text.len() + 8);
    let mut rest = text;
    while let Some(at) = rest.find(name) {
        changed.push_str(&rest[..at]);
        rest = &rest[at + name.len()..];
        let key = rest.trim_start().starts_with(':');
        let before = changed.rsplit_once('[').map_or("", |(before, _)| before).trim_end();
        let flag = before.strip_suffix(':').is_some_and(|b| b.trim_end().ends_with("\"flags\""));
        changed.push_str(if key || flag { crates } else { name });
    }
    changed.push_str(rest);
    changed
}

fn broken(error: &serde_json::Error, name: &Path) -> Problem {
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    // serde_json puts the place last; it reads better first.
    let reason = text.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&text);
    let problem =
        Problem::user(format!("{}: line {line}, column {column}: {reason}", name.display()));
    problem.hint(match error.classify() {
        serde_json::error::Category::Eof => "the file ends early; was it written completely?",
        serde_json::error::Category::Data => {
            "see config.md of the OCI runtime specification for the type of this field"
        }
        _ => "it must be JSON: no comments, no comma after the last entry, names in double quotes",
    })
}

/// The JSON path in the form in which problems name fields: `mounts[3].type`.
fn json_path(path: &IgnoredPath<'_>) -> String {
    match path {
        IgnoredPath::Root => String::new(),
        IgnoredPath::Seq { parent, index } => format!("{}[{index}]", json_path(parent)),
        IgnoredPath::Map { parent, key } => match json_path(parent) {
            parent if parent.is_empty() => key.clone(),
            parent => format!("{parent}.{key}"),
        },
        IgnoredPath::Some { parent }
        | IgnoredPath::NewtypeStruct { parent }
        | IgnoredPath::NewtypeVariant { parent } => json_path(parent),
    }
}

/// oci-spec reads two top-level fields which the specification never had.
#[allow(deprecated)]
fn note_invented_fields(config: &Config, unknown: &mut Vec<String>) {
    if config.uid_mappings().is_some() {
        unknown.push("uidMappings".into());
    }
    if config.gid_mappings().is_some() {
        unknown.push("gidMappings".into());
    }
}

fn canonical_dir(dir: &Path) -> Result<PathBuf, Problem> {
    let shown = dir.display();
    let absolute = dir.canonicalize().map_err(|error| match error.kind() {
        ErrorKind::NotFound => Problem::user(format!("bundle {shown}: there is no such directory"))
            .hint("name the directory that holds config.json with --bundle"),
        _ => Problem::user(format!("bundle {shown}: {error}"))
            .hint("the caller must be able to search every directory on the way to it"),
    })?;
    if absolute.is_dir() {
        Ok(absolute)
    } else {
        Err(Problem::user(format!("bundle {shown}: not a directory"))
            .hint("name the directory that holds config.json, not the file"))
    }
}

fn read(file: &Path) -> Result<Vec<u8>, Problem> {
    let opened = open(file).map_err(|error| unreadable(file, &error))?;
    let metadata = opened.metadata().map_err(|error| unreadable(file, &error))?;
    if !metadata.is_file() {
        return Err(Problem::user(format!("{}: not a regular file", file.display()))
            .hint("denovo spec writes one to start from"));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0).min(1 << 20));
    // One byte more than allowed shows that there is more.
    opened.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| unreadable(file, &error))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Problem::user(format!(
            "{}: larger than {} MiB, which no OCI configuration is",
            file.display(),
            MAX_BYTES >> 20
        )));
    }
    Ok(bytes)
}

fn open(file: &Path) -> std::io::Result<File> {
    // Without O_NONBLOCK the open of a FIFO would wait for ever.
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(file)
}

fn unreadable(file: &Path, error: &std::io::Error) -> Problem {
    let shown = file.display();
    match error.kind() {
        ErrorKind::NotFound => Problem::user(format!("{shown}: there is no such file"))
            .hint("write one with `denovo spec`, or name another directory with --bundle"),
        ErrorKind::PermissionDenied => Problem::user(format!("{shown}: permission denied"))
            .hint("the caller must be able to read it"),
        _ => Problem::user(format!("{shown}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LEAST: &str = r#"{"ociVersion":"1.2.0","root":{"path":"rootfs"}}"#;

    fn bundle(config: &str) -> (tempfile::TempDir, Result<Bundle, Problem>) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), config).unwrap();
        std::fs::create_dir(dir.path().join("rootfs")).unwrap();
        let loaded = Bundle::load(dir.path());
        (dir, loaded)
    }

    #[test]
    fn loads_the_least_bundle() {
        let (dir, loaded) = bundle(LEAST);
        let loaded = loaded.unwrap();
        assert_eq!(loaded.dir, dir.path().canonicalize().unwrap());
        assert_eq!(loaded.unknown, Vec::<String>::new());
        assert_eq!(loaded.root, RootState::Directory(loaded.dir.join("rootfs")));
    }

    #[test]
    fn a_broken_file_is_named_with_line_and_column() {
        for (text, expected) in [
            ("", "line 1, column 0: EOF while parsing a value"),
            ("{", "line 1, column 1: EOF while parsing an object"),
            ("{\n  \"root\": x\n}", "line 2, column 11: expected value"),
            ("{\n\"process\": {\"user\": {\"uid\": -1}}}", "line 2, column 30: invalid value"),
            ("{\"process\": {\"user\": {\"uid\": 4294967296}}}", "invalid value"),
            ("{\"linux\": {\"namespaces\": [{\"type\": \"pidd\"}]}}", "unknown variant `pidd`"),
            ("{\"process\": {}}", "missing field `user`"),
            ("{\"hostname\": \"a\", \"hostname\": \"b\"}", "duplicate field `hostname`"),
            ("{} {}", "line 1, column 4: trailing characters"),
            ("\u{feff}{}", "line 1, column 1: expected value"),
        ] {
            let problem = bundle(text).1.unwrap_err();
            assert!(problem.message.contains(expected), "{text:?}: {problem}");
            assert!(problem.message.contains("config.json: line "), "{problem}");
            assert!(problem.hint.is_some(), "{problem}");
        }
    }

    /// The file has every field of the runtime-spec 1.3 for Linux.
    #[test]
    fn every_field_of_the_specification_is_known() {
        let text = include_bytes!("every-field.json");
        let (config, unknown) = parse::<Config>(text, Path::new("x")).unwrap();
        assert_eq!(unknown, Vec::<String>::new());
        assert!(config.linux().is_some() && config.hooks().is_some());
    }

    #[test]
    fn unknown_fields_are_named_by_path() {
        let (_dir, loaded) = bundle(
            r#"{"ociVersion":"1.2.0","x":1,"root":{"path":"rootfs","y":{}},"uidMappings":[],
                "mounts":[{"destination":"/a"},{"destination":"/b","z":null}],
                "linux":{"resources":{"cpu":{"speed":3}}}}"#,
        );
        let mut unknown = loaded.unwrap().unknown;
        unknown.sort();
        assert_eq!(
            unknown,
            ["linux.resources.cpu.speed", "mounts[1].z", "root.y", "uidMappings", "x"]
        );
    }

    #[test]
    fn a_flag_that_the_crate_misspells_is_read() {
        let overrun = MISSPELT[0].0;
        let text = |args: &str, flags: &str| {
            format!(
                r#"{{"process": {{"user": {{}}, "cwd": "/", "args": [{args}],
                "scheduler": {{"policy": "SCHED_DEADLINE", "flags" : [{flags}]}}}}}}"#
            )
        };
        let (_dir, loaded) = bundle(&text(overrun, &format!("\"SCHED_RESET_ON_FORK\", {overrun}")));
        let process = loaded.unwrap().config.process().clone().unwrap();
        assert_eq!(process.args().as_ref().unwrap()[..], ["SCHED_FLAG_DL_OVERRUN"]);
        assert_eq!(process.scheduler().as_ref().unwrap().flags().as_ref().unwrap().len(), 2);
    }

    #[test]
    fn what_cannot_be_read_is_one_problem() {
        let dir = tempfile::tempdir().unwrap();
        let missing = Bundle::load(dir.path()).unwrap_err();
        assert!(missing.message.ends_with("config.json: there is no such file"), "{missing}");
        assert!(missing.hint.unwrap().contains("denovo spec"));

        let nowhere = Bundle::load(&dir.path().join("no")).unwrap_err();
        assert!(nowhere.message.contains("there is no such directory"), "{nowhere}");

        std::fs::create_dir(dir.path().join("config.json")).unwrap();
        let directory = Bundle::load(dir.path()).unwrap_err();
        assert!(directory.message.contains("not a regular file"), "{directory}");

        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let file = Bundle::load(&file).unwrap_err();
        assert!(file.message.contains("not a directory"), "{file}");
    }

    #[test]
    fn a_fifo_does_not_hang_the_loader() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("config.json");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let problem = Bundle::load(dir.path()).unwrap_err();
        assert!(problem.message.contains("not a regular file"), "{problem}");
    }

    #[test]
    fn a_file_beyond_the_limit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("config.json")).unwrap();
        file.set_len(MAX_BYTES + 1).unwrap();
        let problem = Bundle::load(dir.path()).unwrap_err();
        assert!(problem.message.contains("larger than 16 MiB"), "{problem}");
    }

    proptest! {
        #[test]
        fn no_input_makes_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse::<Config>(&bytes, Path::new("x"));
        }

        #[test]
        fn a_cut_document_is_an_error(cut in 0..LEAST.len()) {
            prop_assert!(parse::<Config>(&LEAST.as_bytes()[..cut], Path::new("x")).is_err());
        }
    }
}
