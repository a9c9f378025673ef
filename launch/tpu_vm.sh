#!/usr/bin/env bash
# Runs the training command on a single-host Cloud TPU VM (v4-8, v5litepod-8, v5p-8, ...).
#
#   launch/tpu_vm.sh [--dry_run] NAME ZONE [ARGUMENTS OF cipo_jax.main ...]
#   launch/tpu_vm.sh my-tpu us-central2-b --config=configs/math.py --workdir=/mnt/disk/run1
#
# This copies the last commit to the VM, installs it with the tpu extra, and starts the command
# under nohup, so that it survives the connection. The same line again continues the run from its
# newest checkpoint. Hyperparameters are in configs/, not here. --dry_run prints the commands.
set -euo pipefail

# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"
if (($# < 3)); then
  echo "usage: launch/tpu_vm.sh [--dry_run] NAME ZONE --config=... [more arguments]" >&2
  exit 2
fi
name=$1
zone=$2
shift 2

pack_checkout
execute gcloud compute tpus tpu-vm scp "$archive" "$name:cipo_jax.tar.gz" --zone="$zone"
execute gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" \
  --command="$(install_and_start tpu "$@")"
