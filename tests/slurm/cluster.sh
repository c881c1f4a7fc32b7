#!/usr/bin/env bash
# A Slurm cluster on one machine for tests: Debian's packages, with configuration, state and logs in a separate folder.
#
# usage: tests/slurm/cluster.sh check         checks whether Slurm can run here: exit code 3 with the reason if not
#        tests/slurm/cluster.sh up FOLDER     starts it; commands find it by SLURM_CONF=FOLDER/slurm.conf
#        tests/slurm/cluster.sh down FOLDER   ends its jobs and daemons, and removes FOLDER
#
# If TRAINER_WITHOUT_SLURM is set, it cannot, for that reason.
#
# It has two nodes of two CPUs, which are this machine twice: the first has its name, so that mpirun finds it.
set -euo pipefail

PATH="$PATH:/usr/sbin:/sbin" # where the daemons are
say() { printf 'cluster: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

check() {
    local name missing=()
    if [[ -n ${TRAINER_WITHOUT_SLURM:-} ]]; then
        say "$TRAINER_WITHOUT_SLURM"
        exit 3
    fi
    if ((EUID != 0)); then
        say "Slurm's daemons need root"
        exit 3
    fi
    for name in munged slurmctld slurmd sbatch srun scontrol; do
        command -v "$name" >/dev/null || missing+=("$name")
    done
    if ((${#missing[@]})); then
        say "not installed: ${missing[*]} (Debian and Ubuntu: apt-get install slurm-wlm munge)"
        exit 3
    fi
    if ! compgen -G "/usr/lib*/*/slurm*/mpi_pmix.so" >/dev/null && ! compgen -G "/usr/lib*/slurm*/mpi_pmix.so" >/dev/null; then
        say "this Slurm has no PMIx (mpi_pmix.so)"
        exit 3
    fi
}

# wait_for SECONDS WHAT COMMAND...
wait_for() {
    local deadline=$((SECONDS + $1))
    until "${@:3}"; do
        if ((SECONDS >= deadline)); then
            tail -v -n 20 "$folder"/log/* >&2 || true
            down
            die "$2: not within $1 seconds; see the ends of the logs above"
        fi
        sleep 0.1
    done
}

# Unused ports, outside the range from which the system gives ports to programs that name none: one of these would take
# them before the daemons do.
free_ports() {
    python3 - "$1" <<'PYTHON'
import random, socket, sys
with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
    low, high = map(int, file.read().split())
ports = [port for port in range(5000, 65536) if not low <= port <= high] or list(range(5000, 65536))
random.shuffle(ports)
sockets = []
for port in ports:
    if len(sockets) == int(sys.argv[1]):
        break
    try:
        sockets.append(socket.create_server(("", port)))
    except OSError:
        pass
print(*[s.getsockname()[1] for s in sockets])
PYTHON
}

readonly here=${HOSTNAME%%.*}
readonly nodes=("$here" "$here-second")

configure() {
    local ports
    read -ra ports <<<"$(free_ports 3)"
    mkdir -p "$folder"/{log,state} "${nodes[@]/#/$folder/spool/}" "${nodes[@]/#/$folder/tmp/}"
    chmod 755 "$folder"
    (umask 077 && head -c 128 /dev/urandom >"$folder/munge.key") # munged refuses a key that other users can read
    cat >"$folder/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$HOSTNAME(127.0.0.1)
SlurmctldPort=${ports[0]}
SlurmctldPidFile=$folder/slurmctld.pid
SlurmctldLogFile=$folder/log/slurmctld
StateSaveLocation=$folder/state
SlurmUser=root
SlurmdUser=root
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmdLogFile=$folder/log/slurmd-%n
SlurmdSpoolDir=$folder/spool/%n
TmpFS=$folder/tmp/%n
AuthType=auth/munge
# A requeued job waits until the credential of its last run has expired: two minutes by default.
AuthInfo=socket=$folder/munge.socket,cred_expire=5
CredType=cred/munge
# A container has neither systemd nor its own control groups.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MailProg=/bin/true
MpiDefault=pmix
SchedulerParameters=sched_min_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
KillWait=5
OverTimeLimit=0
MinJobAge=3600
ReturnToService=2
SlurmdParameters=config_overrides
NodeName=${nodes[0]} NodeHostname=$HOSTNAME NodeAddr=127.0.0.1 Port=${ports[1]} CPUs=2
NodeName=${nodes[1]} NodeHostname=$HOSTNAME NodeAddr=127.0.0.1 Port=${ports[2]} CPUs=2
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
}

all_idle() { [[ $(sinfo --noheader --format='%T %D' 2>/dev/null) == "idle ${#nodes[@]}" ]]; }
no_jobs() { [[ -z $(squeue --noheader 2>/dev/null) ]]; }
# A process that was not awaited is a zombie, and has ended.
has_ended() { ! grep -qs '^State:[[:space:]]*[^[:space:]ZX]' "/proc/$1/status"; }

up() {
    local node
    check
    [[ ! -e $folder/slurm.conf ]] || die "$folder contains a cluster already: run tests/slurm/cluster.sh down $folder"
    configure
    # Daemons must not inherit our descriptors: a reader of our output would wait for them to end.
    munged --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
        --log-file="$folder/log/munged" --seed-file="$folder/munge.seed" </dev/null >/dev/null 2>&1 ||
        die "munged: $(tail -n 3 "$folder/log/munged")"
    slurmctld -c </dev/null >/dev/null 2>&1
    for node in "${nodes[@]}"; do
        slurmd -N "$node" </dev/null >/dev/null 2>&1
    done
    wait_for 60 "the nodes" all_idle
}

down() {
    local file pid
    if [[ -e $folder/slurmctld.pid ]]; then
        scancel --user="$(id -un)" 2>/dev/null || true
        for ((i = 0; i < 150; i++)); do
            no_jobs && break
            sleep 0.1
        done
    fi
    # Kill them: their state is discarded anyway.
    for file in "$folder"/*.pid; do
        [[ -e $file ]] || continue
        pid=$(<"$file")
        kill -KILL "$pid" 2>/dev/null || true
        for ((i = 0; i < 100; i++)); do
            has_ended "$pid" && break
            sleep 0.1
        done
    done
    rm -rf "$folder"
}

case ${1:-} in
check) check ;;
up | down)
    folder=$(realpath -m "${2:?usage: cluster.sh $1 FOLDER}")
    export SLURM_CONF="$folder/slurm.conf"
    "$1"
    ;;
*) sed -n '/^# usage/,/^#$/s/^# //p' "$0" >&2 && exit 2 ;;
esac
