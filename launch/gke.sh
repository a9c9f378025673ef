#!/usr/bin/env bash
# Runs the training command on a TPU slice of a GKE cluster, as a JobSet (launch/gke_jobset.yaml).
#
#   launch/gke.sh [--dry_run] NAME IMAGE ACCELERATOR TOPOLOGY CHIPS_PER_HOST [OPTIONS] -- --config=...
#
#   launch/gke.sh run1 us-docker.pkg.dev/me/images/cipo_jax tpu-v5-lite-podslice 4x4 4 --spot \
#       -- --config=configs/math.py --config.checkpoint.directory=gs://my-bucket/run1
#
# Options: --spot, for nodes that may be preempted; --claim=NAME, a ReadWriteMany volume claim for
# runs/ (without one, metrics and report last only as long as their pod). launch/Dockerfile builds
# the image. kubectl must point to a cluster with the JobSet controller. Checkpoints must go to a
# bucket. --dry_run prints the manifest. Hyperparameters are in configs/, not here.
set -euo pipefail

usage() {
  sed -n '4s/^# *//p' "$0" >&2
  exit 2
}
# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"
(($# >= 7)) || usage
name=$1 image=$2 accelerator=$3 topology=$4 chips=$5
shift 5
if [[ ! $name =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]]; then
  echo "NAME: got $name, wanted at most 40 of a-z, 0-9 and -, a letter first" >&2
  exit 2
fi
if [[ ! $topology =~ ^[0-9]+(x[0-9]+){1,2}$ || ! $chips =~ ^[1-9][0-9]*$ ]] ||
  ((${topology//x/*} % chips)); then
  echo "TOPOLOGY, CHIPS_PER_HOST: got $topology and $chips, wanted such as 4x4 and 4" >&2
  exit 2
fi
hosts=$((${topology//x/*} / chips))

# Quotes a string as JSON, which is valid YAML.
quoted() {
  local text=${1//\\/\\\\}
  text=${text//\"/\\\"}
  text=${text//$'\t'/\\t}
  printf '"%s"' "${text//$'\n'/\\n}"
}
nodes="{cloud.google.com/gke-tpu-accelerator: $(quoted "$accelerator"),"
nodes+=" cloud.google.com/gke-tpu-topology: $(quoted "$topology")"
volume="{name: runs, emptyDir: {}}"
while (($#)) && [[ $1 != "--" ]]; do
  case $1 in
    --spot) nodes+=', cloud.google.com/gke-spot: "true"' ;;
    --claim=*) volume="{name: runs, persistentVolumeClaim: {claimName: $(quoted "${1#*=}")}}" ;;
    *) usage ;;
  esac
  shift
done
(($# >= 2)) || usage
shift
if [[ " $* " != *" --config.checkpoint.directory=gs://"* ]]; then
  echo "pods keep no disk: add --config.checkpoint.directory=gs://bucket/run" >&2
  exit 2
fi
# Nodes start one after the other. Hosts that do not meet in time exit with 2, a mistake.
((hosts > 1)) && set -- --coordinator=auto --connect_timeout=1800 "$@"
arguments=
for argument in "$@"; do
  arguments+="${arguments:+, }$(quoted "$argument")"
done

manifest=$(<"$(dirname "$0")/gke_jobset.yaml")
manifest=${manifest//@NAME@/"$name"}
manifest=${manifest//@HOSTS@/"$hosts"}
manifest=${manifest//@CHIPS@/"$chips"}
manifest=${manifest//@IMAGE@/"$image"}
manifest=${manifest//@NODES@/"$nodes}"}
manifest=${manifest//@VOLUME@/"$volume"}
manifest=${manifest//@ARGUMENTS@/"[$arguments]"}
if $dry_run; then
  printf '%s\n' "$manifest"
else
  kubectl apply --filename=- <<<"$manifest"
fi
