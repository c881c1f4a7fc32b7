#!/usr/bin/env bash
# Packs trainer, Open MPI and the GPU check into one archive for machines without Rust, MPI or a network, and prints the
# archive's path. Unpacked anywhere, it runs with the libtorch of a Python environment, or with its own.
set -euo pipefail
# shellcheck source=SCRIPTDIR/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
    cat <<'END'
usage: launch/bundle.sh [--libtorch VERSION] [--cuda | --cpu | --torch-of PYTHON]
                        [--with-libtorch | --without-libtorch] [--without-tests]
                        [--model DIR [--model-dtype bf16]] [--data DIR]

  --libtorch VERSION   2.13 or 2.11; else the one that launch/setup.sh has chosen
  --cuda, --cpu        what to build with: libtorch with CUDA (the default), or for the CPU alone
  --torch-of PYTHON    build with the torch that is installed for this Python interpreter
  --with-libtorch      pack libtorch and the libraries that came with it (gigabytes with CUDA)
  --without-libtorch   the machine has it: torch of the same version in a Python environment (the default)
  --without-tests      leave out the GPU check, whose programs take a while to build
  --model DIR          pack this model's folder as models/NAME; --model-dtype bf16 halves fp32 weights
  --data DIR           pack this folder as data/NAME

LIBTORCH=FOLDER in the environment names a libtorch of your own. The archive is
target/bundle/trainer-VERSION-libtorch-X.tar.xz; what is built goes to target/libtorch-X, or to CARGO_TARGET_DIR.
END
}

setup=() libtorch_too="" without_tests="" model="" dtype="" data=""
while (($#)); do
    case $1 in
    --libtorch | --torch-of)
        setup+=("$1" "${2:?$1 needs a value}")
        shift
        ;;
    --cuda | --cpu) setup+=("$1") ;;
    --with-libtorch) libtorch_too=yes ;;
    --without-libtorch) libtorch_too="" ;;
    --without-tests) without_tests=yes ;;
    --model) model=${2:?--model needs a folder} && shift ;;
    --model-dtype) dtype=${2:?--model-dtype needs a type} && shift ;;
    --data) data=${2:?--data needs a folder} && shift ;;
    -h | --help) usage && exit ;;
    *) usage >&2 && exit 2 ;;
    esac
    shift
done
case "$dtype" in
"") ;;
bf16) [[ -n $model ]] || die "--model-dtype without --model" ;;
*) die "--model-dtype $dtype: only bf16 is supported" ;;
esac
for folder in $model $data; do
    [[ -d $folder ]] || die "no folder $folder"
done
if [[ -z ${LIBTORCH:-} && ! " ${setup[*]} " =~ \ --(cuda|cpu|torch-of)\  ]]; then
    setup+=(--cuda)
fi
for tool in objdump patchelf readelf strip xz; do
    command -v $tool >/dev/null || die "no $tool: install binutils, patchelf and xz-utils"
done

LIBTORCH=$(launch/setup.sh "${setup[@]}" --only-libtorch)
version=$(version_of "$LIBTORCH")
tree=$(shadow_tree "$version" "$LIBTORCH")
CARGO_TARGET_DIR=$(realpath -m "${CARGO_TARGET_DIR:-$tree/target}")
export LIBTORCH CARGO_TARGET_DIR TRAINER_RELOCATABLE=1
name=trainer-$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)-libtorch-${version%.*}
kit=$PWD/target/bundle/$name
rm -rf "$kit" "$kit.tar.xz"
mkdir -p "$kit"/{bin,launch,mpi/bin,mpi/lib,mpi/share,tests/bin,tests/bench,tests/reference}

# --------------------------------------------------------------------------------------------------- the programs

say "building trainer with libtorch $version (the first time takes minutes)"
cargo() { (cd "$tree" && command cargo "$@"); }
cargo build --release --locked --bin trainer >&2
strip -o "$kit/bin/trainer" "$CARGO_TARGET_DIR/release/trainer"
if [[ -z $without_tests ]]; then
    say "building the tests of the GPU check"
    tests=$(check_tests)
    while read -r test file; do
        strip -o "$kit/tests/bin/$test" "$file"
    done <<<"$tests"
fi
shopt -s nullglob
for file in "$kit/bin/trainer" "$kit"/tests/bin/*; do
    run_path=$(readelf -d "$file" | sed -n 's/.*(RUNPATH).*\[\(.*\)\]/\1/p')
    [[ ":$run_path" =~ ^(:\$ORIGIN/[^:]*)+$ ]] || die "$file: its run path $run_path contains a folder of this machine"
    ! grep -qF "$LIBTORCH/lib" "$file" || die "$file names $LIBTORCH/lib" # texts of assertions name its headers
done
if [[ -e $LIBTORCH/lib/libtorch_cuda.so ]]; then
    readelf -d "$kit/bin/trainer" | grep -q 'NEEDED.*libtorch_cuda' || die "trainer does not depend on libtorch_cuda"
fi

# ------------------------------------------------------------------------------------------------------- Open MPI

[[ $(mpirun --version) == "mpirun (Open MPI) 4."* ]] || die "only Open MPI 4 can be packed: $(mpirun --version | head -n 1)"
ompi_path() { ompi_info --parsable --path "$1" | sed 's/^path:[^:]*://'; }
prefix=$(ompi_path prefix) plugins=$(ompi_path pkglibdir) shared=$(ompi_path pkgdatadir)
cp -L "$(command -v mpirun)" "$kit/mpi/bin/mpirun"
cp -L "$(command -v orted)" "$kit/mpi/bin/orted"
cp -r "$shared" "$kit/mpi/${shared#"$prefix"/}"
packed=$kit/mpi/${plugins#"$prefix"/}
mkdir -p "$packed"
# Without the plugins for fabrics, whose libraries must match the machine's drivers, and those for SHMEM.
for plugin in "$plugins"/*.so; do
    if ! ldd "$plugin" | grep -qE 'lib(uc[pst]|fabric|ibverbs|psm|psm2|infinipath|oshmem|nl-3)[.-_]'; then
        cp -L "$plugin" "$packed/"
    fi
done
pmix=$(find "$packed" -name '*pmix*.so' -exec ldd {} + | sed -n 's/.*libpmix\.so.* => \(\/[^ ]*\).*/\1/p' | head -n 1)
if [[ -n $pmix ]]; then # else Open MPI has one built in
    pmix=$(dirname "$(realpath "$pmix")")
    cp -rL "$pmix/pmix" "$kit/mpi/lib/pmix"
    cp -r "$pmix/../share/pmix" "$kit/mpi/share/pmix"
fi
# The dependencies, except libc's own, the compiler's and libtorch's.
find "$kit/mpi" "$kit/bin" -type f \( -name '*.so*' -o -perm -1 \) -exec ldd {} + 2>/dev/null |
    sed -n 's/.* => \(\/[^ ]*\).*/\1/p' | sort -u |
    grep -vE '/(lib(c|m|dl|rt|util|pthread|gcc_s|stdc\+\+)|ld-linux[^/]*)\.so|/lib(torch|c10|cu|nv|nccl|gomp)' |
    xargs -I{} cp -L {} "$kit/mpi/lib/"
# Each finds the others relative to itself, so that `bin/trainer` also starts without the start script.
find "$kit/mpi" -type f \( -name '*.so*' -o -path '*/bin/*' \) | while read -r file; do
    if readelf -h "$file" >/dev/null 2>&1; then
        strip --strip-unneeded "$file"
        patchelf --set-rpath "\$ORIGIN/$(realpath --relative-to "$(dirname "$file")" "$kit/mpi/lib")" "$file"
    fi
done

# ------------------------------------------------------------------------------------------------------- the rest

cp launch/bundle/start.sh "$kit/run"
ln -s run "$kit/trainer"
ln -s run "$kit/mpirun"
cp -r configs docs CHANGELOG.md CONTRIBUTING.md LICENSE README.md "$kit/"
cp launch/common.sh launch/install.sh "$kit/launch/"
if [[ -n $without_tests ]]; then
    rm -r "$kit/tests"
else
    cp -r tests/gpu "$kit/tests/"
    if [[ -e tests/bench/gpu_peer.py ]]; then
        cp tests/bench/gpu_peer.py "$kit/tests/bench/"
    fi
    find tests/reference -mindepth 1 -maxdepth 1 ! -name '*.py' ! -name '*.md' -exec cp -r {} "$kit/tests/reference/" \;
fi
if [[ -n $data ]]; then
    mkdir "$kit/data"
    cp -rL "$data" "$kit/data/$(basename "$(realpath "$data")")"
fi
if [[ -n $model ]]; then
    to=$kit/models/$(basename "$(realpath "$model")")
    mkdir -p "$to"
    # The files of the model, and if it has weights in several formats, only the one that is used.
    find -L "$model" -maxdepth 1 -type f ! -name '.*' ! -name '*.md' ! -name data_config.json -exec cp -L {} "$to/" \;
    if compgen -G "$to/*.safetensors" >/dev/null; then
        rm -f "$to"/{*.bin,*.bin.index.json,*.h5,*.msgpack,*.onnx,*.ot}
    fi
    if [[ -n $dtype ]]; then
        say "rounding $model to bf16"
        python3 launch/bundle/bf16.py "$to"
    fi
fi
if [[ -n $libtorch_too ]]; then
    copy_libtorch "$LIBTORCH" "$kit/libtorch"
fi

# newest NAME: the highest version of these symbols that a packed file requires.
newest() {
    find "$kit" -path "$kit/libtorch" -prune -o -type f \( -name '*.so*' -o -perm -1 \) -exec objdump -T {} + 2>/dev/null |
        grep -o "$1_[0-9.]*[0-9]" | sort -uV | tail -n 1
}
echo "$version" >"$kit/libtorch-version"
{
    echo "$name$([[ ! -e .git ]] || git log -1 --format=', commit %h of %cs')"
    echo "Needs x86-64 Linux with $(newest GLIBC), $(newest GLIBCXX), and$([[ -n $libtorch_too ]] || echo " libtorch $version")" \
        "built $([[ -e $LIBTORCH/lib/libtorch_cuda.so ]] && echo with || echo without) CUDA."
} >"$kit/version"

say "packing $name: $(du -sm "$kit" | cut -f 1) MB"
tar -C "$(dirname "$kit")" --owner=0 --group=0 --sort=name -c "$name" | xz -9e -T1 >"$kit.tar.xz"
say "$(sed -n 2p "$kit/version")"
say "$(($(stat -c %s "$kit.tar.xz") / 1024)) KiB"
rm -rf "$kit"
echo "$kit.tar.xz"
