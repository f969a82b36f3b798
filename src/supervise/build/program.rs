//! Programs that a build runs: their words, if they fail, and containers on
//! a root that is being made.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use serde_json::json;

use crate::image::child::Child;
use crate::problem::Problem;
use crate::request::default_config::{For, default_config};

/// Where programs of a Debian root are.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The last lines of a program that failed, which are shown.
const LINES: usize = 15;

/// What a command run inside may do: what package scripts need, and nothing
/// that reaches the node.
const CAPABILITIES: [&str; 11] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Starts a program whose standard output is read, and whose words go to a
/// log in `work`.
///
/// # Errors
/// It is not there.
pub fn start(
    command: &mut Command,
    work: &Path,
    package: &str,
) -> Result<(Child, PathBuf), Problem> {
    let log = work.join("log");
    let file = File::create(&log)
        .map_err(|e| Problem::site(format!("{}: cannot be written: {e}", log.display())))?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file);
    let name = command.get_program().to_string_lossy().into_owned();
    let child = Child::spawn(command).map_err(|e| {
        Problem::site(format!("{name}: cannot be run: {e}"))
            .hint(format!("it is in Debian's package {package}"))
    })?;
    Ok((child, log))
}

/// Turns a status into what the program said.
///
/// # Errors
/// It failed.
pub fn check(what: &str, status: ExitStatus, log: &Path) -> Result<(), Problem> {
    if status.success() {
        return Ok(());
    }
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(LINES)..].join("\n    ");
    Err(Problem::user(format!("{what} failed ({status}); it said last:\n    {last}"))
        .hint("mend the recipe, or what it needs of this node, and build again"))
}

/// A script that runs each of `lines` in a container of its own on the root
/// that is its argument.
///
/// # Errors
/// It cannot be written.
pub fn runner(lines: &[String], epoch: u64, work: &Path) -> Result<PathBuf, Problem> {
    let cannot = |path: &Path, e: std::io::Error| {
        Problem::site(format!("{}: cannot be written: {e}", path.display()))
    };
    let own = std::env::current_exe().map_err(|e| Problem::ours(e.to_string()))?;
    let (own, state) = (quote(&own), quote(&work.join("state")));
    // A command that is told to end need not: the first process of a container
    // hears of no signal that it does not handle.
    let mut text = format!(
        "#!/bin/sh\nset -e\n\
         undo() {{ {own} --root {state} delete --force \"$id\"; exit 143; }}\n\
         trap undo HUP INT TERM\n"
    );
    for (number, line) in lines.iter().enumerate() {
        let bundle = work.join(format!("run{number}"));
        fs::create_dir_all(&bundle).map_err(|e| cannot(&bundle, e))?;
        let template = bundle.join("template.json");
        fs::write(&template, container(line, epoch)?).map_err(|e| cannot(&template, e))?;
        let (bundle, pid) = (quote(&bundle), std::process::id());
        text.push_str(&format!(
            "sed \"s|@ROOT@|$1|\" {bundle}/template.json >{bundle}/config.json\n\
             id=build-{pid}-{number}\n\
             {own} --root {state} run --bundle {bundle} $id </dev/null >&2 &\n\
             wait $!\n"
        ));
    }
    let script = work.join("run.sh");
    fs::write(&script, text).map_err(|e| cannot(&script, e))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))
        .map_err(|e| cannot(&script, e))?;
    Ok(script)
}

/// For `sh`.
pub fn quote(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

/// A config.json for one command on the root `@ROOT@`, with no network.
fn container(line: &str, epoch: u64) -> Result<String, Problem> {
    let uid = nix::unistd::geteuid();
    let rootless = (!uid.is_root()).then(|| (uid.as_raw(), nix::unistd::getegid().as_raw()));
    let text = default_config(For { rootless, unified_cgroups: false });
    let ours = |e: serde_json::Error| Problem::ours(e.to_string());
    let mut config: serde_json::Value = serde_json::from_str(&text).map_err(ours)?;
    config["root"] = json!({ "path": "@ROOT@", "readonly": false });
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!(["/bin/sh", "-ec", line]);
    config["process"]["env"] = json!([
        format!("PATH={PATH}"),
        "HOME=/root",
        "LANG=C.UTF-8",
        "DEBIAN_FRONTEND=noninteractive",
        format!("SOURCE_DATE_EPOCH={epoch}"),
    ]);
    for set in ["bounding", "effective", "permitted"] {
        config["process"]["capabilities"][set] = json!(CAPABILITIES);
    }
    serde_json::to_string(&config).map_err(ours)
}
