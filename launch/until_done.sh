#!/usr/bin/env bash
# Runs a command until it is done, and restarts it after interruptions.
#
#   launch/until_done.sh python -m cipo_jax.main --config=configs/math.py --workdir=/mnt/disk/run1
#
# Exit status of the command   what happens
#   0                          done
#   2                          only a person can mend it: not restarted
#   75                         asked to end (SIGTERM), state saved: restarted
#   anything else              restarted, at most RETRIES times without progress (default 10), but
#                              not after the third time in a row with this status at the same step
# Progress is a later step in the run directory's metrics.jsonl. Before the first step, and where
# that file is not on this host, failures are only counted.
# SIGTERM and SIGINT to this script are passed on as SIGTERM, and the command is then not restarted.
# The script exits with the command's last status.
set -uo pipefail

if (($# == 0)); then
  echo "usage: launch/until_done.sh COMMAND [ARGUMENTS ...]" >&2
  exit 2
fi

# The run directory: --workdir, else that of the config's name, as the command line has it.
workdir="" config="" previous=""
for argument in "$@"; do
  case "$argument" in
    --workdir=* | -workdir=*) workdir=${argument#*=} ;;
    --config=* | -config=*) config=${argument#*=} ;;
    *)
      case "$previous" in
        --workdir | -workdir) workdir=$argument ;;
        --config | -config) config=$argument ;;
      esac
      ;;
  esac
  previous=$argument
done
file=${config%%:*}
variant=${config:${#file}}
workdir=${workdir:-runs/$(basename -- "$file" .py)${variant/:/-}}
workdir=${workdir/#\~\//$HOME/}

# Prints the last step of the metrics; nothing where there is none.
last_step() {
  tail -n 1 -- "$workdir/metrics.jsonl" 2>/dev/null |
    sed -n 's/.*"step": *\([0-9][0-9]*\).*/\1/p' || true
}

ended=false
child=0
trap 'ended=true; ((child)) && kill -TERM "$child" 2>/dev/null' TERM INT
# Waits for the process $child, whatever signals come; its exit status is $status.
wait_for_child() {
  # One that came before the process was known has not reached it.
  if $ended; then kill -TERM "$child" 2>/dev/null; fi
  while true; do
    wait "$child"
    status=$?
    # A signal to this script ends the wait before the command has ended.
    kill -0 "$child" 2>/dev/null || break
  done
  child=0
}

failures=0 farthest=-1 repeated=0 before=""
while true; do
  "$@" &
  child=$!
  wait_for_child
  final=$status
  if $ended || ((final == 0 || final == 2)); then
    exit "$final"
  fi
  step=$(last_step)
  if ((final == 75 || ${step:--1} > farthest)); then
    failures=0
  fi
  if ((${step:--1} > farthest)); then
    farthest=$step
  fi
  if ((final != 75)); then
    [[ "$final at $step" == "$before" ]] || repeated=0
    before="$final at $step"
    if [[ -n "$step" ]] && ((++repeated >= 3)); then
      echo "until_done: ended with $final after step $step three times; not started again" >&2
      exit "$final"
    fi
    if ((++failures > ${RETRIES:-10})); then
      echo "until_done: ended with $final after $failures starts without progress; given up" >&2
      exit "$final"
    fi
  fi
  echo "until_done: ended with $final; starting it again" >&2
  sleep "${PAUSE:-10}" &
  child=$!
  wait_for_child
  if $ended; then
    exit "$final"
  fi
done
