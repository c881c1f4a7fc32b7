#!/bin/bash
# Written by `trainer launch --slurm` for sst2.toml.
#
# Slurm sends this script USR2 300 seconds before the time limit, and up to a minute earlier: the ranks write a
# checkpoint and stop, and the job goes back to the queue. USR1 means a checkpoint and the end:
#     scancel --full --signal=USR1 JOB
#SBATCH --job-name=sst2
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=2
#SBATCH --signal=B:USR2@300
#SBATCH --requeue
#SBATCH --open-mode=append

say() { printf 'job %s: %s\n' "$SLURM_JOB_ID" "$*" >&2; }

# What a signal has asked for. The shell hears it while it waits, and tells the launcher, which tells the ranks.
asked="" heard="" launcher=""
# shellcheck disable=SC2317,SC2329
ask() {
    asked=$1 heard=yes
    [[ -z $launcher ]] || kill -USR1 "$launcher" 2>/dev/null
}
trap 'ask stop' USR1
trap 'ask "${asked:-requeue}"' USR2

run_dir=runs/sst2

# The step of the newest whole checkpoint; 0 where there is none.
newest() {
    printf '%s\n' checkpoint-0/COMPLETE "$run_dir"/checkpoint-*/COMPLETE |
        sed -n 's|.*checkpoint-\([0-9]\{1,\}\)/COMPLETE$|\1|p' | sort -n | tail -n 1
}

# That, and when it was written: a run that replaces another one may write the same step again.
mark() {
    local step
    step=$(newest)
    echo "$step $(stat -c %Y "$run_dir/checkpoint-$step/COMPLETE" 2>/dev/null)"
}

before=$(mark)
for ((restarts = 0, fruitless = 0; ; restarts++)); do
    if [[ $asked ]]; then
        code=3 # no rank is there to write more than is written
        break
    fi
    start=$(mark)
    # When a rank is gone, the others have half a minute to end by themselves.
    srun --mpi=pmix --export=ALL --wait=30 \
        /opt/trainer/bin/trainer train sst2.toml --resume auto &
    launcher=$!
    [[ -z $asked ]] || kill -USR1 "$launcher" 2>/dev/null
    # A signal ends the wait, and not the launcher.
    heard=yes
    while [[ $heard ]]; do
        heard=""
        wait "$launcher"
        code=$?
    done
    ((code >= 0)) || code=1 # bash loses it where the end and a signal meet
    launcher=""
    # Done, or what would come to the same: bad input, a checkpoint on a signal, a loss not finite, out of memory.
    [[ -z $asked && ! $code =~ ^(0|2|3|4|6)$ ]] || break
    fruitless=$((fruitless + 1))
    [[ $(mark) == "$start" ]] || fruitless=0
    if ((restarts == 3 || fruitless == 2)); then
        say "exit $code: not started again, after $restarts restarts and $fruitless starts in a row without a new checkpoint"
        break
    fi
    say "exit $code: restart $((restarts + 1)) of 3, from step $(newest)"
    sleep 5
done

# After a fault, too: the signal may have met ranks that were just starting.
if [[ $asked == requeue && ! $code =~ ^(0|2|4|6)$ ]]; then
    if [[ $(mark) == "$before" ]]; then
        say "the time was over before one step was done (exit $code); not queued again. Give it more with --time"
    else
        # Before it is queued: that ends this script at once.
        say "the time is nearly over: back in the queue, to go on from step $(newest)"
        scontrol requeue "$SLURM_JOB_ID" ||
            say "could not be queued again; submitted once more, it goes on from step $(newest)"
    fi
fi
exit "$code"
