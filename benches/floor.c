/*
 * floor: the least that starting a container can cost on this kernel.
 *
 * Runs one command in what runc's default config.json asks for, with the system
 * calls that this takes and nothing around them: no JSON, no checks, no plan, no
 * messages. `make bench` holds denovo's start against it. Where denovo finds a
 * cheaper way to the same state, this file follows, so that it stays the floor.
 *
 *     floor [-d] v2|hybrid ROOTFS COMMAND [ARGUMENT...]
 *
 * v2      one cgroup below /sys/fs/cgroup, entered by clone3 itself
 * hybrid  one in every v1 hierarchy and in /sys/fs/cgroup/unified
 * -d      with the config's device rules: an eBPF filter on v2, devices.* on v1
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

/* Reports the step by its own text: the floor has no sentences to make. */
#define must(call)                                                                  \
    ({                                                                              \
        long r_ = (long)(call);                                                     \
        if (r_ < 0) {                                                               \
            dprintf(2, "floor: %s: %s (line %d)\n", #call, strerror(errno), __LINE__); \
            _exit(125);                                                             \
        }                                                                           \
        r_;                                                                         \
    })

#define count(array) (sizeof(array) / sizeof(array[0]))

static const char *const hierarchies[] = {
    "cpu", "cpuacct", "cpuset", "memory", "devices", "freezer",
    "blkio", "pids", "systemd", "unified",
};

/* /proc and /sys paths of the default config; those the kernel lacks are skipped. */
static const char *const masked[] = {
    "proc/acpi", "proc/asound", "proc/kcore", "proc/keys", "proc/latency_stats",
    "proc/timer_list", "proc/timer_stats", "proc/sched_debug", "sys/firmware", "proc/scsi",
};
static const char *const readonly_paths[] = {
    "proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger",
};
static const struct { const char *name; unsigned major, minor; } devices[] = {
    { "null", 1, 3 }, { "zero", 1, 5 }, { "full", 1, 7 },
    { "random", 1, 8 }, { "urandom", 1, 9 }, { "tty", 5, 0 },
};
static const char *const links[][2] = {
    { "/proc/self/fd", "fd" }, { "/proc/self/fd/0", "stdin" }, { "/proc/self/fd/1", "stdout" },
    { "/proc/self/fd/2", "stderr" }, { "pts/ptmx", "ptmx" },
};

static char group[64];
static bool v2, device_rules;

static void put(const char *path, const char *text)
{
    int fd = must(open(path, O_WRONLY | O_CLOEXEC));
    must(write(fd, text, strlen(text)));
    close(fd);
}

/* The rules that every runtime adds to "deny all": make any node, use these. */
static void filter_devices_v1(void)
{
    static const char *const allow[] = {
        "c *:* m", "b *:* m", "c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm",
        "c 1:9 rwm", "c 5:0 rwm", "c 136:* rwm", "c 5:2 rwm",
    };
    char path[128];

    snprintf(path, sizeof path, "/sys/fs/cgroup/devices/%s/devices.deny", group);
    put(path, "a");
    snprintf(path, sizeof path, "/sys/fs/cgroup/devices/%s/devices.allow", group);
    for (size_t i = 0; i < count(allow); i++)
        put(path, allow[i]);
}

static void filter_devices_v2(int cgroup)
{
    /* context: access_type (type in the low half, access above), major, minor */
#define LOAD(dst, off) { BPF_LDX | BPF_MEM | BPF_W, dst, 1, off, 0 }
#define JNE(reg, value, skip) { BPF_JMP | BPF_JNE | BPF_K, reg, 0, skip, value }
#define RETURN(value) { BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, value }, { BPF_JMP | BPF_EXIT, 0, 0, 0, 0 }
#define DEVICE(major, minor) JNE(2, BPF_DEVCG_DEV_CHAR, 4), JNE(4, major, 3), JNE(5, minor, 2), RETURN(1)
    struct bpf_insn program[] = {
        LOAD(2, 0), { BPF_ALU64 | BPF_AND | BPF_K, 2, 0, 0, 0xffff },
        LOAD(3, 0), { BPF_ALU64 | BPF_RSH | BPF_K, 3, 0, 0, 16 },
        LOAD(4, 4), LOAD(5, 8),
        JNE(3, BPF_DEVCG_ACC_MKNOD, 2), RETURN(1),
        DEVICE(1, 3), DEVICE(1, 5), DEVICE(1, 7), DEVICE(1, 8), DEVICE(1, 9),
        DEVICE(5, 0), DEVICE(5, 2),
        JNE(2, BPF_DEVCG_DEV_CHAR, 3), JNE(4, 136, 2), RETURN(1),
        RETURN(0),
    };
    union bpf_attr load = {
        .prog_type = BPF_PROG_TYPE_CGROUP_DEVICE,
        .insns = (unsigned long)program,
        .insn_cnt = count(program),
        .license = (unsigned long)"Apache-2.0",
    };
    int filter = must(syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof load));
    union bpf_attr attach = {
        .target_fd = cgroup,
        .attach_bpf_fd = filter,
        .attach_type = BPF_CGROUP_DEVICE,
        .attach_flags = BPF_F_ALLOW_MULTI,
    };
    must(syscall(SYS_bpf, BPF_PROG_ATTACH, &attach, sizeof attach));
    close(filter);
}

/* Makes the cgroups; on v2 returns a descriptor for clone3, on hybrid -1. */
static int make_cgroups(void)
{
    char path[128];

    if (v2) {
        snprintf(path, sizeof path, "/sys/fs/cgroup/%s", group);
        must(mkdir(path, 0755));
        int fd = must(open(path, O_PATH | O_DIRECTORY | O_CLOEXEC));
        if (device_rules) {
            int dir = must(open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
            filter_devices_v2(dir);
            close(dir);
        }
        return fd;
    }
    for (size_t i = 0; i < count(hierarchies); i++) {
        snprintf(path, sizeof path, "/sys/fs/cgroup/%s/%s", hierarchies[i], group);
        must(mkdir(path, 0755));
        /* An empty cpuset takes nobody in. */
        if (strcmp(hierarchies[i], "cpuset") == 0) {
            static const char *const files[] = { "cpuset.cpus", "cpuset.mems" };
            for (size_t f = 0; f < count(files); f++) {
                char from[128], to[192], text[4096];
                snprintf(from, sizeof from, "/sys/fs/cgroup/cpuset/%s", files[f]);
                snprintf(to, sizeof to, "%s/%s", path, files[f]);
                int fd = must(open(from, O_RDONLY | O_CLOEXEC));
                ssize_t n = must(read(fd, text, sizeof text - 1));
                close(fd);
                text[n] = 0;
                put(to, text);
            }
        }
    }
    if (device_rules)
        filter_devices_v1();
    return -1;
}

/* "0" means the writer itself; a pid of another process would cost a grace period. */
static void enter_cgroups(void)
{
    char path[128];

    for (size_t i = 0; i < count(hierarchies); i++) {
        bool unified = strcmp(hierarchies[i], "unified") == 0;
        snprintf(path, sizeof path, "/sys/fs/cgroup/%s/%s/%s", hierarchies[i], group,
                 unified ? "cgroup.procs" : "tasks");
        put(path, "0");
    }
}

static void remove_cgroups(void)
{
    char path[128];

    if (v2) {
        snprintf(path, sizeof path, "/sys/fs/cgroup/%s", group);
        must(rmdir(path));
        return;
    }
    for (size_t i = 0; i < count(hierarchies); i++) {
        snprintf(path, sizeof path, "/sys/fs/cgroup/%s/%s", hierarchies[i], group);
        must(rmdir(path));
    }
}

static void mount_cgroups(void)
{
    const unsigned long flags = MS_NOSUID | MS_NOEXEC | MS_NODEV | MS_RELATIME;

    if (v2) {
        must(mount("cgroup", "sys/fs/cgroup", "cgroup2", flags | MS_RDONLY, NULL));
        return;
    }
    must(mount("cgroup", "sys/fs/cgroup", "tmpfs", flags, "mode=755"));
    for (size_t i = 0; i < count(hierarchies); i++) {
        char path[128];
        snprintf(path, sizeof path, "sys/fs/cgroup/%s", hierarchies[i]);
        must(mkdir(path, 0755));
        if (strcmp(hierarchies[i], "unified") == 0)
            must(mount("cgroup", path, "cgroup2", flags | MS_RDONLY, NULL));
        else
            must(mount("cgroup", path, "cgroup", flags | MS_RDONLY,
                       strcmp(hierarchies[i], "systemd") == 0 ? "none,name=systemd"
                                                              : hierarchies[i]));
    }
    must(mount(NULL, "sys/fs/cgroup", NULL, MS_REMOUNT | flags | MS_RDONLY, "mode=755"));
}

static void mount_all(void)
{
    const unsigned long none = MS_NOSUID | MS_NOEXEC | MS_NODEV;

    must(mount("proc", "proc", "proc", 0, NULL));
    must(mount("tmpfs", "dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k"));
    must(mkdir("dev/pts", 0755));
    must(mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
               "newinstance,ptmxmode=0666,mode=0620,gid=5"));
    must(mkdir("dev/shm", 0755));
    must(mount("shm", "dev/shm", "tmpfs", none, "mode=1777,size=65536k"));
    must(mkdir("dev/mqueue", 0755));
    must(mount("mqueue", "dev/mqueue", "mqueue", none, NULL));
    must(mount("sysfs", "sys", "sysfs", none | MS_RDONLY, NULL));
    mount_cgroups();
}

static void fill_dev(void)
{
    mode_t before = umask(0);
    int dev = must(open("dev", O_PATH | O_DIRECTORY | O_CLOEXEC));

    for (size_t i = 0; i < count(devices); i++)
        must(mknodat(dev, devices[i].name, S_IFCHR | 0666,
                     makedev(devices[i].major, devices[i].minor)));
    for (size_t i = 0; i < count(links); i++)
        must(symlinkat(links[i][0], dev, links[i][1]));
    close(dev);
    umask(before);
}

static void hide_paths(void)
{
    for (size_t i = 0; i < count(readonly_paths); i++) {
        const char *path = readonly_paths[i];
        if (mount(path, path, NULL, MS_BIND | MS_REC, NULL) < 0)
            continue;
        must(mount(NULL, path, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL));
    }
    for (size_t i = 0; i < count(masked); i++) {
        if (mount("dev/null", masked[i], NULL, MS_BIND, NULL) == 0)
            continue;
        if (errno == ENOTDIR)
            must(mount("tmpfs", masked[i], "tmpfs", MS_RDONLY, "size=0k,nr_inodes=2"));
    }
}

static void loopback_up(void)
{
    struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP };
    int fd = must(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));

    must(ioctl(fd, SIOCSIFFLAGS, &request));
    close(fd);
}

static void drop_privilege(void)
{
    const unsigned keep[] = { CAP_AUDIT_WRITE, CAP_KILL, CAP_NET_BIND_SERVICE };
    struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
    struct __user_cap_data_struct data[2] = { 0 };
    unsigned mask = 0;

    for (size_t i = 0; i < count(keep); i++)
        mask |= 1U << keep[i];
    for (unsigned cap = 0; prctl(PR_CAPBSET_READ, cap) >= 0; cap++)
        if (cap >= 32 || !(mask & (1U << cap)))
            must(prctl(PR_CAPBSET_DROP, cap, 0, 0, 0));
    must(syscall(SYS_setgroups, 0, NULL));
    must(syscall(SYS_setresgid, 0, 0, 0));
    must(syscall(SYS_setresuid, 0, 0, 0));
    data[0].effective = data[0].permitted = data[0].inheritable = mask;
    must(syscall(SYS_capset, &header, data));
    for (size_t i = 0; i < count(keep); i++)
        must(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, keep[i], 0, 0));
    must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}

static void inside(const char *root, char **command)
{
    static char *const environment[] = {
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm", NULL,
    };
    struct rlimit files = { 1024, 1024 };

    if (!v2)
        enter_cgroups();
    /* Only now: a cgroup namespace is rooted where its maker is. */
    must(unshare(CLONE_NEWCGROUP));
    must(setsid());
    must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
    must(mount(root, root, NULL, MS_BIND | MS_REC, NULL));
    must(chdir(root));
    mount_all();
    fill_dev();
    hide_paths();
    must(mount(NULL, root, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL));
    must(syscall(SYS_pivot_root, ".", "."));
    must(umount2(".", MNT_DETACH));
    must(chdir("/"));
    must(sethostname("runc", 4));
    loopback_up();
    must(setrlimit(RLIMIT_NOFILE, &files));
    must(syscall(SYS_close_range, 3, ~0U, CLOSE_RANGE_CLOEXEC));
    drop_privilege();
    must(execve(command[0], command, environment));
}

static void write_state(const char *dir, pid_t pid, const char *status, const char *root)
{
    char path[128], temporary[128];

    snprintf(path, sizeof path, "%s/state.json", dir);
    snprintf(temporary, sizeof temporary, "%s/state.json.new", dir);
    int fd = must(open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    dprintf(fd, "{\"ociVersion\":\"1.0.2\",\"status\":\"%s\",\"pid\":%d,\"rootfs\":\"%s\"}\n",
            status, pid, root);
    close(fd);
    must(rename(temporary, path));
}

int main(int argc, char **argv)
{
    char state[96], path[128];
    int status;

    if (argc > 1 && strcmp(argv[1], "-d") == 0) {
        device_rules = true;
        argv++;
        argc--;
    }
    if (argc < 4) {
        fprintf(stderr, "usage: floor [-d] v2|hybrid ROOTFS COMMAND [ARGUMENT...]\n");
        return 2;
    }
    v2 = strcmp(argv[1], "v2") == 0;
    snprintf(group, sizeof group, "denovo-floor-%d", getpid());
    snprintf(state, sizeof state, "/run/%s", group);

    must(mkdir(state, 0700));
    write_state(state, 0, "creating", argv[2]);
    int cgroup = make_cgroups();

    struct clone_args args = {
        .flags = CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNS |
                 (v2 ? CLONE_INTO_CGROUP : 0),
        .exit_signal = SIGCHLD,
        .cgroup = v2 ? cgroup : 0,
    };
    pid_t child = must(syscall(SYS_clone3, &args, sizeof args));
    if (child == 0)
        inside(argv[2], argv + 3);
    write_state(state, child, "running", argv[2]);
    must(waitpid(child, &status, 0));

    remove_cgroups();
    snprintf(path, sizeof path, "%s/state.json", state);
    must(unlink(path));
    must(rmdir(state));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
