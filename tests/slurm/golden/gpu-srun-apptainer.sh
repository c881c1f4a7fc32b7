#!/bin/bash
# Written by `trainer launch --slurm` for sst2.toml.
#
# Slurm sends USR2 to this script 900 seconds before the time limit, or up to a minute earlier: the ranks write a
# checkpoint and stop, and the job is requeued. USR1 requests a checkpoint and the end of the job:
#     scancel --full --signal=USR1 JOB
#SBATCH --job-name=sst2
#SBATCH --time=12:00:00
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --signal=B:USR2@900
#SBATCH --requeue
#SBATCH --open-mode=append

say() { printf 'job %s: %s\n' "$SLURM_JOB_ID" "$*" >&2; }

gone() {
    local code=$?
    say "exit $code: $1 failed"
    exit "$code"
}

# The request of a signal. The shell receives it while it waits, and signals the launcher, which signals the ranks.
asked="" heard="" launcher=""
# shellcheck disable=SC2317,SC2329
ask() {
    asked=$1 heard=yes
    [[ -z $launcher ]] || kill -USR1 "$launcher" 2>/dev/null
}
trap 'ask stop' USR1
trap 'ask "${asked:-requeue}"' USR2

# shellcheck source=/dev/null
source ./setup.sh || gone ./setup.sh

run_dir=runs/sst2

# The step of the latest complete checkpoint; 0 if there is none.
newest() {
    printf '%s\n' checkpoint-0/COMPLETE "$run_dir"/checkpoint-*/COMPLETE |
        sed -n 's|.*checkpoint-\([0-9]\{1,\}\)/COMPLETE$|\1|p' | sort -n | tail -n 1
}

# That step and the time of its checkpoint: a run that replaces another may write the same step again.
mark() {
    local step
    step=$(newest)
    echo "$step $(stat -c %Y "$run_dir/checkpoint-$step/COMPLETE" 2>/dev/null)"
}

# Only for the first start: after a fault or a time limit the job resumes from the latest checkpoint.
resume=none
((${SLURM_RESTART_COUNT:-0} == 0)) || resume=auto

before=$(mark)
for ((restarts = 0, fruitless = 0; ; restarts++)); do
    if [[ $asked ]]; then
        code=3 # no rank is running that could write a checkpoint
        break
    fi
    start=$(mark)
    # When a rank has exited, the others have half a minute to exit.
    srun --mpi=pmix --export=ALL --wait=30 --distribution=block:block \
        apptainer exec --nv --bind "$PWD" --pwd "$PWD" 'images/trainer 1.sif' \
        trainer train sst2.toml --resume "$resume" &
    launcher=$!
    [[ -z $asked ]] || kill -USR1 "$launcher" 2>/dev/null
    # A signal ends the wait, not the launcher.
    heard=yes
    while [[ $heard ]]; do
        heard=""
        wait "$launcher"
        code=$?
    done
    ((code >= 0)) || code=1 # bash loses the exit code if a signal arrives at the same time
    launcher=""
    resume=auto
    # Done, or a restart would not help: invalid input, a stop by a signal, a NaN or Inf loss, out of memory.
    [[ -z $asked && ! $code =~ ^(0|2|3|4|6)$ ]] || break
    fruitless=$((fruitless + 1))
    [[ $(mark) == "$start" ]] || fruitless=0
    if ((restarts == 3 || fruitless == 2)); then
        say "exit $code: not restarted, after $restarts restarts and $fruitless consecutive starts without a new checkpoint"
        break
    fi
    say "exit $code: restart $((restarts + 1)) of 3, from step $(newest)"
    sleep 5
done

# Also after a fault: the signal may have reached ranks that were just starting.
if [[ $asked == requeue && ! $code =~ ^(0|2|4|6)$ ]]; then
    if [[ $(mark) == "$before" ]]; then
        say "the time limit came before the first step (exit $code); not requeued. Increase --time"
    else
        # Print this first: scontrol ends this script at once.
        say "the time limit is near: requeued, to resume from step $(newest)"
        scontrol requeue "$SLURM_JOB_ID" ||
            say "requeue failed; submit the job again to resume from step $(newest)"
    fi
fi
exit "$code"
