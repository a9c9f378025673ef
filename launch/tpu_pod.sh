#!/usr/bin/env bash
# Runs the training command on all hosts of a TPU pod slice, which is created as a queued resource.
#
#   launch/tpu_pod.sh [--dry_run] create NAME ZONE TYPE VERSION [--spot]
#   launch/tpu_pod.sh [--dry_run] start NAME ZONE --config=... --workdir=... [more arguments]
#   launch/tpu_pod.sh [--dry_run] delete NAME ZONE
#
#   launch/tpu_pod.sh create my-pod us-east5-b v5litepod-16 v2-alpha-tpuv5-lite --spot
#   launch/tpu_pod.sh start my-pod us-east5-b --config=configs/math.py --workdir=/home/me/run1 \
#       --config.checkpoint.directory=gs://my-bucket/run1
#
# The hosts share no disk, so checkpoints must go to a bucket. After a preemption, delete, create
# and start again with the same arguments: the run continues from its newest checkpoint.
# --dry_run prints the commands. Hyperparameters are in configs/, not here.
set -euo pipefail

usage() {
  sed -n '4,6s/^# *//p' "$0" >&2
  exit 2
}
# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"
(($# >= 3)) || usage
verb=$1
name=$2
zone=$3
shift 3

case $verb in
  create)
    (($# >= 2)) || usage
    type=$1
    version=$2
    shift 2
    execute gcloud compute tpus queued-resources create "$name" --node-id="$name" \
      --zone="$zone" --accelerator-type="$type" --runtime-version="$version" "$@"
    ;;
  start)
    (($# >= 1)) || usage
    if [[ " $* " != *" --config.checkpoint.directory=gs://"* ]]; then
      echo "the hosts share no disk: add --config.checkpoint.directory=gs://bucket/run" >&2
      exit 2
    fi
    pack_checkout
    execute gcloud compute tpus tpu-vm scp "$archive" "$name:cipo_jax.tar.gz" \
      --zone="$zone" --worker=all
    execute gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
      --command="$(install_and_start tpu --coordinator=auto "$@")"
    ;;
  delete)
    execute gcloud compute tpus queued-resources delete "$name" --zone="$zone" --force --quiet
    ;;
  *) usage ;;
esac
