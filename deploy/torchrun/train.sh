#!/bin/bash
# A training run with torchrun as the launcher, for clusters that already start everything by it. On every machine:
#
#   NNODES=16 MASTER=node0:29400 JOB=1 BURN_DIST_SECRET_FILE=~/secret \
#       deploy/torchrun/train.sh --preset imagenet18-16 --data /data/imagenet --device cuda --out /runs/a
#
# The words are those of `sprint train`, without --resume. MASTER is a name or address of one of the machines, at which
# torchrun's agents meet; JOB is the same on all, another one for another run.
#
#   SPRINT    the program                                                   [sprint]
#   NPROC     ranks of a machine                                            [gpu]
#   RESTARTS  how often torchrun starts all ranks again                     [3]
#
# docs/cluster.md tells more.

set -euo pipefail

# torchrun starts Python unless told otherwise. It divides neither cores nor GPUs: each rank takes its share here.
# shellcheck disable=SC2016 # LOCAL_RANK is each rank's own
exec torchrun --nnodes "${NNODES:?the number of machines}" --nproc-per-node "${NPROC:-gpu}" \
    --rdzv-backend c10d --rdzv-endpoint "${MASTER:?HOST:PORT of one of the machines}" --rdzv-id "${JOB:?a name}" \
    --max-restarts "${RESTARTS:-3}" --no-python \
    bash -c '
        cores=$(env -u OMP_NUM_THREADS nproc)
        share=$((cores / LOCAL_WORLD_SIZE))
        export RAYON_NUM_THREADS=${RAYON_NUM_THREADS:-$((share > 0 ? share : 1))}
        IFS=, read -ra gpus <<<"${CUDA_VISIBLE_DEVICES-}"
        export CUDA_VISIBLE_DEVICES=${gpus[LOCAL_RANK]:-$LOCAL_RANK}
        exec "$0" train "$@" --resume' "${SPRINT:-sprint}" "$@"
