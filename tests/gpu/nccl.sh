#!/usr/bin/env bash
# Downloads NCCL 2.30.7 for CUDA 13, which allows ranks to share a GPU (libtorch has an older one), for a machine
# without a network: DIR gets libnccl.so.2 in pieces below 50 MiB, and join.sh, which joins them there.
#
# usage: tests/gpu/nccl.sh DIR
set -euo pipefail
called_from=$PWD
# shellcheck source=SCRIPTDIR/../../launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../launch/common.sh"

readonly version=2.30.7 inside=nvidia/nccl/lib/libnccl.so.2
dir=$(cd "$called_from" && realpath -m "${1:?a folder for the pieces is needed}")

# make FOLDER: creates the pieces and their script.
make() {
    local file to=$1 sum whole
    file=$(wheel nvidia-nccl-cu13 $version)
    python3 - "$file" "$inside" "$to/libnccl.so.2" <<'PYTHON' || die "$file is damaged: remove it and run this again"
import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel, wheel.open(sys.argv[2]) as file, open(sys.argv[3], "wb") as out:
    shutil.copyfileobj(file, out)
PYTHON
    sum=$(sha256sum "$to/libnccl.so.2" | cut -d ' ' -f 1)
    say "compressing (minutes)" # by a fifth: its GPU code is compressed already
    xz -T0 "$to/libnccl.so.2"
    whole=$to/libnccl.so.2.xz
    split --bytes=49MiB --numeric-suffixes --suffix-length=2 "$whole" "$whole."
    rm "$whole"
    {
        cat <<END
#!/usr/bin/env bash
# join.sh TO: joins libnccl.so.2 of NCCL $version in the file TO, or in the folder TO if it exists.
sum=$sum
END
        cat <<'END'
set -euo pipefail

to=$(realpath -m "${1:?join.sh TO: the file to write}")
if [[ -d $to ]]; then
    to=$to/libnccl.so.2
fi
mkdir -p "$(dirname "$to")"
trap 'rm -f "$to.partial"' EXIT
if ! sha256sum --check --status <<<"$sum  $to" 2>/dev/null; then
    if ! cat "$(dirname "${BASH_SOURCE[0]}")"/libnccl.so.2.xz.[0-9][0-9] | xz -dc >"$to.partial" ||
        ! sha256sum --check --status <<<"$sum  $to.partial"; then
        echo "join.sh: error: pieces are missing or damaged, or the disk is full; copy them again" >&2
        exit 1
    fi
    mv "$to.partial" "$to"
fi
cat <<HOW
$to is whole. To use it in the GPU check:

    TRAINER_NCCL_PATH=$to tests/gpu/check.sh --parts 4
HOW
END
    } >"$to/join.sh"
    chmod +x "$to/join.sh"
}

if [[ -x $dir/join.sh ]] && grep -q "NCCL $version " "$dir/join.sh"; then
    say "$dir exists"
else
    [[ ! -e $dir ]] || rmdir "$dir" 2>/dev/null || die "$dir contains something else"
    command -v xz >/dev/null || die "no xz: install xz-utils"
    trap 'rm -rf "$dir.partial"' EXIT
    rm -rf "$dir.partial"
    mkdir -p "$dir.partial"
    make "$dir.partial"
    mv "$dir.partial" "$dir"
fi
cat <<END
Copy $dir ($(du -sm "$dir" | cut -f 1) MB) to the machine with the GPU. There,

    join.sh TO

puts the library together in the file TO, checks it, and says how to use it:

    TRAINER_NCCL_PATH=TO tests/gpu/check.sh --parts 4

LD_PRELOAD, because otherwise libtorch loads its own NCCL first, and the new one would call functions of the old one.
END
