/*
 * floor: the least that starting a container can cost on this kernel.
 *
 * Runs one command in what runc's default config.json asks for, with the system
 * calls that this takes, as denovo makes them, and nothing around them: it reads
 * config.json and what the kernel tells of the node, but makes nothing of it: no
 * JSON, no checks, no plan, no messages. `make bench` holds denovo's start against
 * it. Where denovo finds a cheaper way to the same state, this file follows, so
 * that it stays the floor.
 *
 *     floor [-d] v2|hybrid STATE BUNDLE ROOTFS COMMAND [ARGUMENT...]
 *
 * v2      one cgroup below /sys/fs/cgroup, entered by clone3 itself
 * hybrid  one in every v1 hierarchy and in /sys/fs/cgroup/unified
 * STATE   the folder for records
 * BUNDLE  the folder of config.json
 * -d      with the config's device rules: an eBPF filter on v2, devices.* on v1
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/keyctl.h>
#include <linux/openat2.h>
#include <limits.h>
#include <linux/sched.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
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

enum { UNIFIED = 9, HIERARCHIES };
static const char *const hierarchies[HIERARCHIES] = {
    "blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer",
    "memory", "pids", "systemd", [UNIFIED] = "unified",
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

static size_t get(const char *path, char *text, size_t size)
{
    int fd = must(open(path, O_RDONLY | O_CLOEXEC));
    ssize_t n = must(read(fd, text, size - 1));
    close(fd);
    text[n] = 0;
    return n;
}

/* The rules that every runtime adds to "deny all": make any node, use these. */
static void filter_devices_v1(void)
{
    static const char *const allow[] = {
        "c *:* m", "b *:* m", "c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm",
        "c 1:9 rwm", "c 5:0 rwm", "c 136:* rwm", "c 5:2 rwm", "c 10:200 rwm",
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
        DEVICE(5, 0), DEVICE(5, 2), DEVICE(10, 200),
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

/* --- cgroups ------------------------------------------------------------------ */

/* Where the new process enters: what clone3 takes, and what it writes "0" to. */
struct entrance {
    int cgroup2;
    int tasks[UNIFIED];
};

static void make_cgroups(struct entrance *entrance)
{
    char path[128];

    if (v2) {
        snprintf(path, sizeof path, "/sys/fs/cgroup/%s", group);
        must(mkdir(path, 0755));
        entrance->cgroup2 = must(open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        if (device_rules)
            filter_devices_v2(entrance->cgroup2);
        return;
    }
    for (size_t i = 0; i < HIERARCHIES; i++) {
        snprintf(path, sizeof path, "/sys/fs/cgroup/%s/%s", hierarchies[i], group);
        must(mkdir(path, 0755));
        if (i == UNIFIED) {
            entrance->cgroup2 = must(open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
            continue;
        }
        /* An empty cpuset takes nobody in. */
        if (strcmp(hierarchies[i], "cpuset") == 0) {
            static const char *const files[] = { "cpuset.cpus", "cpuset.mems" };
            for (size_t f = 0; f < count(files); f++) {
                char from[128], to[192], text[4096];
                snprintf(from, sizeof from, "/sys/fs/cgroup/cpuset/%s", files[f]);
                snprintf(to, sizeof to, "%s/%s", path, files[f]);
                get(from, text, sizeof text);
                put(to, text);
            }
        }
        strcat(path, "/tasks");
        entrance->tasks[i] = must(open(path, O_WRONLY | O_CLOEXEC));
    }
    if (device_rules)
        filter_devices_v1();
}

static void remove_cgroups(void)
{
    char path[128];

    if (v2) {
        snprintf(path, sizeof path, "/sys/fs/cgroup/%s", group);
        must(rmdir(path));
        return;
    }
    for (size_t i = 0; i < HIERARCHIES; i++) {
        snprintf(path, sizeof path, "/sys/fs/cgroup/%s/%s", hierarchies[i], group);
        must(rmdir(path));
    }
}

/* --- the root ------------------------------------------------------------------- */

/* A path of the root, wherever its links point: never out of it. */
static int in_root(int root, const char *path)
{
    struct open_how how = { .flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT };

    return syscall(SYS_openat2, root, path, &how, sizeof how);
}

static void mount_on(int target, const char *type, unsigned long flags, const char *data)
{
    char path[64];

    snprintf(path, sizeof path, "/proc/self/fd/%d", target);
    must(mount(type, path, type, flags, data));
    close(target);
}

static void mount_at(int root, const char *path, const char *type, unsigned long flags,
                     const char *data)
{
    mount_on(must(in_root(root, path)), type, flags, data);
}

/* The same on a folder that the mount before it does not have yet. */
static void mount_new(int root, int parent, const char *name, const char *path,
                      const char *type, unsigned long flags, const char *data)
{
    must(mkdirat(parent, name, 0755));
    mount_at(root, path, type, flags, data);
}

static void make_readonly(int mount, unsigned flags)
{
    struct mount_attr attributes = { .attr_set = MOUNT_ATTR_RDONLY };

    must(mount_setattr(mount, "", AT_EMPTY_PATH | flags, &attributes, sizeof attributes));
}

static void mount_cgroups(int root)
{
    const unsigned long flags = MS_NOSUID | MS_NOEXEC | MS_NODEV | MS_RELATIME;

    /* Read-only is the mount, not the filesystem: it is the node's, too. */
    if (v2) {
        mount_at(root, "sys/fs/cgroup", "cgroup2", flags, NULL);
        int mounted = must(in_root(root, "sys/fs/cgroup"));
        make_readonly(mounted, 0);
        close(mounted);
        return;
    }
    mount_at(root, "sys/fs/cgroup", "tmpfs", flags, "mode=755");
    int folder = must(in_root(root, "sys/fs/cgroup"));
    for (size_t i = 0; i < HIERARCHIES; i++) {
        char path[64];
        snprintf(path, sizeof path, "sys/fs/cgroup/%s", hierarchies[i]);
        bool named = strcmp(hierarchies[i], "systemd") == 0;
        mount_new(root, folder, hierarchies[i], path, i == UNIFIED ? "cgroup2" : "cgroup", flags,
                  i == UNIFIED ? NULL : named ? "none,name=systemd" : hierarchies[i]);
        int mounted = must(in_root(root, path));
        make_readonly(mounted, 0);
        close(mounted);
    }
    make_readonly(folder, 0);
    close(folder);
}

static void mount_all(int root)
{
    const unsigned long none = MS_NOSUID | MS_NOEXEC | MS_NODEV;

    mount_at(root, "proc", "proc", 0, NULL);
    mount_at(root, "dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k");
    int dev = must(in_root(root, "dev"));
    mount_new(root, dev, "pts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
              "newinstance,ptmxmode=0666,mode=0620,gid=5");
    mount_new(root, dev, "shm", "dev/shm", "tmpfs", none, "mode=1777,size=65536k");
    mount_new(root, dev, "mqueue", "dev/mqueue", "mqueue", none, NULL);
    mount_at(root, "sys", "sysfs", none | MS_RDONLY, NULL);
    mount_cgroups(root);

    mode_t before = umask(0);
    for (size_t i = 0; i < count(devices); i++)
        must(mknodat(dev, devices[i].name, S_IFCHR | 0666,
                     makedev(devices[i].major, devices[i].minor)));
    umask(before);
    for (size_t i = 0; i < count(links); i++)
        must(symlinkat(links[i][0], dev, links[i][1]));
    close(dev);
}

static void hide_paths(int root)
{
    const unsigned whole = AT_RECURSIVE;
    int null = must(open("/dev/null", O_PATH | O_CLOEXEC));

    for (size_t i = 0; i < count(readonly_paths); i++) {
        int target = in_root(root, readonly_paths[i]);
        if (target < 0)
            continue;
        int tree = must(open_tree(target, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC |
                                  AT_EMPTY_PATH | whole));
        make_readonly(tree, whole);
        must(move_mount(tree, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH));
        close(tree);
        close(target);
    }
    for (size_t i = 0; i < count(masked); i++) {
        struct stat stat;
        int target = in_root(root, masked[i]);
        if (target < 0)
            continue;
        must(fstat(target, &stat));
        if (S_ISDIR(stat.st_mode)) {
            mount_on(target, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NOEXEC | MS_NODEV,
                     "size=0k,nr_inodes=2");
            continue;
        }
        int tree = must(open_tree(null, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH));
        must(move_mount(tree, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH));
        close(tree);
        close(target);
    }
    close(null);
}

/* --- the new process --------------------------------------------------------------- */

/* The network namespace is made by the parent while the mounts are made here. */
static void take_network(int channel)
{
    char byte, control[CMSG_SPACE(sizeof(int))];
    struct iovec text = { &byte, 1 };
    struct msghdr message = {
        .msg_iov = &text, .msg_iovlen = 1,
        .msg_control = control, .msg_controllen = sizeof control,
    };
    int network;

    must(recvmsg(channel, &message, MSG_CMSG_CLOEXEC));
    memcpy(&network, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof network);
    must(setns(network, CLONE_NEWNET));

    struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP };
    int fd = must(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    must(ioctl(fd, SIOCSIFFLAGS, &request));
    close(fd);
}

static void drop_privilege(void)
{
    const unsigned keep = 1U << CAP_AUDIT_WRITE | 1U << CAP_KILL | 1U << CAP_NET_BIND_SERVICE;
    struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
    struct __user_cap_data_struct data[2] = { 0 };

    for (unsigned cap = 0; cap <= CAP_LAST_CAP; cap++)
        if (cap >= 32 || !(keep & (1U << cap)))
            must(prctl(PR_CAPBSET_DROP, cap, 0, 0, 0));
    must(syscall(SYS_setgroups, 0, NULL));
    must(syscall(SYS_setresgid, 0, 0, 0));
    must(syscall(SYS_setresuid, 0, 0, 0));
    data[0].effective = data[0].permitted = keep;
    must(syscall(SYS_capset, &header, data));
    must(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0));
    must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}

static void inside(const char *rootfs, const struct entrance *entrance, int channel,
                   char **command)
{
    static char *const environment[] = {
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm", NULL,
    };
    struct rlimit files = { 1024, 1024 };
    sigset_t none;

    /* "0" means the writer itself; a pid of another process would cost a grace period. */
    for (size_t i = 0; !v2 && i < UNIFIED; i++)
        must(write(entrance->tasks[i], "0", 1));
    /* Only now: a cgroup namespace is rooted where its maker is. */
    must(unshare(CLONE_NEWCGROUP));
    must(setsid());
    must(syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, "_ses.floor"));
    must(sethostname("runc", 4));

    must(mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL));
    int under = must(open(rootfs, O_PATH | O_CLOEXEC));
    int root = must(open_tree(under, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH |
                              AT_RECURSIVE));
    must(move_mount(root, "", under, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH));
    close(under);
    mount_all(root);
    hide_paths(root);
    make_readonly(root, 0);
    take_network(channel);

    int before = must(open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    must(fchdir(root));
    must(syscall(SYS_pivot_root, ".", "."));
    must(fchdir(before));
    must(mount(NULL, ".", NULL, MS_REC | MS_SLAVE, NULL));
    must(umount2(".", MNT_DETACH));
    must(chdir("/"));

    must(prctl(PR_SET_DUMPABLE, 0));
    must(setrlimit(RLIMIT_NOFILE, &files));
    drop_privilege();
    must(syscall(SYS_close_range, 3, ~0U, CLOSE_RANGE_CLOEXEC));
    sigemptyset(&none);
    must(sigprocmask(SIG_SETMASK, &none, NULL));
    must(execve(command[0], command, environment));
}

/* --- the parent ----------------------------------------------------------------------- */

static void give_network(int channel)
{
    char control[CMSG_SPACE(sizeof(int))] = { 0 };
    struct iovec text = { "g", 1 };
    struct msghdr message = {
        .msg_iov = &text, .msg_iovlen = 1,
        .msg_control = control, .msg_controllen = sizeof control,
    };
    int ours = must(open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));
    must(unshare(CLONE_NEWNET));
    int theirs = must(open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));
    must(setns(ours, CLONE_NEWNET));
    close(ours);

    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof theirs);
    memcpy(CMSG_DATA(header), &theirs, sizeof theirs);
    must(sendmsg(channel, &message, MSG_NOSIGNAL));
    close(theirs);
}

/* Whether a process that has the pid later on is still this one. */
static void started(pid_t pid, char *text, size_t size)
{
    char path[64];

    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    get(path, text, size);
}

/* What a runtime must know before it makes anything, without knowing it. */
static void look(const char *bundle, const char *rootfs)
{
    static const char *const node[] = {
        "/proc/self/uid_map", "/proc/self/mountinfo", "/proc/self/cgroup",
    };
    static char text[64 << 10];
    char path[4096], at[PATH_MAX];
    struct utsname name;
    cpu_set_t cpus;
    struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
    struct __user_cap_data_struct data[2];

    must(uname(&name));
    must(getgroups(0, NULL));
    must(syscall(SYS_capget, &header, data));
    must(sched_getaffinity(0, sizeof cpus, &cpus));
    for (size_t i = 0; i < count(node); i++)
        get(node[i], text, sizeof text);
    get(v2 ? "/sys/fs/cgroup/cgroup.controllers" : "/sys/fs/cgroup/unified/cgroup.controllers",
        text, sizeof text);
    must(realpath(bundle, at) ? 0 : -1);
    snprintf(path, sizeof path, "%s/config.json", bundle);
    get(path, text, sizeof text);
    must(realpath(rootfs, at) ? 0 : -1);
}

int main(int argc, char **argv)
{
    char folder[128], state[160], init[160], text[1024], byte;
    struct entrance entrance = { .cgroup2 = -1 };
    int channel[2], status;
    sigset_t all;

    if (argc > 1 && strcmp(argv[1], "-d") == 0) {
        device_rules = true;
        argv++;
        argc--;
    }
    if (argc < 6) {
        fprintf(stderr, "usage: floor [-d] v2|hybrid STATE BUNDLE ROOTFS COMMAND [ARGUMENT...]\n");
        return 2;
    }
    v2 = strcmp(argv[1], "v2") == 0;
    snprintf(group, sizeof group, "denovo-floor-%d", getpid());
    snprintf(folder, sizeof folder, "%s/%s", argv[2], group);
    snprintf(state, sizeof state, "%s/state.json", folder);
    snprintf(init, sizeof init, "%s/init", folder);

    look(argv[3], argv[4]);
    sigfillset(&all);
    must(sigprocmask(SIG_SETMASK, &all, NULL));
    int signals = must(signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK));

    must(mkdir(folder, 0711));
    started(getpid(), text, sizeof text);
    int record = must(open(state, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
    must(write(record, text, strlen(text)));
    close(record);
    make_cgroups(&entrance);

    must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, channel));
    struct clone_args args = {
        .flags = CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNS | CLONE_INTO_CGROUP,
        .exit_signal = SIGCHLD,
        .cgroup = entrance.cgroup2,
    };
    pid_t child = must(syscall(SYS_clone3, &args, sizeof args));
    if (child == 0) {
        close(channel[0]);
        inside(argv[4], &entrance, channel[1], argv + 5);
    }
    close(channel[1]);
    int process = must(pidfd_open(child, 0));
    started(child, text, sizeof text);
    must(symlink(group, init));
    give_network(channel[0]);
    /* It ends with the exec, or with an error that comes by it. */
    must(recv(channel[0], &byte, 1, 0));

    struct pollfd wait[] = { { .fd = process, .events = POLLIN }, { .fd = signals, .events = POLLIN } };
    siginfo_t end;
    do
        must(poll(wait, count(wait), -1));
    while (!(wait[0].revents & POLLIN));
    must(waitid(P_PIDFD, process, &end, WEXITED));
    status = end.si_code == CLD_EXITED ? end.si_status : 128 + end.si_status;

    remove_cgroups();
    must(unlink(state));
    must(unlink(init));
    must(rmdir(folder));
    return status;
}
