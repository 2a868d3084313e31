#!/bin/bash
# A training run with Open MPI's mpirun as the launcher (4.x). On one machine, from which the others can be reached by
# ssh, or inside a job of Slurm, PBS or LSF, where mpirun knows the machines by itself:
#
#   HOSTS=node0:8,node1:8 BURN_DIST_SECRET_FILE=~/secret \
#       deploy/openmpi/train.sh --preset imagenet18-2 --data /data/imagenet --device cuda --out /runs/a
#
# The words are those of `sprint train`, without --resume.
#
#   SPRINT       the program, as it is found on every machine               [sprint]
#   HOSTS        machines and their ranks, or none inside a job
#   NPROC        ranks of a machine                                         [8]
#   MASTER_ADDR  where the others find rank 0                               [the first of HOSTS, else this machine]
#   MASTER_PORT                                                             [29500]
#   RESTARTS     how often all ranks are started again after a failure      [3]
#
# docs/cluster.md tells more.

set -euo pipefail

first=${HOSTS:-$(hostname)}
first=${first%%,*}
export MASTER_ADDR=${MASTER_ADDR:-${first%%:*}} MASTER_PORT=${MASTER_PORT:-29500}
export BURN_DIST_SECRET_FILE=${BURN_DIST_SECRET_FILE:?a file with what only ranks of this run know, on every machine}
# Not bound: Open MPI would give each rank one core, or one socket to share. Each takes as many as are its share.
where=(--map-by "ppr:${NPROC:-8}:node" --bind-to none)
[ -z "${HOSTS-}" ] || where+=(--host "$HOSTS")

stopping=
job=
stop() {
    stopping=yes
    # It waits for as long as the option below says before it tells the ranks, and again before it kills them.
    kill -TERM "$job" 2>/dev/null || true
}
trap stop TERM INT

for ((start = 0; ; start++)); do
    export BURN_DIST_GENERATION=$start
    # Open MPI takes along what -x names and nothing else. A second for ranks to end in, its default, is too little.
    # shellcheck disable=SC2016 # the rank is each rank's own
    mpirun "${where[@]}" --mca odls_base_sigkill_timeout 20 \
        -x MASTER_ADDR -x MASTER_PORT -x BURN_DIST_SECRET_FILE -x BURN_DIST_GENERATION \
        bash -c '
            share=$(($(nproc) / OMPI_COMM_WORLD_LOCAL_SIZE))
            export RAYON_NUM_THREADS=${RAYON_NUM_THREADS:-$((share > 0 ? share : 1))}
            IFS=, read -ra gpus <<<"${CUDA_VISIBLE_DEVICES-}"
            export CUDA_VISIBLE_DEVICES=${gpus[OMPI_COMM_WORLD_LOCAL_RANK]:-$OMPI_COMM_WORLD_LOCAL_RANK}
            exec "$0" train "$@" --resume' "${SPRINT:-sprint}" "$@" &
    job=$!
    while :; do
        wait "$job" && status=0 || status=$?
        # A signal ends a wait before mpirun ends.
        kill -0 "$job" 2>/dev/null || break
    done
    [ -z "$stopping" ] || exit 130
    # Done, or words that are wrong: another start would not help.
    if [ "$status" = 0 ] || [ "$status" = 2 ] || [ "$start" -ge "${RESTARTS:-3}" ]; then
        exit "$status"
    fi
    echo "start $start ended with status $status: starting all ranks again" >&2
done
