//! The verbs that change a container that runs: pause, resume, update.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;

use super::Context;
use super::oci::Id;
use crate::problem::Problem;
use crate::request::oci::MAX_BYTES;
use crate::request::resources::Changes;
use crate::request::size;
use crate::supervise::container::Refusal;
use crate::supervise::{control, update};

pub fn pause(context: &Context, args: &Id) -> Result<i32, Refusal> {
    if context.explain {
        context.print_plan(&[format!("freeze the control group of container {}", args.id)]);
        return Ok(0);
    }
    control::pause(&context.containers(), &args.id)?;
    Ok(0)
}

pub fn resume(context: &Context, args: &Id) -> Result<i32, Refusal> {
    if context.explain {
        context.print_plan(&[format!("thaw the control group of container {}", args.id)]);
        return Ok(0);
    }
    control::resume(&context.containers(), &args.id)?;
    Ok(0)
}

/// Limits of a container that runs, as options and as a document.
#[derive(Debug, Args)]
pub struct Update {
    #[command(flatten)]
    id: Id,
    /// A document of the runtime-spec's `linux.resources`; - for standard input
    #[arg(short, long, value_name = "FILE")]
    resources: Option<PathBuf>,
    /// Weight for block devices, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    blkio_weight: Option<u16>,
    /// Length of a period in microseconds, 1000 to 1000000
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<u64>,
    /// CPU time in each period; -1 for no limit
    #[arg(long, value_name = "MICROSECONDS", allow_negative_numbers = true)]
    cpu_quota: Option<i64>,
    /// CPU time that may be saved up for a burst
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_burst: Option<u64>,
    /// Relative weight, 2 to 262144
    #[arg(long, value_name = "SHARES")]
    cpu_share: Option<u64>,
    /// Period of the real-time limit
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_rt_period: Option<u64>,
    /// Real-time CPU time in each period
    #[arg(long, value_name = "MICROSECONDS", allow_negative_numbers = true)]
    cpu_rt_runtime: Option<i64>,
    /// CPUs that may be used, such as 0-3,8
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes that may be used
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// 1: run only where nothing else wants to
    #[arg(long, value_name = "0|1", allow_negative_numbers = true)]
    cpu_idle: Option<i64>,
    /// Kernel memory (no kernel since 5.16 has that limit)
    #[arg(long, hide = true, value_name = "SIZE", value_parser = amount, allow_negative_numbers = true)]
    kernel_memory: Option<i64>,
    #[arg(long, hide = true, value_name = "SIZE", value_parser = amount, allow_negative_numbers = true)]
    kernel_memory_tcp: Option<i64>,
    /// Memory, such as 512M; -1 for no limit
    #[arg(long, value_name = "SIZE", value_parser = amount, allow_negative_numbers = true)]
    memory: Option<i64>,
    /// Memory that reclaim tries to leave
    #[arg(long, value_name = "SIZE", value_parser = amount, allow_negative_numbers = true)]
    memory_reservation: Option<i64>,
    /// Memory and swap together; -1 for no limit
    #[arg(long, value_name = "SIZE", value_parser = amount, allow_negative_numbers = true)]
    memory_swap: Option<i64>,
    /// Processes and threads; -1 for no limit
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    pids_limit: Option<i64>,
    /// Part of the L3 cache (not supported)
    #[arg(long, hide = true, value_name = "SCHEMA")]
    l3_cache_schema: Option<String>,
    /// Part of the memory bandwidth (not supported)
    #[arg(long, hide = true, value_name = "SCHEMA")]
    mem_bw_schema: Option<String>,
}

/// Bytes, with or without a unit, or -1.
fn amount(text: &str) -> Result<i64, String> {
    if text == "-1" {
        return Ok(-1);
    }
    let bytes = size::parse(text).map_err(|problem| match problem.hint {
        Some(hint) => format!("{}; {hint}, or -1 for no limit", problem.message),
        None => problem.message,
    })?;
    i64::try_from(bytes).map_err(|_| "it is too large".into())
}

impl Update {
    fn changes(&self) -> Changes {
        let mut changes = Changes::default();
        changes.set("blockIO.weight", self.blkio_weight);
        changes.set("cpu.period", self.cpu_period);
        changes.set("cpu.quota", self.cpu_quota);
        changes.set("cpu.burst", self.cpu_burst);
        changes.set("cpu.shares", self.cpu_share);
        changes.set("cpu.realtimePeriod", self.cpu_rt_period);
        changes.set("cpu.realtimeRuntime", self.cpu_rt_runtime);
        changes.set("cpu.cpus", self.cpuset_cpus.as_deref());
        changes.set("cpu.mems", self.cpuset_mems.as_deref());
        changes.set("cpu.idle", self.cpu_idle);
        changes.set("memory.kernel", self.kernel_memory);
        changes.set("memory.kernelTCP", self.kernel_memory_tcp);
        changes.set("memory.limit", self.memory);
        changes.set("memory.reservation", self.memory_reservation);
        changes.set("memory.swap", self.memory_swap);
        changes.set("pids.limit", self.pids_limit);
        changes
    }
}

pub fn update(context: &Context, args: &Update) -> Result<i32, Refusal> {
    let schemas =
        [("--l3-cache-schema", &args.l3_cache_schema), ("--mem-bw-schema", &args.mem_bw_schema)];
    if let Some((option, _)) = schemas.iter().find(|(_, given)| given.is_some()) {
        return Err(Problem::user(format!("{option}: not supported by denovo"))
            .hint("leave it out; the group of resctrl that the container is in can be written to")
            .into());
    }
    let changes = args.changes();
    let text = args.resources.as_deref().map(read).transpose()?;
    if text.is_none() && changes.is_empty() {
        return Err(Problem::user("update: no limit is given")
            .hint("such as --memory 2G; denovo update --help lists them all")
            .into());
    }
    let asked = update::Asked {
        text: text.as_deref(),
        name: args.resources.as_deref().unwrap_or(Path::new("update")),
        changes: &changes,
    };
    let (store, id) = (context.containers(), &args.id.id);
    let warn = |text: &str| context.voice.warn(text);
    if context.explain {
        let (_, update) = update::plan(&store, id, &asked, &warn)?;
        let lines: Vec<String> = update.steps.iter().map(ToString::to_string).collect();
        context.print_plan(&lines);
        return Ok(0);
    }
    update::update(&store, id, &asked, &warn)?;
    Ok(0)
}

fn read(file: &Path) -> Result<Vec<u8>, Problem> {
    let unreadable = |e: std::io::Error| {
        Problem::user(format!("--resources {}: {e}", file.display()))
            .hint("name a JSON document of linux.resources, or - for standard input")
    };
    let mut text = Vec::new();
    if file == Path::new("-") {
        std::io::stdin().lock().take(MAX_BYTES).read_to_end(&mut text).map_err(unreadable)?;
    } else {
        std::fs::File::open(file)
            .and_then(|opened| opened.take(MAX_BYTES).read_to_end(&mut text))
            .map_err(unreadable)?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::amount;

    #[test]
    fn amounts_have_units_or_are_unlimited() {
        assert_eq!(amount("-1"), Ok(-1));
        assert_eq!(amount("512m"), Ok(512 << 20));
        assert_eq!(amount("4096"), Ok(4096));
        for wrong in ["-2", "0", "x", "", "1Q", "16000000T"] {
            assert!(amount(wrong).is_err(), "{wrong}");
        }
    }
}
