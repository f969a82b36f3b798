/*
 * copies: how fast do two MPI ranks exchange 4 MiB, and did the kernel copy
 * straight from one rank's memory into the other's?
 *
 * On one node Open MPI moves large messages with process_vm_readv (CMA, one
 * copy). Where it cannot reach the other rank it falls back to two copies
 * through shared memory, and says so, if at all, in a warning. A bandwidth alone
 * would leave room for doubt on a noisy machine, so this program counts: it
 * defines process_vm_readv itself (linked with -rdynamic, so that the MPI
 * library finds this one), and adds up what came through.
 *
 * Prints one line: best MB/s of one direction, MiB sent, MiB copied by CMA.
 */
#define _GNU_SOURCE
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static double copied;

ssize_t process_vm_readv(pid_t pid, const struct iovec *local, unsigned long nlocal,
                         const struct iovec *remote, unsigned long nremote,
                         unsigned long flags)
{
    ssize_t n = syscall(SYS_process_vm_readv, pid, local, nlocal, remote, nremote, flags);
    if (n > 0)
        copied += n;
    return n;
}

int main(int argc, char **argv)
{
    enum { size = 4 << 20, rounds = 40 };
    int rank, ranks;

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    char *buffer = malloc(size);
    if (ranks != 2 || !buffer) {
        fprintf(stderr, "copies: needs two ranks\n");
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    memset(buffer, rank, size);

    double best = 1e9;
    for (int i = 0; i < rounds; i++) {
        MPI_Barrier(MPI_COMM_WORLD);
        double start = MPI_Wtime();
        if (rank == 0) {
            MPI_Send(buffer, size, MPI_BYTE, 1, 0, MPI_COMM_WORLD);
            MPI_Recv(buffer, size, MPI_BYTE, 1, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        } else {
            MPI_Recv(buffer, size, MPI_BYTE, 0, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            MPI_Send(buffer, size, MPI_BYTE, 0, 0, MPI_COMM_WORLD);
        }
        double one_way = (MPI_Wtime() - start) / 2;
        if (one_way < best)
            best = one_way;
    }

    double total;
    MPI_Reduce(&copied, &total, 1, MPI_DOUBLE, MPI_SUM, 0, MPI_COMM_WORLD);
    if (rank == 0)
        printf("%.0f %.0f %.0f\n", size / best / 1e6, 2.0 * rounds * size / (1 << 20),
               total / (1 << 20));
    free(buffer);
    MPI_Finalize();
    return 0;
}
