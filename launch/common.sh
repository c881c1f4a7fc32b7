# shellcheck shell=bash
# Functions shared by the scripts. Sourced, not run; changes to the project's root.

shopt -s inherit_errexit
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

readonly cache="${XDG_CACHE_HOME:-$HOME/.cache}/trainer"

# Prints a line to stderr; stdout is for results.
say() { printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2; }
die() { say "error: $*"; exit 1; }

# The usual folder of the toolchain, for shells without a login profile.
command -v cargo >/dev/null || PATH="$PATH:$HOME/.cargo/bin"

# The supported versions of libtorch, the default first.
libtorch_versions() { sed -E '/^#/d; s/ .*//' launch/libtorch/versions; }

# supported_version WORD WHOSE: the supported version for 2.11, 2.11.0 or 2.11.0+cu130.
supported_version() {
    local version
    for version in $(libtorch_versions); do
        if [[ ${1%%+*} == "$version" || $1 == "${version%.*}" ]]; then
            echo "$version"
            return
        fi
    done
    die "$2 is version ${1:-unknown}; supported: $(libtorch_versions | paste -sd ' ' | sed 's/ /, /g')"
}

# lock_file VERSION: the lock file with the tch version that binds this libtorch.
lock_file() { echo "launch/libtorch/${1%.*}.lock"; }

# version_of FOLDER: a libtorch's version without its build tag; fails if there is no libtorch.
version_of() {
    [[ -e $1/lib/libtorch_cpu.so && -d $1/include/ATen ]] || return 1
    { cat "$1/build-version" 2>/dev/null || sed -n "s/^__version__ = '\(.*\)'/\1/p" "$1/version.py"; } | sed 's/+.*//'
}

# copy_libtorch FROM TO: copies the libraries of a libtorch and those packages' libraries that it needs to TO/torch/lib
# and TO/nvidia: side by side like in a Python environment, where they find each other.
copy_libtorch() {
    mkdir -p "$2/torch"
    cp -r "$1/lib" "$2/torch/lib"
    if [[ -d $1/../nvidia ]]; then
        cp -r "$1/../nvidia" "$2/nvidia"
    fi
    find "$2" -type f ! -name '*.so*' -delete
    rm -f "$2/torch/lib/libtorch_python.so"
    version_of "$1" >"$2/torch/build-version"
}

# torch_of PYTHON: the folder of torch in that Python environment, found without importing it.
torch_of() {
    "$1" - <<'EOF' || die "$1 has no torch: use a Python interpreter that can import it"
import importlib.util, sys
torch = importlib.util.find_spec("torch")
sys.exit(1) if torch is None else print(torch.submodule_search_locations[0])
EOF
}

# cargo_config LIBTORCH: the cargo configuration for this folder.
cargo_config() { printf "# Written by launch/setup.sh.\n[env]\nLIBTORCH = { value = '%s', force = false }\n" "$1"; }

# shadow_tree VERSION LIBTORCH: creates a second source tree for another libtorch from links to this one, with its own
# Cargo.lock, cargo configuration and target folder. Prints its folder. This tree's configuration stays unchanged.
shadow_tree() {
    local tree=$PWD/target/libtorch-${1%.*} entry
    mkdir -p "$tree/.cargo"
    find "$tree" -maxdepth 1 -type l -delete
    for entry in *; do
        case $entry in
        Cargo.lock | target | runs | data | models) ;;
        *) ln -s "$PWD/$entry" "$tree/$entry" ;;
        esac
    done
    ln -s "$(lock_file "$1")" "$tree/Cargo.lock"
    cargo_config "$2" >"$tree/.cargo/config.toml"
    echo "$tree"
}

has_nvidia_driver() { [[ -e /proc/driver/nvidia/version ]] || nvidia-smi >/dev/null 2>&1; }

# pip in a separate environment in the cache, which changes neither the system's Python nor the user's.
pip() {
    local venv="$cache/venv"
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        say "Python environment for downloads: $venv"
        rm -rf "$venv"
        python3 -m venv "$venv" || die "python3 -m venv failed; run launch/setup.sh"
    fi
    PIP_CACHE_DIR="$cache/pip" PIP_DISABLE_PIP_VERSION_CHECK=1 "$venv/bin/python" -m pip "$@" >&2
}

# wheel NAME VERSION: prints the path of that package's wheel, downloading it once.
wheel() {
    local folder="$cache/wheels/$1-$2"
    if ! compgen -G "$folder/*.whl" >/dev/null; then
        say "downloading $1 $2"
        rm -rf "$folder.partial"
        pip download --quiet --no-deps --only-binary=:all: --dest "$folder.partial" "$1==$2" ||
            die "cannot download $1 $2 from the Python package index"
        rm -rf "$folder"
        mv "$folder.partial" "$folder"
    fi
    compgen -G "$folder/*.whl"
}

# check_tests: builds the test programs of the GPU check, and prints a line `NAME FILE` for each.
check_tests() {
    local test targets=()
    while read -r test; do
        targets+=(--test "$test")
    done < <(grep -v '^#' tests/gpu/tests.txt)
    cargo test --release --locked --no-run --message-format=json "${targets[@]}" | python3 -c 'import json, sys
for message in map(json.loads, sys.stdin):
    if message.get("executable") and message["target"]["kind"] == ["test"]:
        print(message["target"]["name"], message["executable"])'
}

# mpi_environment RANKS: sets what mpirun needs for root, in the environment, and for fewer cores than ranks, in
# mpi_options.
mpi_environment() {
    mpi_options=()
    if ((EUID == 0)); then
        export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    fi
    if (($(nproc) < $1)); then
        mpi_options=(--oversubscribe)
    fi
}

# mpi_run RANKS COMMAND...
mpi_run() {
    mpi_environment "$1"
    mpirun -n "$1" "${mpi_options[@]}" "${@:2}"
}

# apt_install PACKAGE...: installs Debian packages as root without recommended ones.
apt_install() {
    apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
}
