#!/usr/bin/env bash
# Tests a bundle in the root file system of another distribution (Debian 13) without MPI, Rust and network, as a user
# without a home directory: the doctor, a training run on two ranks, and the GPU check on the CPU. Needs root,
# debootstrap, and a Python whose torch has the bundle's version; takes about fifteen minutes on two cores, at most
# LIMIT seconds (1800) for the check.
#
# usage: tests/gpu/bundle_in_debian.sh BUNDLE.tar.xz PYTHON [OPTION of check.sh...]
set -euo pipefail
# shellcheck source=SCRIPTDIR/../../launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../launch/common.sh"

# Inside the namespaces: mounts the system folders and becomes the user.
if [[ ${1:-} == --inside ]]; then
    system=$2
    shift 2
    mount --make-rprivate /
    for folder in "$system"/mounts/*; do
        target=$system$(<"$folder")
        mkdir -p "$target"
        mount --bind "$(<"$folder")" "$target"
        mount -o remount,bind,ro "$target"
    done
    ip link set lo up # the only network of an isolated machine
    mount -t proc proc "$system/proc"
    mount -t sysfs -o ro sysfs "$system/sys"
    mount --bind /dev "$system/dev"
    mount -t tmpfs -o mode=1777 tmpfs "$system/dev/shm"
    mount -t tmpfs -o mode=1777 tmpfs "$system/tmp"
    exec chroot --userspec=nobody:nogroup "$system" /usr/bin/env -i PATH=/usr/bin:/bin HOME=/nonexistent "$@"
fi

bundle=$(realpath "${1:?a bundle is needed: launch/bundle.sh makes one}")
python=${2:?a Python interpreter that has torch is needed}
shift 2
((EUID == 0)) || die "root is required to create a root file system"
{ command -v debootstrap && command -v ip; } >/dev/null || apt_install debootstrap iproute2
base=$cache/debian-13-with-python
if [[ ! -e $base ]]; then
    say "Debian 13 to $base"
    rm -rf "$base.partial"
    # xz for the archive; the others are libraries of a Python that was built elsewhere.
    debootstrap --variant=minbase --include=xz-utils,libffi8,libssl3t64,libbz2-1.0,libsqlite3-0,libexpat1 trixie "$base.partial" >&2 || die "debootstrap failed"
    mv "$base.partial" "$base"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
system=$work/system
cp -a "$base" "$system"
# The Python keeps its path, so that its scripts and links work.
mkdir "$system/mounts"
"$python" -c 'import sys; print(*sorted({sys.prefix, sys.base_prefix}), sep="\n")' | while read -r prefix; do
    [[ $prefix != /usr ]] || die "$python is in /usr, which is Debian's there: use one in a separate folder"
    echo "$prefix" >"$system/mounts/$(tr / _ <<<"$prefix")"
    mkdir -p "$system$prefix"
    while [[ $prefix != / ]]; do # for everybody, such as below /root
        chmod a+rx "$system$prefix"
        prefix=$(dirname "$prefix")
    done
done
mkdir -m 777 "$system/opt/trainer"
tar -C "$system/opt/trainer" -xJf "$bundle"
chown -R nobody:nogroup "$system/opt/trainer"
root=$(cd "$system" && ls -d opt/trainer/*)
for tool in mpirun mpicc cargo ssh; do
    [[ ! -e $system/usr/bin/$tool ]] || die "$tool must not be in that root file system"
done

# inside COMMAND...: runs a shell command in the bundle's folder, for at most LIMIT seconds.
inside() {
    # shellcheck disable=SC2016 # for the inner shell
    timeout --kill-after=10 "${LIMIT:-1800}" unshare --mount --pid --fork --net --ipc --uts -- \
        tests/gpu/bundle_in_debian.sh --inside "$system" /bin/bash -c 'cd "$0" && exec "$@"' "/$root" "$@"
}
with_python() { inside /usr/bin/env "PATH=$(dirname "$python"):/usr/bin:/bin" "$@"; }
runs=(output_dir=runs/ranks max_steps=5 logging_steps=1 eval_strategy=no save_strategy=no)

say "without a Python, the start script reports what is missing"
if text=$(inside ./trainer doctor 2>&1) || [[ $text != *"no libtorch"*"TRAINER_PYTHON"* ]]; then
    die "it should have failed with a remedy, but printed: $text"
fi
say "trainer doctor"
with_python ./trainer doctor
say "trainer doctor, with the interpreter by name"
inside /usr/bin/env "TRAINER_PYTHON=$python" ./trainer doctor --json >/dev/null
say "training on two ranks"
with_python ./mpirun --oversubscribe -n 2 ./trainer train configs/quickstart.toml "${runs[@]}"
[[ $(grep -c '"loss"' "$system/$root/runs/ranks/metrics.jsonl") == 5 ]] || die "metrics.jsonl does not have 5 steps"
if [[ -e $system/$root/tests/gpu/check.sh ]]; then
    say "the GPU check on the CPU"
    with_python tests/gpu/check.sh --cpu --out check "$@"
fi
say "ok"
