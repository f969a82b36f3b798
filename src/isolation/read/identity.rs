//! Which host this is, how large, and of what.

use std::path::Path;

use super::{
    Channel, Reading, contents, count, each, lines_after, listing, names, number, text, value, word,
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
    Channel::new("mount_hostpaths", "/proc/self/mountinfo", "host paths, job dirs", |look| {
        let text = text("/proc/self/mountinfo")?;
        let shown = text.lines().filter_map(|line| host_path(line, &look.mounted));
        Some(Reading::List(shown.take(64).collect()))
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

/// What a line of proc_pid_mountinfo(5) shows of the host: the directory that
/// is mounted here of a file system of the host's (`mounted`: by their
/// numbers), a device or directory that it comes from, or paths among the
/// options. A directory of a file system that was made inside is none.
fn host_path(line: &str, mounted: &[String]) -> Option<String> {
    let (mount, kind) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(2);
    let (device, root, place) = (mount.next()?, mount.next()?, mount.next()?);
    let mut kind = kind.split(' ');
    let (fstype, source, options) = (kind.next()?, kind.next()?, kind.next().unwrap_or_default());
    // Parts of what every host has alike: control files, masks, its own /dev.
    let alike = ["proc", "sysfs", "devtmpfs", "cgroup", "cgroup2", "devpts"].contains(&fstype);
    let below = root != "/" && root.starts_with('/') && !alike;
    let hosts = below && mounted.iter().any(|number| number == device);
    // A descriptor is named by whoever mounted.
    let is_path = |text: &str| text.contains('/') && !text.starts_with("/proc/self/fd/");
    // `lowerdir=` and the like of overlayfs, `lowerdir+=` since Linux 6.8.
    let layer = |option: &str| {
        let (name, path) = option.split_once('=')?;
        name.trim_end_matches('+').ends_with("dir").then(|| is_path(path))
    };
    let shown = hosts || is_path(source) || options.split(',').filter_map(layer).any(|is| is);
    shown.then(|| format!("{place}: {source} {root}"))
}

/// The numbers of the file systems that are mounted where this process is.
pub fn mounted() -> Vec<String> {
    let text = text("/proc/self/mountinfo").unwrap_or_default();
    let mut all: Vec<String> =
        text.lines().filter_map(|line| Some(word(line, 2)?.to_owned())).collect();
    all.sort();
    all.dedup();
    all
}

/// What nvidia-smi says, which asks NVML; a static program cannot load it.
fn nvidia(arguments: &[&str]) -> Option<Reading> {
    if !Path::new("/dev/nvidiactl").exists() {
        return None;
    }
    let said = std::process::Command::new("nvidia-smi").args(arguments).output();
    // The device is there, and another program could ask.
    let Some(said) = said.ok().filter(|said| said.status.success()) else {
        return Some(Reading::Failed { errno: libc::ELIBACC });
    };
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    Some(Reading::List(text.lines().map(str::to_owned).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_shows_paths_of_the_host_or_none() {
        let mounted = ["254:0".to_owned(), "0:6".to_owned(), "0:27".to_owned()];
        let shows = |line: &str| host_path(line, &mounted).is_some();
        for line in [
            // A directory of the host's tmpfs, whatever it is called.
            "80 70 0:27 /jobs/7 /scratch rw shared:3 - tmpfs denovo rw",
            "71 70 254:0 /usr /usr ro - ext4 /dev/vda rw",
            // A device, a server's directory: each from its top.
            "71 70 7:3 / / ro - squashfs /dev/loop3 ro",
            "71 70 0:61 / /home rw - nfs4 server:/export/home rw",
            "75 70 0:42 / / rw - overlay overlay rw,lowerdir=/var/lib/a:/var/lib/b,index=off",
            "75 70 0:42 / / rw - overlay overlay rw,lowerdir+=/var/lib/a,uuid=on",
        ] {
            assert!(shows(line), "{line}");
        }
        for line in [
            "70 45 0:41 /root / rw - tmpfs denovo rw,mode=755",
            "98 76 0:41 /etc/hosts /etc/hosts rw - tmpfs tmpfs rw",
            "86 76 0:49 /meminfo /proc/meminfo ro - fuse denovo ro,user_id=0",
            "75 70 0:42 / /etc rw - overlay denovo rw,lowerdir=/proc/self/fd/4,redirect_dir=on",
            "102 76 0:6 /null /proc/keys rw - devtmpfs devtmpfs rw,mode=755",
            "76 70 0:45 / /proc rw - proc proc rw",
            "broken",
        ] {
            assert!(!shows(line), "{line}");
        }
    }
}
