#!/bin/bash
# An archive of scenes as a Slurm array job: every task does its share of the scenes with a node of its own.
#
#   sbatch --array=1-16 workflows/slurm/array.sh 'archive/**/*.tif' --out results --format parquet
#
# All arguments go to `tileseg batch`; scenes, model and results lie on a file system that the nodes share. What to
# expect is in README.md beside this file.
#
#SBATCH --job-name=tileseg
#SBATCH --array=1-4              # shares; from 1, without gaps
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@300      # so long before the time limit: blocks in flight are finished, the rest comes later
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=tileseg-%A_%a.log
# For GPUs:  #SBATCH --gres=gpu:1
#
# Where tileseg is not on the PATH of the shell that submits, say so here:  source /shared/tileseg/bin/activate

set -u
tries=${TILESEG_TRIES:-3} # how often a task that failed (exit code 1, or killed) is tried in all

here="task $SLURM_ARRAY_TASK_ID of job $SLURM_ARRAY_JOB_ID on $(hostname)"
failures="${SLURM_SUBMIT_DIR:-.}/tileseg-${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}.failures" # a line for each
say() { echo "$(date -u +%FT%TZ) $here: $*" >&2; }

if [[ $SLURM_ARRAY_TASK_MIN != 1 || $SLURM_ARRAY_TASK_MAX != "$SLURM_ARRAY_TASK_COUNT" ]]; then
  say "the shares are counted from 1 without gaps: submit with --array=1-N"
  exit 2
fi

# Slurm goes on where the job was, and so does tileseg: what is finished is not done again.
requeue() {
  say "$1: queued again"
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}" || say "could not be queued again: submit it again"
  exit "$code"
}

told=
say "begins"
# The catalogue is one for all: the job that comes after the array writes it.
tileseg batch "$@" --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" --no-catalogue --quiet &
child=$!
# --signal tells this shell alone; scancel, preemption and the time limit itself tell all processes of the job.
trap 'told=time; kill -TERM "$child"' USR1
trap 'told=${told:-end}' TERM
while kill -0 "$child" 2>/dev/null; do # a signal ends wait, but not the child
  wait "$child"
done
wait "$child"
code=$?
say "ended with $code"

case $code in
  0) rm -f "$failures" ;;
  2 | 42) say "trying again is useless: see the lists of this share in the results" ;;
  *)
    if [[ $told == time ]]; then
      requeue "the time was up"
    elif [[ $told == end ]]; then
      say "told to end"
    else
      say "ended with $code" 2>>"$failures"
      if (($(wc -l <"$failures") < tries)); then
        requeue "failed $(wc -l <"$failures") of $tries times"
      fi
      say "failed $tries times"
    fi
    ;;
esac
exit "$code"
