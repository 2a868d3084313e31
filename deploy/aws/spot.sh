#!/bin/bash
# Runs a command on a spot machine of EC2, and tells it two minutes before the machine is taken away: SIGTERM, on which
# `sprint launch` stops the ranks of all machines after the same step with their state saved.
#
#   deploy/aws/spot.sh sprint launch --nproc gpu --nnodes 16 --node-rank 3 --master node0:29400 \
#       -- train --preset imagenet18-16 --data /data/imagenet --device cuda --out /runs/a --resume
#
# Needs curl. Ends as the command does. Where Kubernetes or Slurm run the machines, these pass the notice on themselves.
# docs/cluster.md tells more.

set -euo pipefail

# The machine's own data (IMDSv2): asked for a token first. "instance-action" is there only once the notice was given.
data=http://169.254.169.254/latest
is_noticed() {
    local token
    token=$(curl -sf -m 2 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$data/api/token") &&
        curl -sf -m 2 -o /dev/null -H "X-aws-ec2-metadata-token: $token" "$data/meta-data/spot/instance-action"
}

"$@" &
command=$!
trap 'kill -TERM "$command" 2>/dev/null || true' TERM INT

# AWS asks for a look every five seconds.
while kill -0 "$command" 2>/dev/null; do
    if is_noticed; then
        echo "spot.sh: this machine will be taken away within two minutes: stopping" >&2
        kill -TERM "$command" 2>/dev/null || true
        break
    fi
    sleep "${SPOT_EVERY_S:-5}" || true
done
while :; do
    wait "$command" && status=0 || status=$?
    # Over 128 also if a signal came meanwhile.
    kill -0 "$command" 2>/dev/null || break
done
exit "$status"
