#!/usr/bin/env bash
# Installs a bundle with launch/install.sh and uses it as `nobody` without a home directory: the program under all its
# names, the doctor, training on two ranks. Then it replaces, refuses, moves and removes the installation. Requires root,
# the model and the data of launch/fetch.sh, and 3 GB in TMPDIR; takes about two minutes on two cores.
#
# usage: tests/install/install_for_everyone.sh [BUNDLE]      else the newest in target/bundle, or one that is packed now
set -euo pipefail
from=$PWD
# shellcheck source=SCRIPTDIR/../../launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../launch/common.sh"

((EUID == 0)) || die "root is required to become nobody"
bundle=()
[[ -z ${1:-} ]] || bundle=(--bundle "$(cd "$from" && realpath "$1")")
umask 022
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
mkdir -m 777 "$work/x"
cp -rL models/minilm data/bbc "$work/" # other users may have no access to the tree
prefix=$work/opt/trainer

install() { launch/install.sh "${bundle[@]}" "$@"; }
# as_nobody COMMAND...: runs in a world-writable folder.
as_nobody() {
    (cd "$work/x" && timeout --kill-after=10 "${LIMIT:-120}" setpriv --reuid="$(id -u nobody)" --regid="$(id -g nobody)" \
        --clear-groups env -i HOME=/nonexistent PATH="$prefix/bin:/usr/bin:/bin" "$@")
}
# refused TEXT COMMAND...
refused() {
    local said
    if said=$("${@:2}" 2>&1) || [[ $said != *"$1"* ]]; then
        die "it should have failed with '$1', but printed: $said"
    fi
}

say "installing"
install --prefix "$prefix"
closed=$(find "$prefix" ! -type l \( ! -perm -004 -o -perm /022 \) -o -type d ! -perm -001 | head -n 3)
[[ -z $closed ]] || die "other users can write to these, or cannot read them: $closed"
leaves=$(find "$prefix" -type l -exec realpath {} + | grep -v "^$prefix/" || true)
[[ -z $leaves ]] || die "links point outside the installation: $leaves"
# In text files, except sources in a compiler's messages.
named=$(grep -rIlF -e "$HOME/" -e "$PWD/" "$prefix" || true)
[[ -z $named ]] || die "files contain folders of the build machine: $named"
# libtorch's own libraries are unchanged: its packages find each other by relative paths.
while read -r file; do
        run_path=$(readelf -d "$file" 2>/dev/null | sed -n 's/.*(RUNPATH).*\[\(.*\)\]/\1/p')
    [[ ":$run_path" =~ ^(:\$ORIGIN(/[^:]*)?)+$ ]] || die "$file has the run path '$run_path'"
done < <(find "$prefix/lib/trainer/bin" "$prefix/lib/trainer/mpi" -type f \( -name '*.so*' -o -path '*/bin/*' \))

say "the program, under each name"
ln -s "$prefix/bin/trainer" "$work/trainer-of-the-day"
version=$(as_nobody trainer --version)
for way in "$work/trainer-of-the-day" ../opt/trainer/bin/trainer "$prefix/lib/trainer/bin/trainer"; do
    [[ $(as_nobody "$way" --version) == "$version" ]] || die "$way does not print $version"
done

say "manual pages"
grep -q 'KEY=VALUE' "$prefix/share/man/man1/trainer-train.1" || die "no manual pages in $prefix/share/man/man1"

say "completions"
for file in bash-completion/completions/trainer zsh/site-functions/_trainer fish/vendor_completions.d/trainer.fish; do
    grep -q doctor "$prefix/share/$file" || die "no completions in $prefix/share/$file"
    shell=${file%%[-/]*}
    if command -v "$shell" >/dev/null; then
        "$shell" -n "$prefix/share/$file"
    fi
done

say "trainer doctor"
as_nobody trainer doctor

# trained FOLDER: checks for three steps with losses.
trained() { [[ $(grep -c '"loss"' "$work/x/$1/metrics.jsonl") == 3 ]] || die "$1/metrics.jsonl does not have three steps"; }
run=("$prefix/share/doc/trainer/configs/quickstart.toml" model.path="$work/minilm" data.train="$work/bbc/train.jsonl"
    data.eval="$work/bbc/eval.jsonl" max_steps=3 logging_steps=1 eval_strategy=no save_strategy=no)
say "two ranks by trainer-mpirun"
as_nobody trainer-mpirun --oversubscribe -n 2 trainer train "${run[@]}" output_dir=by-mpirun
trained by-mpirun
say "two ranks by trainer launch"
as_nobody trainer launch -n 2 "${run[@]}" output_dir=by-launch
trained by-launch

say "refused installations"
mkdir "$work/other"
touch "$work/other/file" "$prefix/share/mine"
refused "not an installation of trainer" install --prefix "$work/other"
refused share/mine install --prefix "$prefix"
refused share/mine install --prefix "$prefix" --uninstall
rm "$prefix/share/mine"
[[ $(ls "$work/other") == file ]] || die "something was left in $work/other"

say "replaced with a restrictive umask"
touch "$prefix/lib/trainer/bin/old" && echo ./lib/trainer/bin/old >>"$prefix/lib/trainer/files"
LC_ALL=C sort -o "$prefix/lib/trainer/files" "$prefix/lib/trainer/files"
said=$(umask 077 && install --prefix "$prefix" 2>&1)
[[ $said == *"umask 0077 denies other users access"* ]] || die "no note about the umask: $said"
[[ ! -e $prefix/lib/trainer/bin/old ]] || die "the previous installation was not replaced"
if [[ -n $(find "$prefix" ! -type l -perm /077) ]] || as_nobody "$prefix/bin/trainer" --version 2>/dev/null; then
    die "the umask 077 was not respected"
fi

say "with an external libtorch, moved, and removed"
cp -r "$prefix/lib/trainer/libtorch" "$work/libtorch"
mkdir -p "$work/libtorch/torch/include/ATen" # which identifies a libtorch
chmod -R a+rX "$work/libtorch"
LIBTORCH=$work/libtorch/torch install --prefix "$prefix" --without-libtorch
[[ -L $prefix/lib/trainer/libtorch/torch ]] || die "no link to the libtorch"
mv "$prefix" "$work/moved"
prefix=$work/moved
[[ $(as_nobody trainer --version) == "$version" ]] || die "it does not run from another path"
"$prefix/lib/trainer/launch/install.sh" --prefix "$prefix" --uninstall
[[ ! -e $prefix && $(ls -A "$work/opt") == "" ]] || die "files remain: $(ls -A "$work" "$work/opt")"
say "ok"
