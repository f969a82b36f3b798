/* Latency of 8 bytes in microseconds, bandwidth of 4 MiB in MB/s, between two
   ranks: the best of several batches, since what disturbs only ever slows. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double once(char *buffer, int bytes, int times, int rank) {
    MPI_Barrier(MPI_COMM_WORLD);
    double begun = MPI_Wtime();
    for (int i = 0; i < times; i++) {
        if (rank == 0) {
            MPI_Send(buffer, bytes, MPI_CHAR, 1, 0, MPI_COMM_WORLD);
            MPI_Recv(buffer, bytes, MPI_CHAR, 1, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        } else {
            MPI_Recv(buffer, bytes, MPI_CHAR, 0, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            MPI_Send(buffer, bytes, MPI_CHAR, 0, 0, MPI_COMM_WORLD);
        }
    }
    return (MPI_Wtime() - begun) / times / 2;
}

static double best(char *buffer, int bytes, int times, int rank) {
    double least = 1e9;
    for (int batch = 0; batch < 20; batch++) {
        double took = once(buffer, bytes, times, rank);
        if (took < least) least = took;
    }
    return least;
}

int main(int argc, char **argv) {
    int rank, ranks, large = 4 << 20;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    if (ranks != 2) {
        if (rank == 0) fprintf(stderr, "pingpong: %d ranks, not 2\n", ranks);
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    char *buffer = malloc(large);
    memset(buffer, rank, large);
    double small = best(buffer, 8, 2000, rank), big = best(buffer, large, 20, rank);
    if (rank == 0) printf("latency %.4f\nbandwidth %.1f\n", small * 1e6, large / big / 1e6);
    free(buffer);
    MPI_Finalize();
}
