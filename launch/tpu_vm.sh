#!/usr/bin/env bash
# Runs the usual command on a single-host Cloud TPU VM (v4-8, v5litepod-8, v5p-8, ...).
#
#   launch/tpu_vm.sh [--dry_run] NAME ZONE [ARGUMENTS OF cipo_jax.main ...]
#   launch/tpu_vm.sh my-tpu us-central2-b --config=configs/math.py --workdir=/mnt/disk/run1
#
# It copies this checkout to the VM, installs it with the tpu extra, and starts the command under
# nohup, so that it survives the connection; the same line again continues the run from its newest
# checkpoint. No hyperparameters here: they are in configs/. --dry_run prints the commands.
set -euo pipefail

dry_run=false
if [[ "${1:-}" == "--dry_run" ]]; then
  dry_run=true
  shift
fi
if (($# < 3)); then
  echo "usage: launch/tpu_vm.sh [--dry_run] NAME ZONE --config=... [more arguments]" >&2
  exit 2
fi
name=$1
zone=$2
shift 2
root=$(cd "$(dirname "$0")/.." && pwd)

execute() {
  if $dry_run; then
    printf '%q ' "$@"
    printf '\n'
  else
    "$@"
  fi
}

archive=${TMPDIR:-/tmp}/cipo_jax-$$.tar.gz
execute git -C "$root" archive --format=tar.gz --output="$archive" HEAD
execute gcloud compute tpus tpu-vm scp "$archive" "$name:cipo_jax.tar.gz" --zone="$zone"
arguments=$(printf '%q ' "$@")
execute gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --command="
set -e
mkdir -p cipo_jax && tar -xzf cipo_jax.tar.gz -C cipo_jax && cd cipo_jax
python3 -m venv .venv && .venv/bin/pip install -q -c constraints.txt -e '.[tpu]'
nohup launch/until_done.sh .venv/bin/python -m cipo_jax.main ${arguments}>> run.log 2>&1 &
echo started; tail -n 20 run.log"
