//! Parallel text: line n of one file belongs to line n of another, which has the name of the other language
//! (`train.en`, `train.de`) or side (`train.src`, `train.tgt`).

use super::inference::Proposal;
use crate::config::TaskKind;
use crate::error::Result;
use crate::text::files::{Files, extension};
use crate::text::pairs::{self, PairLayout, PairSource};
use crate::text::record::OnBad;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Names of sides: of the source, and of the target.
const SIDES: [(&str, &str); 3] = [("src", "tgt"), ("src", "trg"), ("source", "target")];
/// Languages, by their codes in ISO 639-1.
const LANGUAGES: &str = "aa ab ae af ak am an ar as av ay az ba be bg bi bm bn bo br bs ca ce ch co cr cs cu cv cy da \
                         de dv dz ee el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy \
                         hz ia id ie ig ii ik io is it iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg \
                         li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng nl nn no nr nv ny oc oj om or \
                         os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st su sv sw ta \
                         te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu";

/// The files of a part of a data set.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Set {
    /// Of parallel text those of the sources.
    pub files: Vec<PathBuf>,
    /// Those of the targets, in the same order; empty for other data.
    pub targets: Vec<PathBuf>,
}

/// Returns the files that are named after a language or side as parallel text, if all are pairs of the same two.
/// Sources are of the side `source` if given, otherwise in English or as the names say, such as `train.de-en.de`.
pub(super) fn paired(files: &[PathBuf], source: Option<&str>) -> Option<Set> {
    let mut stems: BTreeMap<PathBuf, BTreeMap<String, &PathBuf>> = BTreeMap::new();
    for path in files {
        if let Some((stem, side)) = stem_and_side(path) {
            stems.entry(stem).or_default().entry(side).or_insert(path);
        }
    }
    let sides: Vec<&str> = stems.values().next()?.keys().map(String::as_str).collect();
    let [a, b] = <[&str; 2]>::try_from(sides).ok()?;
    let are_complete = stems.values().all(|of| of.len() == 2 && of.contains_key(a) && of.contains_key(b));
    // `train` and `train.tok` are the same texts.
    let names: Vec<String> = stems.keys().map(|stem| stem.to_string_lossy().into_owned()).collect();
    let are_variants = names.iter().any(|name| names.iter().any(|other| other.starts_with(&format!("{name}."))));
    if !are_complete || are_variants {
        return None;
    }
    let is_first = is_first(a, b, names.first()?)?;
    let [source, target] = if source.map_or(is_first, |side| side == a) { [a, b] } else { [b, a] };
    let of = |side: &str| -> Vec<PathBuf> { stems.values().map(|of| of[side].clone()).collect() };
    Some(Set { files: of(source), targets: of(target) })
}

/// Returns the part of a file's path before its side, and the side: a language, or one of [`SIDES`].
pub(super) fn stem_and_side(path: &Path) -> Option<(PathBuf, String)> {
    let side = extension(path);
    let is_named = SIDES.iter().any(|(source, target)| [*source, *target].contains(&side.as_str()));
    let stem = path.with_extension("");
    let is_last = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case(&side));
    (is_named || is_language(&side)).then(|| (if is_last { stem } else { stem.with_extension("") }, side))
}

/// Whether the first of two sides, in alphabetical order, is the source; `None` if they are no two sides of texts.
fn is_first(a: &str, b: &str, stem: &str) -> Option<bool> {
    if SIDES.iter().any(|&(source, target)| [source, target] == [a, b] || [source, target] == [b, a]) {
        return Some(SIDES.contains(&(a, b)));
    }
    if !is_language(a) || !is_language(b) {
        return None;
    }
    let named = |first: &str, second: &str| stem.to_lowercase().ends_with(&format!("{first}-{second}"));
    Some(named(a, b) || !named(b, a) && code(b) != "en" && code(b) != "eng")
}

/// Whether a text is a language: `de`, `de_at`, `zh-hans`, `deu_latn`, in lowercase.
fn is_language(text: &str) -> bool {
    let code = code(text);
    let is_known = LANGUAGES.split(' ').any(|known| known == code);
    let variant = text[code.len()..].get(1..);
    let is_short = |text: &str| (2..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    match variant {
        None => is_known,
        // Three letters (ISO 639-3) alone are no language: most endings of names have three.
        Some(variant) => is_short(variant) && (is_known || code.len() == 3 && is_short(code)),
    }
}

fn code(language: &str) -> &str {
    language.split(['-', '_']).next().unwrap_or_default()
}

/// Reads parallel text and returns its number of pairs, and its task.
///
/// # Errors
/// Exit 2: files that cannot be read or have different numbers of lines; no pair of texts.
pub(super) fn look(train: &Set) -> Result<(usize, Proposal)> {
    let files = Files::find(&train.files)?;
    let targets = Some(Files::find(&train.targets)?);
    let read = pairs::read(&PairSource { files, layout: PairLayout::Lines { targets }, on_bad_record: OnBad::Skip })?;
    let skips = !read.skipped.is_empty();
    let settings = skips.then(|| ("on_bad_record", "\"skip\" # some lines are empty or not UTF-8".to_owned()));
    let settings = settings.into_iter().collect();
    let targets = train.targets[0].file_name().unwrap_or_default().to_string_lossy().into_owned();
    let why = format!("lines with their targets in {targets}");
    Ok((read.records.len(), Proposal { kind: TaskKind::Seq2seq, settings, texts: Vec::new(), why }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sources and the targets, by their names.
    fn of(names: &[&str], source: Option<&str>) -> Option<String> {
        let paths: Vec<PathBuf> = names.iter().map(|name| Path::new("d").join(name)).collect();
        let Set { files, targets } = paired(&paths, source)?;
        let joined = |paths: &[PathBuf]| {
            let names = paths.iter().map(|path| path.strip_prefix("d").unwrap().display().to_string());
            names.collect::<Vec<_>>().join(" ")
        };
        Some(format!("{} > {}", joined(&files), joined(&targets)))
    }

    #[test]
    fn files_are_paired_by_their_names() {
        for (names, expected) in [
            (&["train.de", "train.en"][..], "train.en > train.de"),
            (&["train.de", "train.fr"][..], "train.de > train.fr"),
            (&["train.en.gz", "train.ZH_cn.gz"][..], "train.en.gz > train.ZH_cn.gz"),
            (&["train.de-en.de", "train.de-en.en"][..], "train.de-en.de > train.de-en.en"),
            (&["a.de", "a.en", "b.de", "b.en", "a.log"][..], "a.en b.en > a.de b.de"),
            (&["t.tgt", "t.src"][..], "t.src > t.tgt"),
            (&["t.target", "t.source"][..], "t.source > t.target"),
            (&["t.eng_Latn", "t.deu_Latn"][..], "t.eng_Latn > t.deu_Latn"),
        ] {
            assert_eq!(of(names, None).as_deref(), Some(expected), "{names:?}");
        }
        assert_eq!(of(&["train.de", "train.en"], Some("de")).as_deref(), Some("train.de > train.en"));
    }

    #[test]
    fn other_files_are_not() {
        for names in [
            &["train.en"][..],
            &["train.en", "dev.de"][..],
            &["train.en", "train.de", "train.fr"][..],
            &["a.en", "a.de", "b.en", "b.fr"][..],
            &["train.en", "train.de", "train.tok.en", "train.tok.de"][..],
            &["train.src", "train.target"][..],
            &["train.src", "train.en"][..],
            &["train.bin", "train.idx"][..],
            &["train.py", "train.sh"][..],
            &["train.en.txt", "train.de.txt"][..],
            &["train", "train.gz"][..],
        ] {
            assert_eq!(of(names, None), None, "{names:?}");
        }
    }

    #[test]
    fn pairs_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let [source, target] = ["t.en", "t.de"].map(|name| dir.path().join(name));
        std::fs::write(&source, "one\ntwo\n").unwrap();
        let set = Set { files: vec![source], targets: vec![target.clone()] };
        std::fs::write(&target, "eins\nzwei\n").unwrap();
        let (n, proposal) = look(&set).unwrap();
        assert_eq!((n, proposal.kind, proposal.settings.len()), (2, TaskKind::Seq2seq, 0));
        std::fs::write(&target, "\nzwei\n").unwrap();
        let (n, proposal) = look(&set).unwrap();
        assert_eq!((n, proposal.settings[0].0), (1, "on_bad_record"));
        std::fs::write(&target, "eins\n").unwrap();
        let message = look(&set).err().unwrap().to_string();
        assert!(message.contains("t.en has 2 lines, but ") && message.contains("t.de has 1"), "{message}");
    }
}
