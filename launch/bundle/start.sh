#!/usr/bin/env bash
# The start script of bundles and installations, under three names: `trainer` and `mpirun` (or `trainer-mpirun`, next to
# another MPI's in PATH) are these programs; `run PROGRAM...` runs any other program in the same environment. It finds
# libtorch and NCCL, sets what the bundle's libraries need, and writes nothing.
set -euo pipefail

here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
name=$(basename "$0")
needed=$(<"$here/libtorch-version")

# torch_of PYTHON: the folder of torch that this Python would import from outside the working directory.
torch_of() {
    "$1" - 2>/dev/null <<'PYTHON'
import importlib.util, sys
sys.path = [folder for folder in sys.path if folder]
torch = importlib.util.find_spec("torch")
print(torch.submodule_search_locations[0] if torch else "")
PYTHON
}

version_of() {
    { cat "$1/build-version" 2>/dev/null || sed -n "s/^__version__ = '\(.*\)'/\1/p" "$1/version.py" 2>/dev/null; } |
        sed 's/+.*//'
}

# try NAME FOLDER: whether that is a matching libtorch; otherwise adds the reason to `reasons`.
try() {
    local found
    if [[ -z $2 ]]; then
        reasons+="  $1: no torch"$'\n'
    elif [[ ! -e $2/lib/libtorch_cpu.so ]]; then
        reasons+="  $1: no lib/libtorch_cpu.so in $2"$'\n'
    elif found=$(version_of "$2") && [[ $found != "$needed" ]]; then
        reasons+="  $1: $2 is version ${found:-unknown}"$'\n'
    else
        libtorch=$2
    fi
}

# An explicitly chosen libtorch is used or is an error; otherwise the first match is used.
find_libtorch() {
    libtorch="" reasons=""
    local python
    if [[ -n ${LIBTORCH:-} ]]; then
        try LIBTORCH "$LIBTORCH"
    elif [[ -n ${TRAINER_PYTHON:-} ]]; then
        try "TRAINER_PYTHON=$TRAINER_PYTHON" "$(torch_of "$TRAINER_PYTHON" || true)"
    else
        try "this bundle" "$([[ ! -e $here/libtorch ]] || echo "$here/libtorch/torch")"
        for python in python3 python; do
            [[ -z $libtorch ]] || break
            try "$python" "$(torch_of "$python" || true)"
        done
    fi
    if [[ -z $libtorch ]]; then
        cat >&2 <<ERROR
$name: error: no libtorch $needed, which this bundle was built for:
${reasons%$'\n'}
Activate (or load the module of) a Python environment that has torch $needed, or name its interpreter in
TRAINER_PYTHON, or a folder with libtorch's lib/ in LIBTORCH.
ERROR
        exit 2
    fi
}

# Once per host: the ranks of mpirun inherit it.
prepare() {
    find_libtorch
    export LD_LIBRARY_PATH="$libtorch/lib:$here/mpi/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    local nccl=$libtorch/../nvidia/nccl/lib
    if [[ -z ${TRAINER_NCCL_PATH:-} && -e $nccl/libnccl.so.2 ]]; then
        TRAINER_NCCL_PATH=$(realpath "$nccl")
        export TRAINER_NCCL_PATH
    fi
    export PATH="$here/mpi/bin:$PATH" OPAL_PREFIX=$here/mpi
    export PMIX_PKGLIBDIR=$here/mpi/lib/pmix PMIX_PKGDATADIR=$here/mpi/share/pmix
    # Without a remote shell: one host, only shared memory, and no direct copies between processes' memories, which
    # containers forbid.
    if ! command -v ssh >/dev/null && ! command -v rsh >/dev/null && ! command -v srun >/dev/null; then
        export OMPI_MCA_plm=${OMPI_MCA_plm:-isolated} OMPI_MCA_btl=${OMPI_MCA_btl:-self,vader}
        export OMPI_MCA_btl_vader_single_copy_mechanism=${OMPI_MCA_btl_vader_single_copy_mechanism:-none}
    fi
    if ((EUID == 0)); then
        export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    fi
    local missing
    missing=$(ldd "$here/bin/trainer" | sed -n 's/^\s*\(.*\) => not found/  \1/p; s/^.*\(version .* not found.*\)/  \1/p')
    if [[ -n $missing ]]; then
        printf '%s: error: libraries that this machine and %s lack:\n%s\n' "$name" "$libtorch" "$missing" >&2
        printf 'LD_LIBRARY_PATH may name more folders to look in.\n%s\n' "$(<"$here/version")" >&2
        exit 2
    fi
    export TRAINER_BUNDLE=$here
}

if [[ ${TRAINER_BUNDLE:-} != "$here" ]]; then
    prepare
fi
case $name in
mpirun | trainer-mpirun) exec "$here/mpi/bin/mpirun" "$@" ;;
run) exec "$@" ;;
trainer*) exec "$here/bin/trainer" "$@" ;; # also by a link's name, such as trainer-0.1.0
*) echo "$name: error: call this as trainer, trainer-mpirun, mpirun or run" >&2 && exit 2 ;;
esac
