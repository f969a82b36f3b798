/* One line a rank: which C library and which MPI it runs with, where, and that
 * the ranks of its job speak with each other. */
#include <gnu/libc-version.h>
#include <mpi.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    char version[MPI_MAX_LIBRARY_VERSION_STRING], release[64] = "?", host[64];
    int rank, size, length, sum, began = 0;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Get_library_version(version, &length);
    version[strcspn(version, ",\n")] = '\0';
    FILE *file = fopen("/etc/debian_version", "r");
    if (file && fgets(release, sizeof release, file))
        release[strcspn(release, "\n")] = '\0';
    gethostname(host, sizeof host);
    /* Waits for the others where it is told to: all releases at once. */
    if (argc > 2) {
        if (rank == 0) {
            file = fopen(argv[1], "w");
            if (file)
                fclose(file);
            for (int i = 2; i < argc; i++)
                for (int tries = 0; access(argv[i], F_OK) != 0 && tries < 3000; tries++)
                    usleep(100000);
        }
        began = 1;
    }
    MPI_Barrier(MPI_COMM_WORLD);
    MPI_Allreduce(&rank, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    if (rank == 0)
        printf("Debian %s|glibc %s|%s|%d ranks, sum %d|%s\n", release, gnu_get_libc_version(),
               version, size, sum, began ? "at the same time" : "alone");
    MPI_Finalize();
    return sum != size * (size - 1) / 2;
}
