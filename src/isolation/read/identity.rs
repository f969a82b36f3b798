//! Which host this is, how large, and of what.

use std::path::Path;

use super::{
    Channel, Reading, contents, count, each, lines_after, listing, names, number, text, value,
};

pub const CHANNELS: &[Channel] = &[
    Channel::new("boot_id", "/proc/sys/kernel/random/boot_id", "host identity", |_| {
        contents("/proc/sys/kernel/random/boot_id")
    })
    .same(),
    Channel::new("kernel", "uname, /proc/version", "host identity", |_| {
        let name = nix::sys::utsname::uname().ok()?;
        let all = [name.release(), name.version(), name.machine()];
        Some(Reading::Text(all.map(|part| part.to_string_lossy().into_owned()).join(" ")))
    })
    .same(),
    Channel::new("cmdline", "/proc/cmdline", "host identity", |_| contents("/proc/cmdline")).same(),
    Channel::new("nodename", "uname -n", "host name", |_| {
        let name = nix::sys::utsname::uname().ok()?;
        Some(Reading::Text(name.nodename().to_string_lossy().into_owned()))
    })
    .same(),
    Channel::new("hostid", "/etc/hostid", "host identity", |_| contents("/etc/hostid")).same(),
    Channel::new("machine_id", "/etc/machine-id", "host identity", |_| contents("/etc/machine-id"))
        .same(),
    Channel::new("dmi_product", "/sys/class/dmi/id", "model", |_| {
        contents("/sys/class/dmi/id/product_name")
    })
    .same(),
    Channel::new("dmi_uuid", "/sys/class/dmi/id/product_uuid", "host identity", |_| {
        contents("/sys/class/dmi/id/product_uuid")
    })
    .same(),
    Channel::new("cpuinfo", "/proc/cpuinfo", "model, microcode", |_| {
        let text = text("/proc/cpuinfo")?;
        let of = |key: &str| text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        let all = [of("model name"), of("stepping"), of("microcode"), of("CPU part")];
        Some(Reading::Text(all.join(" ").split_whitespace().collect::<Vec<_>>().join(" ")))
    })
    .same(),
    Channel::new("cpuinfo_n", "/proc/cpuinfo", "host size", |_| {
        count(text("/proc/cpuinfo")?.lines().filter(|l| l.starts_with("processor")).count() as u64)
    })
    .same(),
    Channel::new("cpu_online", "/sys/devices/system/cpu/online", "host size", |_| {
        contents("/sys/devices/system/cpu/online")
    })
    .same(),
    Channel::new("nproc", "nproc", "host size", |_| {
        count(std::thread::available_parallelism().ok()?.get() as u64)
    })
    .same(),
    Channel::new("affinity", "sched_getaffinity", "host size", |_| affinity()).same(),
    Channel::new("mem_total", "/proc/meminfo", "host size", |_| {
        number(value(&text("/proc/meminfo")?, "MemTotal")?)
    })
    .same(),
    Channel::new("si_totalram", "sysinfo(2)", "host size", |_| {
        let info = crate::kernel::sys::probe::system_info().ok()?;
        number(info.totalram as f64 * f64::from(info.mem_unit))
    })
    .same(),
    Channel::new("kaslr", "/proc/kallsyms", "boot identity", |_| {
        let text = super::text_of("/proc/kallsyms", 4096)?;
        // Whoever may not know is shown zeros.
        let address = |l: &str| u64::from_str_radix(l.split(' ').next()?, 16).ok();
        let shown = |l: &&str| address(l).is_some_and(|at| at != 0);
        Some(Reading::Text(text.lines().find(shown)?.to_owned()))
    })
    .same(),
    Channel::new("modules", "/proc/modules", "host identity", |_| contents("/proc/modules")).same(),
    Channel::new("partitions", "/proc/partitions", "disks", |_| {
        lines_after("/proc/partitions", 2).map(Reading::List)
    })
    .same(),
    Channel::new("block_devs", "/sys/block", "disks", |_| listing("/sys/block")).same(),
    Channel::new("proc_fs", "/proc/fs", "fs types", |_| listing("/proc/fs")).same(),
    Channel::new("dev_count", "/dev", "host devices", |_| listing("/dev")).same(),
    Channel::new("passwd", "/etc/passwd", "other users", |_| contents("/etc/passwd")).same(),
    Channel::new("hosts", "/etc/hosts", "site", |_| contents("/etc/hosts")).same(),
    Channel::new("resolv", "/etc/resolv.conf", "site", |_| contents("/etc/resolv.conf")).same(),
    Channel::new("env_names", "environ", "caller env", |look| {
        let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
        Some(Reading::List(names.filter(|n| n.contains(&look.tag)).collect()))
    })
    .showing(),
    Channel::new("mount_hostpaths", "/proc/self/mountinfo", "host paths, job dirs", |_| {
        let text = text("/proc/self/mountinfo")?;
        Some(Reading::List(text.lines().filter_map(host_path).take(64).collect()))
    })
    .showing(),
    Channel::new("cgroup_path", "/proc/self/cgroup", "job id, uid", |_| {
        let text = text("/proc/self/cgroup")?;
        let below = |line: &&str| line.rsplit_once(':').is_some_and(|(_, path)| path != "/");
        Some(Reading::List(text.lines().filter(below).map(str::to_owned).collect()))
    })
    .showing(),
    Channel::new("gpu", "/dev/nvidia*, /dev/dri", "GPUs", |_| {
        let of = |dir: &str, prefix: &str| {
            let all = names(dir).unwrap_or_default();
            all.into_iter().filter(|n| n.starts_with(prefix)).collect::<Vec<_>>()
        };
        let all = [of("/dev", "nvidia"), of("/dev/dri", "")].concat();
        Some(Reading::List(all))
    })
    .same(),
    Channel::new("gpu_procs", "NVML", "GPU tasks", |_| {
        nvidia(&["--query-compute-apps=pid", "--format=csv,noheader"])
    })
    .same(),
    Channel::new("gpu_mem", "NVML", "GPU memory", |_| {
        nvidia(&["--query-gpu=uuid,memory.used", "--format=csv,noheader"])
    })
    .same(),
    Channel::new(
        "loop_files",
        "/sys/block/loop*/loop/backing_file",
        "image paths of others",
        |_| each("/sys/block", "loop/backing_file").map(Reading::List),
    )
    .same(),
];

fn affinity() -> Option<Reading> {
    let set = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).ok()?;
    let has = |cpu: &usize| set.is_set(*cpu).unwrap_or(false);
    let all: Vec<String> =
        (0..nix::sched::CpuSet::count()).filter(has).map(|cpu| cpu.to_string()).collect();
    Some(Reading::Text(all.join(",")))
}

/// What a line of proc_pid_mountinfo(5) shows of the host: the directory on
/// its disk that is mounted here, a device, or paths among the options.
fn host_path(line: &str) -> Option<String> {
    let (mount, kind) = line.split_once(" - ")?;
    let (root, place) = (mount.split(' ').nth(3)?, mount.split(' ').nth(4)?);
    let mut kind = kind.split(' ');
    let (fstype, source, options) = (kind.next()?, kind.next()?, kind.next().unwrap_or_default());
    // Parts of what every host has alike: control files, masks, its own /dev.
    let alike = ["proc", "sysfs", "devtmpfs", "cgroup", "cgroup2", "devpts"].contains(&fstype);
    let of_a_disk = source.starts_with("/dev/");
    // What denovo made for the environment has no path on the host.
    let own = source == "denovo" && matches!(fstype, "fuse" | "tmpfs");
    let below = root != "/" && !alike && !own && Path::new(root).is_absolute();
    let named = options
        .split(',')
        .filter_map(|option| option.split_once("dir="))
        .any(|(_, path)| path.starts_with('/') && !path.starts_with("/proc/self/fd/"));
    let shown = of_a_disk || below || named;
    shown.then(|| format!("{place}: {source} {root}"))
}

/// What nvidia-smi says, which asks NVML; a static program cannot load it.
fn nvidia(arguments: &[&str]) -> Option<Reading> {
    if !Path::new("/dev/nvidiactl").exists() {
        return None;
    }
    let said = std::process::Command::new("nvidia-smi").args(arguments).output().ok()?;
    said.status.success().then_some(())?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    Some(Reading::List(text.lines().map(str::to_owned).collect()))
}
