/*
 * step: which instructions a program and its children run, before they execute
 * another one and until the program ends, in the order of their first time.
 *
 *     step OUTPUT COMMAND [ARGUMENT...]
 *
 * OUTPUT gets one offset into the executable, in hexadecimal, a line. It goes one
 * instruction at a time (ptrace(2) PTRACE_SINGLESTEP), about 5 µs each.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LARGEST = 64 << 20 };

static unsigned long first_mapping(pid_t pid)
{
    char path[64];
    unsigned long start = 0;

    snprintf(path, sizeof path, "/proc/%d/maps", pid);
    FILE *maps = fopen(path, "r");
    if (!maps || fscanf(maps, "%lx", &start) != 1) {
        perror(path);
        exit(1);
    }
    fclose(maps);
    return start;
}

int main(int argc, char **argv)
{
    const long options = PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK |
                         PTRACE_O_TRACEEXEC;
    unsigned char *seen = calloc(1, LARGEST);
    FILE *out = argc > 2 ? fopen(argv[1], "w") : NULL;
    pid_t pid, first;
    int status;

    if (!out || !seen) {
        fprintf(stderr, "usage: step OUTPUT COMMAND [ARGUMENT...]\n");
        return 2;
    }
    if ((pid = fork()) == 0) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        execv(argv[2], argv + 2);
        _exit(127);
    }
    first = pid;
    waitpid(pid, &status, 0);
    ptrace(PTRACE_SETOPTIONS, pid, 0, options);
    unsigned long base = first_mapping(pid);
    ptrace(PTRACE_SINGLESTEP, pid, 0, 0);

    while ((pid = waitpid(-1, &status, __WALL)) > 0 || errno == EINTR) {
        if (pid == first && !WIFSTOPPED(status))
            break;
        if (pid <= 0 || !WIFSTOPPED(status))
            continue;
        int signal = WSTOPSIG(status), event = status >> 16;
        if (event == PTRACE_EVENT_EXEC) {
            ptrace(PTRACE_DETACH, pid, 0, 0);
            continue;
        }
        if (event || signal == SIGTRAP || signal == SIGSTOP) {
            struct user_regs_struct registers;
            ptrace(PTRACE_GETREGS, pid, 0, &registers);
            unsigned long offset = registers.rip - base;
            if (offset < LARGEST && !seen[offset]) {
                seen[offset] = 1;
                fprintf(out, "%lx\n", offset);
            }
            signal = 0;
        }
        ptrace(PTRACE_SINGLESTEP, pid, 0, signal);
    }
    return fclose(out) ? 1 : 0;
}
