//! The machine as a job sees it: /proc and /sys say what the job has.

use std::fs::{self, OpenOptions};
use std::time::{Duration, Instant};

use denovo::host::Facts;

use crate::common::skip;
use crate::help::{Place, value};

/// With FUSE and, where `controller` is named, something that holds the job.
fn place(test: &'static str, controller: Option<&str>) -> Option<Place> {
    if OpenOptions::new().read(true).write(true).open("/dev/fuse").is_err() {
        skip(test, "no FUSE (/dev/fuse cannot be opened)");
        return None;
    }
    let place = Place::root(test)?;
    if let Some(controller) = controller {
        let facts = Facts::read().unwrap();
        if facts.cgroups.v1_with(controller).is_none() && !facts.cgroups.v2_has(controller) {
            skip(test, &format!("no controller {controller}"));
            return None;
        }
    }
    Some(place)
}

fn number(text: &str, name: &str) -> u64 {
    value(text, name).parse().unwrap_or_else(|_| panic!("{name}: {text}"))
}

#[test]
fn the_memory_is_the_jobs_and_moves_with_it() {
    let test = "the_memory_is_the_jobs_and_moves_with_it";
    let Some(place) = place(test, Some("memory")) else { return };
    let script = "
        of() { awk -v name=$1: '$1 == name { print $2 }' /proc/meminfo; }
        echo total $(of MemTotal)
        echo shmem $(of Shmem)
        echo free $(of MemFree)
        head -c 32M /dev/zero >/dev/shm/held
        echo shmem-then $(of Shmem)
        echo free-then $(of MemFree)
        # sysinfo(2), which no file can stand for.
        echo pages $(getconf _PHYS_PAGES)
        echo node $(awk '$3 == \"MemTotal:\" { print $4 }' /sys/devices/system/node/node0/meminfo)
        echo lines $(wc -l </proc/meminfo) $(dd if=/proc/meminfo bs=7 2>/dev/null | wc -l)";
    let seen = place.see(&["--memory", "128M"], script);
    assert_eq!(number(&seen, "total"), 128 << 10, "{seen}");
    assert_eq!(number(&seen, "pages"), (128 << 20) / 4096, "{seen}");
    assert!(number(&seen, "shmem-then") >= number(&seen, "shmem") + (32 << 10), "{seen}");
    assert!(number(&seen, "free-then") + (32 << 10) <= number(&seen, "free") + 4096, "{seen}");
    assert!(number(&seen, "node") <= 128 << 10, "{seen}");
    let lines = value(&seen, "lines");
    let (whole, pieces) = lines.split_once(' ').unwrap();
    assert!(whole == pieces && whole.parse::<u32>().unwrap() > 20, "{seen}");
}

#[test]
fn the_processors_are_the_jobs() {
    let test = "the_processors_are_the_jobs";
    let Some(place) = place(test, None) else { return };
    let script = "
        echo granted $(awk '/^Cpus_allowed_list/ { print $2 }' /proc/self/status)
        echo online $(cat /sys/devices/system/cpu/online)
        echo cpuinfo $(awk '/^processor/ { print $3 }' /proc/cpuinfo)
        echo directories $(ls -d /sys/devices/system/cpu/cpu[0-9]* | sed 's,.*/cpu,,')
        echo stat $(awk '/^cpu[0-9]/ { sub(\"cpu\", \"\"); print $1 }' /proc/stat)
        echo siblings $(cat /sys/devices/system/cpu/cpu*/topology/core_siblings_list)
        echo node $(cat /sys/devices/system/node/node0/cpulist)
        echo idle $(ls -d /sys/devices/system/cpu/cpu*/cpuidle 2>/dev/null | wc -l)
        echo nproc $(nproc)
        echo lscpu $(lscpu -p=CPU | grep -v '^#')";
    let seen = place.see(&["--cpus", "1"], script);
    let granted = value(&seen, "granted").to_owned();
    assert!(granted.parse::<u32>().is_ok(), "{seen}");
    for name in ["online", "cpuinfo", "directories", "stat", "siblings", "node", "lscpu"] {
        assert_eq!(value(&seen, name), granted, "{name}: {seen}");
    }
    assert_eq!((value(&seen, "nproc"), value(&seen, "idle")), ("1", "0"), "{seen}");
}

/// An administrator may take a CPU from a job that runs.
#[test]
fn a_cpu_that_is_taken_away_is_no_longer_there() {
    let test = "a_cpu_that_is_taken_away_is_no_longer_there";
    if std::thread::available_parallelism().unwrap().get() < 2 {
        return skip(test, "one CPU only");
    }
    let Some(place) = place(test, Some("cpuset")) else { return };
    let id = place.started("shrinks", &["--cpus", "2", "--share-cpus"]);
    let seen = |script: &str| place.ok(&["job", "exec", &id, "--", "sh", "-c", script]);
    let script = "cat /sys/devices/system/cpu/online; nproc; grep -c ^processor /proc/cpuinfo;
        ls -d /sys/devices/system/cpu/cpu[0-9]* | wc -l";
    let before = seen(script);
    assert!(before.ends_with("\n2\n2\n2"), "{before}");
    let granted: Vec<&str> = before.lines().next().unwrap().split(['-', ',']).collect();
    let pid = place.keepers(&id).1;
    let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let facts = Facts::read().unwrap();
    let (top, prefix) = match facts.cgroups.v1_with("cpuset") {
        Some(hierarchy) => (hierarchy.mount.clone(), "cpuset:"),
        None => (facts.cgroups.v2.as_ref().unwrap().mount.clone(), "0::"),
    };
    let path = own.lines().find_map(|l| l.split_once(prefix)).unwrap_or_else(|| panic!("{own}"));
    let own = top.join(path.1.trim_start_matches('/'));
    let file = own.ancestors().map(|dir| dir.join("cpuset.cpus")).find(|f| f.exists()).unwrap();
    fs::write(&file, granted[0]).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    assert_eq!(seen(script), format!("{}\n1\n1\n1", granted[0]));
    place.ok(&["job", "end", &id]);
}

/// What people and programs look with; each reads other files and calls.
#[test]
fn tools_and_runtimes_see_the_jobs_share() {
    let test = "tools_and_runtimes_see_the_jobs_share";
    let Some(place) = place(test, Some("memory")) else { return };
    let script = r##"
        echo free $(free -k | awk '/^Mem:/ { print $2 }')
        echo top $(top -bn1 | awk '/Mem :/ { print int($4) }')
        echo uptime $(uptime -p)
        echo hwloc $(lstopo-no-graphics --of console --no-io | tr '\n' ' ')
        echo python $(python3 -c 'import os; print(os.cpu_count(), os.sysconf("SC_PHYS_PAGES"))')
        echo java $(java -XX:+PrintFlagsFinal -version 2>/dev/null |
            awk '$2 == "MaxHeapSize" || $2 == "UseSerialGC" { print $4 }')
        printf '%s\n' '#include <omp.h>' '#include <stdio.h>' 'int main(void) { int n = 0;' \
            '#pragma omp parallel reduction(+:n)' 'n++;' \
            'return printf("%d %d\n", omp_get_num_procs(), n) < 0; }' >/tmp/threads.c
        gcc -fopenmp -o /tmp/threads /tmp/threads.c && echo openmp $(/tmp/threads)"##;
    let seen = place.see(&["--cpus", "1", "--memory", "512M"], script);
    assert_eq!(value(&seen, "free"), (512 << 10).to_string(), "{seen}");
    assert_eq!(value(&seen, "top"), "512", "{seen}");
    assert_eq!(value(&seen, "uptime"), "up 0 minutes", "{seen}");
    let hwloc = value(&seen, "hwloc");
    assert!(hwloc.starts_with("Machine (512MB total)"), "{seen}");
    assert_eq!(hwloc.matches("PU L#").count(), 1, "{seen}");
    assert_eq!(value(&seen, "python"), format!("1 {}", (512 << 20) / 4096), "{seen}");
    // A quarter of the memory, and the collector that it takes for one CPU.
    assert_eq!(value(&seen, "java"), format!("{} true", 128 << 20), "{seen}");
    assert_eq!(value(&seen, "openmp"), "1 1", "{seen}");
}

/// User and system time of all processors in /proc/stat, in hundredths of a
/// second; tasks; and the first load average in hundredths.
const WORK: &str = "
    echo ticks $(awk '$1 == \"cpu\" { print $2 + $4 }' /proc/stat)
    echo tasks $(cut -d' ' -f4 /proc/loadavg | cut -d/ -f2)
    echo load $(awk '{ print int($1 * 100) }' /proc/loadavg)
    echo forks $(awk '/^processes/ { print $2 }' /proc/stat)";

#[test]
fn work_and_load_are_the_jobs_and_no_neighbours() {
    let test = "work_and_load_are_the_jobs_and_no_neighbours";
    let Some(place) = place(test, Some("cpuacct").filter(|_| v1_counts())) else { return };
    let busy = place.started("busy", &[]);
    let script = format!(
        "for i in 1 2 3 4; do sleep 30 & pids=\"$pids $!\"; done
         (ulimit -t 2; while :; do :; done) 2>/dev/null
         # The load is looked at every five seconds, as the kernel does.
         for i in $(seq 150); do grep -q '^0.00' /proc/loadavg || break; sleep 0.1; done
         {WORK}; kill $pids"
    );
    let worked = place.ok(&["job", "exec", &busy, "--", "sh", "-c", &script]);
    let idle = place.see(&[], WORK);
    assert!(number(&worked, "ticks") >= 100, "{worked}");
    assert!(number(&worked, "load") >= 1, "{worked}");
    assert!(number(&worked, "tasks") >= 6, "{worked}");
    assert!(number(&idle, "ticks") < 60, "{idle}");
    assert!(number(&idle, "tasks") < 6 && number(&idle, "forks") < 30, "{idle}");
    place.ok(&["job", "end", &busy]);
}

fn v1_counts() -> bool {
    Facts::read().unwrap().cgroups.v1_with("cpuacct").is_some()
}

#[test]
fn when_nobody_answers_reads_fail_at_once_and_the_job_goes_on() {
    let test = "when_nobody_answers_reads_fail_at_once_and_the_job_goes_on";
    let Some(place) = place(test, None) else { return };
    let id = place.started("alone", &[]);
    let (monitor, _) = place.keepers(&id);
    place.ok(&["job", "exec", &id, "--", "cat", "/proc/meminfo"]);
    let children = fs::read_to_string(format!("/proc/{monitor}/task/{monitor}/children")).unwrap();
    let answers = |pid: &&str| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"denovo views"))
    };
    let server: i32 = children.split_whitespace().find(answers).unwrap().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(server), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    let begun = Instant::now();
    let script = "cat /proc/meminfo >/dev/null 2>&1 || echo fails; getconf _PHYS_PAGES >/dev/null; echo goes on";
    let seen = place.ok(&["job", "exec", &id, "--", "sh", "-c", script]);
    assert_eq!(seen, "fails\ngoes on");
    // A read that waits for nobody would wait for ever.
    assert!(begun.elapsed() < Duration::from_secs(20));
    place.ok(&["job", "end", &id]);
}

#[test]
fn what_tells_of_others_is_refused() {
    let test = "what_tells_of_others_is_refused";
    for place in Place::each(test) {
        let script = "python3 - <<'END'
import ctypes, errno, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def refused(name, call):
    try:
        call()
        print(name, 'given')
    except OSError as e:
        print(name, errno.errorcode[e.errno])
refused('vsock', lambda: socket.socket(40, socket.SOCK_STREAM))
refused('cookie', lambda: socket.socket().getsockopt(socket.SOL_SOCKET, 71, 8))
ctypes.set_errno(0)
libc.syscall(451, 0, 0, 0, 0)
print('cachestat', errno.errorcode[ctypes.get_errno()])
ctypes.set_errno(0)
libc.adjtimex(ctypes.create_string_buffer(4096))
print('adjtimex', errno.errorcode[ctypes.get_errno()])
print('stat', os.stat('/etc/passwd').st_size > 0)
print('buffer', socket.socket().getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) > 0)
END
echo peers $(grep -c -E ' (shared|master):' /proc/self/mountinfo)
echo locks $(wc -c </proc/locks) slab $(cat /proc/slabinfo 2>/dev/null | wc -c) files $(cat /proc/sys/fs/file-nr | wc -c)";
        let seen = place.see(&[], script);
        let expected = "vsock EAFNOSUPPORT\ncookie ENOPROTOOPT\ncachestat ENOSYS\nadjtimex ENOSYS\nstat True\n\
                        buffer True\npeers 0\nlocks 0 slab 0 files 0";
        assert_eq!(seen, expected);
    }
}

/// A program of 64 bits reaches the kernel's calls for 32-bit ones too.
#[test]
#[cfg(target_arch = "x86_64")]
fn the_table_of_32_bit_calls_tells_no_more() {
    let test = "the_table_of_32_bit_calls_tells_no_more";
    let Some(place) = place(test, Some("memory")) else { return };
    if !std::path::Path::new("/usr/bin/gcc").exists() {
        return skip(test, "needs gcc");
    }
    let source = r#"
        #include <stdio.h>
        #include <sys/mman.h>
        static long call(long n, long a, long b, long c) {
            long r;
            __asm__ volatile("int $0x80" : "=a"(r) : "a"(n), "b"(a), "c"(b), "d"(c) : "memory");
            return (int)r;
        }
        int main(void) {
            int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT;
            unsigned *info = mmap(0, 4096, PROT_READ | PROT_WRITE, flags, -1, 0);
            printf("called %ld\n", call(116, (long)info, 0, 0));
            printf("total %lu\n", (unsigned long)info[4] * info[13] >> 20);
            printf("vsock %ld\ncachestat %ld\n", call(359, 40, 1, 0), call(451, 0, 0, 0));
            return 0;
        }"#;
    fs::write(place.home().join("calls.c"), source).unwrap();
    let mut compiler = place.program("gcc");
    compiler.args(["-o", "calls", "calls.c"]);
    place.finish(compiler).expect(0, "gcc");
    let bare = place.finish(place.program(place.home().join("calls").to_str().unwrap()));
    if bare.code() != 0 || !bare.out.contains("called 0\n") {
        return skip(test, "this kernel runs no 32-bit calls");
    }
    let seen = place.see(&["--memory", "128M"], "./calls");
    // EAFNOSUPPORT, ENOSYS.
    assert_eq!(seen, "called 0\ntotal 128\nvsock -97\ncachestat -38");
}

/// A devtmpfs has the node's memory in its options; the counters of
/// transparent huge pages go with what others do.
#[test]
fn no_mount_tells_how_large_the_node_is_or_what_it_does() {
    let test = "no_mount_tells_how_large_the_node_is_or_what_it_does";
    let Some(place) = Place::root(test) else { return };
    let script = "
        echo devtmpfs $(grep -c ' - devtmpfs ' /proc/self/mountinfo)
        echo masked $(wc -c </proc/locks) $(cat /proc/slabinfo | wc -c)
        cd /sys/kernel/mm/transparent_hugepage
        echo counts $(find . -path '*stats*' -o -path '*khugepaged*' | wc -l)
        echo enabled $(cat enabled hpage_pmd_size)";
    let seen = place.see(&[], script);
    assert_eq!((value(&seen, "devtmpfs"), value(&seen, "masked")), ("0", "0 0"), "{seen}");
    assert_eq!(value(&seen, "counts"), "0", "{seen}");
    let of_node =
        |name| fs::read_to_string(format!("/sys/kernel/mm/transparent_hugepage/{name}")).unwrap();
    let expected = format!("{} {}", of_node("enabled").trim(), of_node("hpage_pmd_size").trim());
    assert_eq!(value(&seen, "enabled"), expected, "{seen}");
}

#[test]
fn below_another_listener_a_job_goes_without_an_answer_of_its_own() {
    let test = "below_another_listener_a_job_goes_without_an_answer_of_its_own";
    for place in Place::each(test) {
        // A filter that allows all, with a listener that stays open.
        let script = format!(
            "import ctypes, os, struct, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(38, 1, 0, 0, 0)
code = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 0x7fff0000))
class Prog(ctypes.Structure):
    _fields_ = [('len', ctypes.c_ushort), ('code', ctypes.c_void_p)]
prog = Prog(1, ctypes.addressof(code))
fd = libc.syscall({}, 1, 8, ctypes.byref(prog))
assert fd >= 0, ctypes.get_errno()
sys.exit(subprocess.run(sys.argv[1:]).returncode)",
            libc::SYS_seccomp
        );
        let run = place.node(&["job", "run", "--", "sh", "-c", "getconf _PHYS_PAGES; exit 7"]);
        let mut around = place.program("python3");
        around.args(["-c", &script]).arg(run.get_program()).args(run.get_args());
        for (name, value) in run.get_envs() {
            if let Some(value) = value {
                around.env(name, value);
            }
        }
        let ran = place.finish(around).expect(7, "the command's own status");
        assert!(ran.out.trim().parse::<u64>().unwrap() > 0, "{ran:?}");
    }
}

#[test]
fn without_fuse_what_tells_most_says_nothing() {
    let test = "without_fuse_what_tells_most_says_nothing";
    let Some(place) = Place::user(test) else { return };
    let script = "
        echo can $(test -r /dev/fuse -a -w /dev/fuse && echo yes || echo no)
        echo load $(cat /proc/loadavg)
        echo disks $(wc -c </proc/diskstats)
        echo views $(grep -c ' - fuse denovo ' /proc/self/mountinfo)
        echo memory $(grep -c MemTotal /proc/meminfo)";
    let mut outside = place.program("/bin/sh");
    outside.args(["-c", script]);
    let can = place.finish(outside);
    let seen = place.see(&[], script);
    assert_eq!(value(&seen, "memory"), "1", "{seen}");
    if value(&can.out(), "can") == "yes" {
        assert!(number(&seen, "views") > 5, "{seen}");
    } else {
        assert_eq!(value(&seen, "load"), "0.00 0.00 0.00 1/1 1", "{seen}");
        assert_eq!((value(&seen, "disks"), value(&seen, "views")), ("0", "0"), "{seen}");
    }
}
