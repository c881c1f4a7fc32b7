#!/usr/bin/env bash
# Prepares this machine for `cargo build`: system packages, libtorch, the cargo configuration with its folder, and the
# matching Cargo.lock. It can be run repeatedly: finished parts are skipped, interrupted ones are repaired.
set -euo pipefail
# shellcheck source=SCRIPTDIR/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
    cat <<'EOF'
usage: launch/setup.sh [--libtorch VERSION] [--cpu | --cuda | --torch-of PYTHON] [--only-libtorch]

  --libtorch VERSION  2.13 (the default) or 2.11
  --cpu               libtorch for the CPU alone (0.6 GB to download)
  --cuda              libtorch with CUDA, cuDNN and NCCL (2.5 GB to download, 5 GB on disk)
  --torch-of PYTHON   the torch that is installed for this Python interpreter, of one of these versions
  --only-libtorch     install libtorch and print its folder; leave .cargo/config.toml as it is

What is not said stays as it was chosen before. The first time it is CUDA where an NVIDIA driver is loaded.
LIBTORCH=FOLDER in the environment names a libtorch of your own, of one of these versions.
Downloads and libtorch go to ${XDG_CACHE_HOME:-~/.cache}/trainer.
EOF
}

readonly config=.cargo/config.toml

# ---------------------------------------------------------------------------------------------- system packages

has_mpi() { command -v mpicc >/dev/null && command -v mpirun >/dev/null; }
has_clang() { command -v clang >/dev/null; }
has_cxx() { command -v cc >/dev/null && command -v c++ >/dev/null; }
has_venv() { python3 -c 'import ensurepip, venv' 2>/dev/null; }
has_certificates() { [[ ! -e /etc/debian_version || -e /etc/ssl/certs/ca-certificates.crt ]]; }

# Where bindgen looks for it: LIBCLANG_PATH (a folder or the file), or the distributions' folders.
libclang() {
    compgen -G "${LIBCLANG_PATH:-/nowhere}/libclang*.so*" ||
        { [[ -f ${LIBCLANG_PATH:-} ]] && printf '%s\n' "$LIBCLANG_PATH"; } ||
        compgen -G "/usr/lib/llvm*/lib/libclang[-.]*so*" ||
        compgen -G "/usr/lib/*-linux-gnu/libclang[-.]*so*" ||
        compgen -G "/usr/lib64/libclang[-.]*so*"
}
has_libclang() { libclang >/dev/null; }

# Debian's names of the missing packages.
missing_packages() {
    has_mpi || echo openmpi-bin libopenmpi-dev
    has_clang || echo clang
    has_libclang || echo libclang-dev
    has_cxx || echo g++
    has_venv || echo python3-venv
    has_certificates || echo ca-certificates
}

system_packages() {
    local missing as_root=()
    read -ra missing <<<"$(missing_packages | tr '\n' ' ')"
    if ((${#missing[@]} == 0)); then
        say "system packages: installed ($(mpirun --version 2>/dev/null | head -n 1))"
        return
    fi
    if ((EUID != 0)); then
        as_root=(sudo)
    fi
    local command="${as_root[*]} apt-get install ${missing[*]}"
    if ! command -v apt-get >/dev/null; then
        die "missing packages (Debian's names): ${missing[*]}. Install your system's equivalents and run this again"
    elif ((EUID != 0)) && ! sudo -n true 2>/dev/null; then
        die "missing: ${missing[*]}. Run this first: $command"
    fi
    say "system packages: installing ${missing[*]}"
    "${as_root[@]}" apt-get update -qq >&2
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2 || die "apt-get failed; try: $command"
    hash -r
    read -ra missing <<<"$(missing_packages | tr '\n' ' ')"
    ((${#missing[@]} == 0)) || die "still missing after apt-get: ${missing[*]}"
}

# libclang generates the bindings of MPI at build time: check now that it can, not in the middle of a build.
check_bindgen() {
    local library includes
    library=$(libclang | head -n 1)
    python3 -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1]).clang_createIndex' "$library" ||
        die "$library does not load; reinstall libclang, or set LIBCLANG_PATH to the folder of another one"
    read -ra includes <<<"$(mpicc -show | tr ' ' '\n' | grep '^-I' | tr '\n' ' ')"
    printf '#include <stddef.h>\n#include <mpi.h>\n' | clang "${includes[@]}" -x c -fsyntax-only - ||
        die "clang cannot read mpi.h; the header packages of MPI or clang are incomplete"
    say "bindings of MPI: $library reads mpi.h"
}

check_rust() {
    local needed found
    needed=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    local remedy="Install it with rustup (Debian and Ubuntu: apt install rustup, then rustup default stable)"
    found=$(rustc --version 2>/dev/null | cut -d ' ' -f 2) || die "Rust $needed or newer is required. $remedy"
    command -v cargo >/dev/null || die "rustc is installed, but cargo is not. $remedy"
    printf '%s\n%s\n' "$needed" "$found" | sort -CV || die "Rust $found is older than $needed. $remedy"
    say "Rust: $found"
}

# ----------------------------------------------------------------------------------------------------- libtorch

# install KIND REQUIREMENT...: unpacks the packages into a folder that gets its final name only when finished.
install() {
    local name="libtorch-$version-$1"
    local folder="$cache/$name" wheels="$cache/wheels/$name"
    [[ $(uname -sm) == "Linux x86_64" ]] || die "no libtorch to download for $(uname -sm): set LIBTORCH to your own"
    if [[ ! -e $wheels ]]; then
        say "libtorch: downloading $version for $1 (minutes)"
        mkdir -p "$wheels.partial"
        pip download --quiet --only-binary=:all: --dest "$wheels.partial" "${@:2}" || die "libtorch's packages cannot" \
            "be downloaded. They exist for Python 3.10 to 3.14; this is $(python3 --version)"
        mv "$wheels.partial" "$wheels"
        rm -rf "$cache/pip" # pip's own copies, which let an interrupted download go on
    fi
    say "libtorch: unpacking into $folder"
    rm -rf "$folder" "$folder.partial"
    pip install --quiet --no-compile --no-index --no-deps --target "$folder.partial" "$wheels"/*.whl ||
        die "cannot unpack libtorch's packages: remove $wheels if damaged, or free disk space, and run this again"
    "arrange_$1" "$folder.partial"
    mv "$folder.partial" "$folder"
}

# The wheel's libtorch_cpu without CUDA. Two small CUDA libraries stay, because libtorch_cpu needs them to load;
# libtorch.so, which depends on libtorch_cuda, becomes an empty library.
arrange_cpu() {
    local from=$1/torch/lib cuda=$1/nvidia/cu13/lib
    mkdir "$1/lib"
    mv "$1/torch/include" "$1/include"
    mv "$from/libtorch_cpu.so" "$from/libc10.so" "$from/libgomp.so.1" \
        "$cuda/libcudart.so.13" "$cuda/libcupti.so.13" "$1/lib/"
    cc -shared -Wl,-soname,libtorch.so -o "$1/lib/libtorch.so" -x c /dev/null
    find "$1" -mindepth 1 -maxdepth 1 ! -name lib ! -name include -exec rm -rf {} +
    echo "$version" >"$1/build-version"
}

# Files stay where pip put them, because the libraries find each other by relative paths.
arrange_cuda() {
    ln -sf libnccl.so.2 "$1/nvidia/nccl/lib/libnccl.so" # the name that the NCCL loader looks for
    echo "$version" >"$1/torch/build-version"
}

# The libtorch that an earlier run wrote to the cargo configuration.
configured() {
    [[ ! -e $config ]] || sed -n "s/^LIBTORCH = { value = '\(.*\)', force = false }$/\1/p" "$config"
}

# libtorch KIND: installs `version` of this kind if necessary and prints its folder.
libtorch() {
    local folder
    case $1 in
    own) folder=$own ;;
    kept) folder=$(configured) ;;
    cpu)
        folder="$cache/libtorch-$version-cpu"
        version_of "$folder" >/dev/null ||
            install cpu "torch==$version" 'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-cupti==13.0.*' --no-deps
        ;;
    cuda)
        folder="$cache/libtorch-$version-cuda/torch"
        version_of "$folder" >/dev/null || install cuda "torch==$version"
        ;;
    esac
    say "libtorch: $version in $folder"
    printf '%s\n' "$folder"
}

# The requested version, else that of the chosen libtorch, else the default.
choose_version() {
    local found
    if [[ -n $own ]]; then
        found=$(version_of "$own") || die "libtorch in $own: no lib/libtorch_cpu.so or no include/ATen"
        found=$(supported_version "$found" "libtorch in $own")
        [[ -z $wanted || $wanted == "$found" ]] || die "--libtorch $wanted, but libtorch in $own is version $found"
        echo "$found"
    elif [[ -n $wanted ]]; then
        echo "$wanted"
    elif found=$(version_of "$(configured)") && libtorch_versions | grep -qxF "$found"; then
        echo "$found"
    else
        libtorch_versions | head -n 1
    fi
}

choose_kind() {
    local before
    before=$(configured)
    if [[ -n $own ]]; then
        echo own
    elif [[ $(version_of "$before") == "$version" ]]; then
        echo kept
    elif [[ -e $before/lib/libtorch_cuda.so ]] || { [[ ! -e $before/lib ]] && has_nvidia_driver; }; then
        echo cuda
    else
        echo cpu
    fi
}

# cargo reads and writes its lock file through the link.
select_lock() {
    local lock
    lock=$(lock_file "$version")
    if [[ $(readlink Cargo.lock) == "$lock" ]]; then
        say "Cargo.lock: already $lock"
    else
        ln -sfn "$lock" Cargo.lock
        say "Cargo.lock: now $lock"
    fi
}

# Write it only if it changes, because cargo would rebuild libtorch's bindings.
write_config() {
    local text
    text=$(cargo_config "$1")
    if [[ -e $config && $(<"$config") == "$text" ]]; then
        say "$config: already up to date"
    elif [[ -e $config && $(head -n 1 "$config") != "${text%%$'\n'*}" ]]; then
        grep -qF "$1" "$config" || die "$config is your own and does not set LIBTORCH; add to it:
${text#*$'\n'}"
        say "$config: your own, already up to date"
    else
        mkdir -p "$(dirname "$config")"
        printf '%s\n' "$text" >"$config"
        say "$config: written"
    fi
}

# -------------------------------------------------------------------------------------------------------- main

kind="" only_libtorch="" wanted="" own="" python=""
while (($#)); do
    case $1 in
    --cpu | --cuda) kind=${1#--} ;;
    --libtorch)
        wanted=$(supported_version "${2:?--libtorch needs a version}" "--libtorch")
        shift
        ;;
    --torch-of)
        python=${2:?--torch-of needs a Python interpreter}
        shift
        ;;
    --only-libtorch) only_libtorch=yes ;;
    -h | --help) usage && exit ;;
    *) usage >&2 && exit 2 ;;
    esac
    shift
done
if [[ -n $kind && -n $python ]]; then
    die "--$kind and --torch-of exclude each other"
elif [[ -n $kind$python && -z $only_libtorch && -n ${LIBTORCH:-} ]]; then
    die "LIBTORCH=$LIBTORCH in this shell would override --${kind:-torch-of} in every build: unset it first"
elif [[ -n $python ]]; then
    own=$(torch_of "$python")
elif [[ -z $kind ]]; then
    own=${LIBTORCH:-}
fi

system_packages
check_bindgen
check_rust
mkdir -p "$cache"
exec 9>"$cache/lock"
flock --nonblock 9 || { say "waiting for another setup in $cache" && flock 9; }
version=$(choose_version)
kind=${kind:-$(choose_kind)}
folder=$(libtorch "$kind")
if [[ -n $only_libtorch ]]; then
    [[ -e Cargo.lock ]] || select_lock
    printf '%s\n' "$folder"
else
    write_config "$folder"
    select_lock
    if has_nvidia_driver && [[ ! -e $folder/lib/libtorch_cuda.so ]]; then
        say "note: this libtorch has no CUDA, but this machine has an NVIDIA driver; use launch/setup.sh --cuda"
    fi
fi
