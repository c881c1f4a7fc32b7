#!/usr/bin/env bash
# Installs a bundle for all users: programs, libtorch, Open MPI, documentation, manual pages and shell completions, in one
# folder that may be moved. It changes nothing outside that folder.
set -euo pipefail
from=$PWD
# shellcheck source=SCRIPTDIR/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
    cat <<'END'
usage: launch/install.sh --prefix DIR [--bundle ARCHIVE] [--torch-of PYTHON] [--without-libtorch]
       launch/install.sh --prefix DIR --uninstall

  --prefix DIR         a folder of its own, such as /opt/trainer; an installation that is there is replaced
  --bundle ARCHIVE     what launch/bundle.sh has packed, or the folder that it was unpacked to. Else it is the bundle that
                       this script came with, or the newest in target/bundle; if there is none, one is packed
  --torch-of PYTHON    take libtorch from the torch of this Python interpreter
  --without-libtorch   do not copy libtorch: with --torch-of it is used where it is, else each user's is looked for
  --uninstall          remove the installation

LIBTORCH=FOLDER in the environment names a libtorch as --torch-of does. Without both it is the bundle's, else that of
launch/setup.sh. Files get the permissions that the umask leaves: 022 is for all users.
END
}

prefix="" bundle="" python="" without_libtorch="" uninstall=""
while (($#)); do
    case $1 in
    --prefix) prefix=${2:?--prefix needs a folder} && shift ;;
    --bundle) bundle=${2:?--bundle needs an archive} && shift ;;
    --torch-of) python=${2:?--torch-of needs a Python interpreter} && shift ;;
    --without-libtorch) without_libtorch=yes ;;
    --uninstall) uninstall=yes ;;
    -h | --help) usage && exit ;;
    *) usage >&2 && exit 2 ;;
    esac
    shift
done
[[ -n $prefix ]] || { usage >&2 && exit 2; }
# Relative to the caller's folder, because common.sh changes it.
absolute() { (cd "$from" && realpath -m -- "$1"); }
prefix=$(absolute "$prefix")
[[ $python != */* ]] || python=$(cd "$from" && realpath -s -- "$python") # a link of a venv is what makes it one
[[ $prefix != / ]] || die "--prefix / is not a separate folder: use one such as /opt/trainer"

# ------------------------------------------------------------------------------------------- what is there already

readonly kit=lib/trainer list=lib/trainer/files
files_of() { (cd "$1" && find . ! -type d | LC_ALL=C sort); }

# Everything in the folder is ours; otherwise it is not changed.
check_prefix() {
    if [[ ! -e $prefix || (-d $prefix && -z $(ls -A "$prefix")) ]]; then
        return
    fi
    [[ -e $prefix/$list ]] || die "$prefix is not empty and not an installation of trainer: choose a separate folder"
    local others
    others=$(files_of "$prefix" | LC_ALL=C comm -23 - "$prefix/$list" | head -n 5)
    [[ -z $others ]] || die "files in $prefix that were not installed would be lost; move them first:
$others"
}

check_prefix
if [[ -n $uninstall ]]; then
    [[ -e $prefix/$list ]] || die "there is no installation in $prefix"
    rm -rf "$prefix"
    say "removed $prefix"
    exit
fi

# ---------------------------------------------------------------------------------------------- bundle and libtorch

own=${LIBTORCH:-}
[[ -z $python ]] || own=$(torch_of "$python")
if [[ -n $bundle ]]; then
    bundle=$(absolute "$bundle")
    [[ -e $bundle ]] || die "no bundle $bundle"
elif [[ -e libtorch-version ]]; then
    bundle=$PWD
else
    bundle=$(find target/bundle -maxdepth 1 -name 'trainer-*.tar.xz' -printf '%T@ %p\n' 2>/dev/null | sort -n | tail -n 1)
    bundle=${bundle#* }
    if [[ -z $bundle ]]; then
        say "no bundle in target/bundle: packing one"
        own=${own:-$(launch/setup.sh --only-libtorch)}
        bundle=$(LIBTORCH=$own launch/bundle.sh --without-tests)
    fi
fi

parent=$(dirname "$prefix")
mkdir -p "$parent"
# Next to its final path, so that a rename installs it.
new=$(mktemp -d "$parent/.$(basename "$prefix").XXXXXX") || die "cannot write to $parent, the parent of the new folder"
old=$new.old
cleanup() {
    if [[ -e $old && ! -e $prefix ]]; then
        mv -T "$old" "$prefix"
    fi
    rm -rf "$new" "$old"
}
trap cleanup EXIT
mkdir -p "$new"/{bin,"$kit",share/doc/trainer}
say "unpacking $bundle"
if [[ -d $bundle ]]; then
    cp -r "$bundle/." "$new/$kit/"
else
    tar -C "$new/$kit" --strip-components=1 --no-same-owner --no-same-permissions -xf "$bundle" ||
        die "cannot unpack $bundle: a damaged archive, a full disk, or no xz"
fi
needed=$(cat "$new/$kit/libtorch-version" 2>/dev/null) || die "$bundle is not a bundle of trainer"
for part in launch/install.sh README.md; do
    [[ -e $new/$kit/$part ]] || die "$bundle has no $part and cannot be installed: pack it again with launch/bundle.sh"
done

# has_cuda FILE: whether this trainer was built with CUDA.
has_cuda() { LC_ALL=C grep -qF libtorch_cuda.so "$1"; }

packed=$new/$kit/libtorch
if [[ -n $own || -n $without_libtorch ]]; then
    rm -rf "$packed"
elif [[ ! -e $packed ]]; then
    [[ -e launch/setup.sh ]] || die "there is no libtorch in $bundle: --torch-of PYTHON names a Python interpreter with" \
        "torch $needed, LIBTORCH=FOLDER a libtorch, and --without-libtorch installs without one"
    own=$(launch/setup.sh --libtorch "$needed" --only-libtorch)
    if has_cuda "$new/$kit/bin/trainer" && [[ ! -e $own/lib/libtorch_cuda.so ]]; then
        own=$(launch/setup.sh --libtorch "$needed" --cuda --only-libtorch)
    fi
fi
if [[ -n $own ]]; then
    own=$(absolute "$own")
    found=$(version_of "$own") || die "$own is not a libtorch: no lib/libtorch_cpu.so or no include/ATen"
    [[ $found == "$needed" ]] || die "$bundle was built for libtorch $needed, and $own is version $found"
    if [[ -n $without_libtorch ]]; then
        mkdir "$packed"
        ln -s "$own" "$packed/torch"
    else
        say "copying libtorch $found from $own"
        copy_libtorch "$own" "$packed"
    fi
fi

# -------------------------------------------------------------------------------------------------- the other places

doc=share/doc/trainer
for part in CHANGELOG.md CONTRIBUTING.md LICENSE README.md configs docs; do
    [[ ! -e $new/$kit/$part ]] || mv "$new/$kit/$part" "$new/$doc/$part" # an older bundle lacks some
done
ln -s "../../$doc/configs" "$new/$kit/configs" # for the GPU check
ln -s ../$kit/trainer "$new/bin/trainer"
ln -s ../$kit/run "$new/bin/trainer-mpirun"
# as_user COMMAND...: runs in the environment of a new login, as far as libraries are concerned; if the installation has
# no libtorch, with the one found from here.
as_user() { env -u LD_LIBRARY_PATH -u LIBTORCH -u TRAINER_PYTHON -u TRAINER_BUNDLE "$@"; }
if [[ ! -e $packed ]]; then
    as_user() { env -u TRAINER_BUNDLE "$@"; }
else
    missing=$(as_user ldd "$new/$kit/bin/trainer" | grep 'not found' || true)
    [[ -z $missing ]] || die "trainer does not start with this libtorch on this machine:
$missing
$(<"$new/$kit/version")"
    as_user "$new/bin/trainer" --version >/dev/null
fi

# completions SHELL FILE
completions() {
    mkdir -p "$(dirname "$new/$2")"
    local problem
    if ! problem=$({ as_user "$new/bin/trainer" completions "$1" >"$new/$2"; } 2>&1); then
        rm "$new/$2"
        rmdir -p --ignore-fail-on-non-empty "$(dirname "$new/$2")"
        say "note: no completions for $1: $(head -n 1 <<<"$problem")"
    fi
}
completions bash share/bash-completion/completions/trainer
completions zsh share/zsh/site-functions/_trainer
completions fish share/fish/vendor_completions.d/trainer.fish
if ! problem=$(as_user "$new/bin/trainer" man "$new/share/man/man1" 2>&1); then
    rm -rf "$new/share/man"
    say "note: no manual pages: $(head -n 1 <<<"$problem")"
fi

chmod -R +rwX "$new" # what the umask leaves, whatever the modes were where the bundle was packed
touch "$new/$list"
files_of "$new" >"$new/$list"

# ------------------------------------------------------------------------------------------------------- in its place

check_prefix # again: what has been put there meanwhile
if [[ -e $prefix ]]; then
    mv -T "$prefix" "$old"
fi
mv -T "$new" "$prefix"
say "$(head -n 1 "$prefix/$kit/version") is in $prefix ($(du -sm "$prefix" | cut -f 1) MB)"

# Other users must be able to read it, and to enter all folders above it.
if ((8#$(umask) & 8#5)); then
    say "note: the umask $(umask) denies other users access; run umask 022 before this command"
fi
above=$parent
while [[ $above != / ]]; do
    [[ $(stat -c %A "$above") == *[xt] ]] || say "note: other users cannot enter $above: run chmod o+x on it"
    above=$(dirname "$above")
done
if [[ -L $prefix/$kit/libtorch/torch ]]; then
    say "note: libtorch stays in $own, which all users must be able to read"
fi
cat <<END
For users: PATH="$prefix/bin:\$PATH"; then \`trainer doctor\`, \`trainer launch -n 2 mine.toml\` and
\`trainer-mpirun -n 2 trainer train mine.toml\`. The documentation is in $prefix/$doc.
To remove it: $prefix/$kit/launch/install.sh --prefix $prefix --uninstall
END
