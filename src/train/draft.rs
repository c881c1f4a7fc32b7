//! Drafts a configuration for data and a model: `trainer init`.

use crate::checkpoint::weight_sets::WeightSet;
use crate::config::TaskKind;
use crate::error::{Error, Result};
use crate::models::registry;
use crate::text::files::extension;
use crate::text::one_object;
use crate::text::survey::{Columns, Survey, survey};
use crate::text::tokenizer::Tokenizer;
use crate::train::model_folder::ModelFolder;
use crate::train::quoting::quoted;
use serde_json::Value;
use std::path::{Path, PathBuf};

mod inference;
mod names;
mod parallel;
mod parts;

use inference::{Proposal, propose, refusal};
use names::usual_names;
use parallel::look;
use parts::{Parts, parts};

/// Share of the texts that `max_length` does not truncate.
const COVERED: f64 = 0.99;

/// A configuration with comments.
#[derive(Debug)]
pub struct Draft {
    /// TOML.
    pub text: String,
    pub kind: TaskKind,
    /// What was found in the data, for a message.
    pub found: String,
    /// What the user is told about files that are evaluation data by their names, but cannot be read like the training
    /// data.
    pub left_out: Option<String>,
    /// Whether `model.path` is still to be set.
    pub lacks_model: bool,
    /// Whether the model's folder has no weights, so that they are newly initialized.
    pub lacks_weights: bool,
}

/// Drafts the configuration for a data file, or a folder with the parts of a data set.
///
/// # Errors
/// Exit 2: data whose task cannot be inferred, with what was found; a model that does not do it.
pub fn draft(data: &Path, model: Option<&Path>) -> Result<Draft> {
    let mut parts = parts(data)?;
    let family = model.map(model_type).transpose()?;
    let first = &parts.train.files[0];
    let (survey, rows, mut proposal) = if parts.train.targets.is_empty() {
        let survey = survey(first, &usual_names())?;
        let unknown = |why: String| {
            let other = one_object::refuse(first).err();
            other.unwrap_or_else(|| Error::input(format!("{}: {why}", first.display())))
        };
        let proposal = propose(&survey, family.as_deref()).map_err(unknown)?;
        let rows = if let Survey::Records(columns) = &survey { Some(columns.rows) } else { None };
        (Some(survey), rows, proposal)
    } else {
        let (rows, proposal) = look(&parts.train)?;
        (None, Some(rows), proposal)
    };
    if let Some(survey) = &survey {
        let is_like = |path: &PathBuf| {
            extension(path) == extension(first) || reads_alike(path, (survey, &proposal), family.as_deref())
        };
        let files = std::mem::take(&mut parts.eval.files);
        let (eval, others): (Vec<PathBuf>, Vec<PathBuf>) = files.into_iter().partition(is_like);
        parts.eval.files = eval;
        parts.left_out.extend(others);
    }
    if survey == Some(Survey::PlainText) && parts.eval.files.is_empty() {
        // Of one document nothing could be held out.
        proposal.settings.push(("documents", quoted("paragraphs")));
    }
    let kind = proposal.kind;
    if let (Some(family), Some(model)) = (&family, model)
        && let Some(why) = refusal(family, kind)
    {
        return Err(Error::input(format!(
            "{}: {} ({}), and {} is a {family}: {why}",
            first.display(),
            kind,
            proposal.why,
            model.display()
        )));
    }
    let length = match (&survey, model) {
        (Some(Survey::Records(columns)), Some(model)) => max_length(columns, &proposal.texts, model)?,
        _ => None,
    };
    let lacks_weights = model.map(lacks_weights).transpose()?.unwrap_or_default();
    let text = toml(&parts, &proposal, (model, family.as_deref(), lacks_weights), (rows, length));
    let rows = rows.map_or_else(String::new, |rows| format!("{rows} records, "));
    let found = format!("{rows}{}", proposal.why);
    Ok(Draft { text, kind, found, left_out: parts.remark(), lacks_model: model.is_none(), lacks_weights })
}

/// Whether a file is read with the settings of the training data.
fn reads_alike(path: &Path, (train, proposal): (&Survey, &Proposal), family: Option<&str>) -> bool {
    let Ok(other) = survey(path, &usual_names()) else { return false };
    if !matches!((train, &other), (Survey::Records(_), Survey::Records(_))) {
        return *train == other;
    }
    let Ok(other) = propose(&other, family) else { return false };
    // Few numbers may look like classes.
    let has_label = |kind| matches!(kind, TaskKind::SequenceClassification | TaskKind::Regression);
    let columns = |of: &Proposal| -> Vec<(&'static str, String)> {
        of.settings.iter().filter(|(key, _)| *key != "on_bad_record").cloned().collect()
    };
    let is_same_task = other.kind == proposal.kind || has_label(other.kind) && has_label(proposal.kind);
    is_same_task && columns(&other) == columns(proposal)
}

/// Whether a local folder of a full model has no weights. Those of the Hub are downloaded by the run.
fn lacks_weights(model: &Path) -> Result<bool> {
    let folder = ModelFolder::open(model, None)?;
    Ok(model.is_dir() && folder.adapter.is_none() && WeightSet::of(&folder.path)?.files.is_empty())
}

/// Returns the `model_type` of a model folder or of an adapter's base model.
fn model_type(model: &Path) -> Result<String> {
    let config = ModelFolder::open(model, None)?.read_config()?;
    let name = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
    match registry::family(name) {
        Some(_) => Ok(name.to_owned()),
        None => Err(Error::input(format!("{}: model_type {name:?} is not supported", model.display()))),
    }
}

/// Returns a length in tokens that nearly all examples have, rounded up to a multiple of 32; `None` if the model's limit,
/// which is the default, is not greater.
///
/// # Errors
/// A folder without a tokenizer.
fn max_length(columns: &Columns, texts: &[usize], model: &Path) -> Result<Option<usize>> {
    let Some((&first, rest)) = texts.split_first() else { return Ok(None) };
    let folder = ModelFolder::open(model, None)?;
    let tokenizer = Tokenizer::from_folder(folder.tokenizer())?;
    let limit = folder.read_config()?.get("max_position_embeddings").and_then(Value::as_u64).unwrap_or(512) as usize;
    let pair = |i: usize| rest.first().and_then(|&second| columns.columns[second].samples.get(i)).map(String::as_str);
    let samples = columns.columns[first].samples.iter().enumerate();
    let inputs: Vec<(&str, Option<&str>)> = samples.map(|(i, text)| (text.as_str(), pair(i))).collect();
    let encoded = tokenizer.encode_batch(&inputs, usize::MAX)?;
    let mut lengths: Vec<usize> = encoded.iter().map(|encoded| encoded.ids.len()).collect();
    lengths.sort_unstable();
    let covered = lengths.get((lengths.len() as f64 * COVERED) as usize).or(lengths.last());
    // RoBERTa's positions begin at 2.
    Ok(covered.map(|n| n.next_multiple_of(32)).filter(|n| n + 2 <= limit))
}

/// Returns the configuration as TOML.
fn toml(
    parts: &Parts,
    proposal: &Proposal,
    (model, family, lacks_weights): (Option<&Path>, Option<&str>, bool),
    (rows, length): (Option<usize>, Option<usize>),
) -> String {
    let files = |paths: &[PathBuf]| {
        let names: Vec<String> = paths.iter().map(|path| quoted(&path.display().to_string())).collect();
        if let [one] = names.as_slice() { one.clone() } else { format!("[{}]", names.join(", ")) }
    };
    let (kind, Parts { train, eval, .. }) = (proposal.kind, parts);
    let mut out = format!(
        "# {}: {}. Drafted by `trainer init`; `trainer config KEY` explains a key.\n",
        train.files[0].display(),
        proposal.why
    );
    out += &format!("output_dir = {}\nseed = 42\n\n[model]\n", quoted(&format!("runs/{}", name(&train.files[0]))));
    out += &match model {
        Some(model) => format!("path = {}\n", quoted(&model.display().to_string())),
        None => "# path = \"...\" is to be set: the folder of a pretrained model\n".to_owned(),
    };
    if lacks_weights {
        out += "init = \"random\" # the folder has no weight files; with them, remove this line\n";
    }
    out += &format!("\n[task]\nkind = \"{kind}\"\n\n[data]\ntrain = {}\n", files(&train.files));
    if !train.targets.is_empty() {
        out += &format!("train_target = {} # for the other direction exchange the files\n", files(&train.targets));
    }
    if let Some(remark) = parts.remark() {
        out += &format!("# {remark}\n");
    }
    out += &match eval.files.as_slice() {
        [] => "eval_split = 0.1 # a tenth of the training data is held out\n".to_owned(),
        some => format!("eval = {}\n", files(some)),
    };
    if !eval.targets.is_empty() {
        out += &format!("eval_target = {}\n", files(&eval.targets));
    }
    for (key, value) in &proposal.settings {
        out += &format!("{key} = {value}\n");
    }
    if let Some(length) = length {
        out += &format!("max_length = {length} # tokens; 99 % of the first texts are not truncated\n");
    }
    let is_lm = matches!(kind, TaskKind::CausalLm | TaskKind::MaskedLm | TaskKind::Chat);
    let rate = match (kind, family) {
        (TaskKind::Seq2seq, Some("bart")) => "5e-5",
        (TaskKind::Seq2seq, _) => "1e-4",
        (_, Some("bert" | "roberta" | "distilbert" | "albert" | "electra" | "modernbert" | "longformer" | "xlnet")) => {
            "5e-5"
        }
        _ => "2e-5",
    };
    let batch = if is_lm || rows.is_some_and(|rows| rows < 1000) { 8 } else { 32 };
    let metric = match kind {
        TaskKind::SequenceClassification | TaskKind::MultipleChoice => "accuracy",
        TaskKind::TokenClassification | TaskKind::QuestionAnswering | TaskKind::MultiLabel => "f1",
        TaskKind::Regression => "pearson",
        TaskKind::Embedding => "ndcg@10",
        _ => "loss",
    };
    out + &format!(
        "\n[train]\nnum_train_epochs = 3\nglobal_batch_size = {batch} # examples per step, over all ranks\n\
         learning_rate = {rate}\nlr_scheduler_type = \"linear\"\nwarmup_ratio = 0.1\nweight_decay = 0.01\n\
         eval_strategy = \"epoch\"\nmetric_for_best_model = \"{metric}\"\nload_best_model_at_end = true\n\
         save_total_limit = 2\n"
    )
}

/// Returns a name for a run: that of the file, or of its folder where the file is named after its part.
fn name(file: &Path) -> String {
    let stem = file.file_name().unwrap_or_default().to_string_lossy();
    let stem = without_shard(stem.split('.').next().unwrap_or_default()).to_owned();
    let folder = file.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    match stem.as_str() {
        "train" | "training" | "data" => folder.unwrap_or(stem),
        _ => stem,
    }
}

/// Returns `train` for `train-00000-of-00001`, as `datasets` names files, or for that with a hash of the Hub.
fn without_shard(stem: &str) -> &str {
    let digits = |c: char| c.is_ascii_digit();
    let is_hash = |part: &str| part.len() == 16 && part.bytes().all(|b| b.is_ascii_hexdigit());
    let stem = stem.rsplit_once('-').filter(|(_, part)| is_hash(part)).map_or(stem, |(name, _)| name);
    let part = stem.trim_end_matches(digits).strip_suffix("-of-").map(|part| part.trim_end_matches(digits));
    part.and_then(|part| part.strip_suffix('-')).filter(|name| !name.is_empty()).unwrap_or(stem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_run_is_named_after_its_data() {
        for (file, expected) in [
            ("a/reviews.train.csv", "reviews"),
            ("a/train.jsonl.zst", "a"),
            ("train.jsonl", "train"),
            ("a/train-00000-of-00001.parquet", "a"),
            ("a/news-00003-of-00012.parquet", "news"),
            ("a/train-00000-of-00001-a09b74b3ef9c3b56.parquet", "a"),
            ("a/-0-of-1.csv", "-0-of-1"),
            ("2024-of-1.csv", "2024-of-1"),
            ("a/top-10.csv", "top-10"),
        ] {
            assert_eq!(name(Path::new(file)), expected, "{file}");
        }
    }

    #[test]
    fn a_model_without_weights_begins_newly_initialized() {
        let dir = tempfile::tempdir().unwrap();
        let (data, model) = (dir.path().join("train.txt"), dir.path().join("model"));
        std::fs::create_dir(&model).unwrap();
        std::fs::write(&data, "a\n").unwrap();
        std::fs::write(model.join("config.json"), "{\"model_type\": \"llama\"}").unwrap();
        let without = draft(&data, Some(&model)).unwrap();
        assert!(without.lacks_weights && without.text.contains("\ninit = \"random\" # "), "{}", without.text);
        std::fs::write(model.join("model.safetensors"), "").unwrap();
        let with = draft(&data, Some(&model)).unwrap();
        assert!(!with.lacks_weights && !with.text.contains("init = "), "{}", with.text);
        assert!(!draft(&data, None).unwrap().lacks_weights);
    }

    #[test]
    fn parallel_text_has_its_targets() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in
            [("train.de", "eins\nzwei\n"), ("train.en", "one\ntwo\n"), ("dev.de", "a\n"), ("dev.en", "a\n")]
        {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let Draft { text, kind, found, .. } = draft(dir.path(), None).unwrap();
        assert_eq!((kind, found.as_str()), (TaskKind::Seq2seq, "2 records, lines with their targets in train.de"));
        let data = Config::parse(&text, "drafted", &["model.path=m".to_owned()]).unwrap().data;
        let path = |name: &str| dir.path().join(name);
        assert_eq!(data.train.paths(), [path("train.en")]);
        for (files, expected) in [(data.train_target, "train.de"), (data.eval, "dev.en"), (data.eval_target, "dev.de")]
        {
            assert_eq!(files.unwrap().paths(), [path(expected)]);
        }
        let other = draft(&dir.path().join("train.de"), None).unwrap();
        assert!(other.text.contains("/train.de\"\ntrain_target = "), "{}", other.text);
    }

    #[test]
    fn an_object_with_records_in_a_list_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        for line in ["", "\n"] {
            let list = format!("{{\"n\": NaN, \"data\":{line} [{line}{{\"text\": \"a\", \"label\": 1}}]}}");
            std::fs::write(&path, list).unwrap();
            let message = draft(&path, None).unwrap_err().to_string();
            let expected = format!("{}: the file is one JSON object, whose key \"data\" holds", path.display());
            assert!(message.starts_with(&expected), "{message}");
        }
    }

    #[test]
    fn evaluation_data_is_in_the_form_of_the_training_data() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("train.jsonl", "{\"review\": \"a\", \"label\": \"x\"}\n{\"review\": \"b\", \"label\": \"y\"}\n");
        let drafted = |dev: &str, text: &str| {
            write(dev, text);
            let [folder, file] = ["", "train.jsonl"].map(|data| draft(&dir.path().join(data), None).unwrap());
            assert_eq!((&folder.text, &folder.left_out), (&file.text, &file.left_out), "of the file as of its folder");
            std::fs::remove_file(dir.path().join(dev)).unwrap();
            folder
        };
        for (dev, text) in [("dev.txt", "a\n"), ("dev.csv", "other,name\na,b\n"), ("dev.csv", "text,label\na,x\n")] {
            let Draft { text, left_out, .. } = drafted(dev, text);
            let remark = left_out.unwrap();
            assert!(remark.contains(&format!("/{dev} is left out of the evaluation data: ")), "{remark}");
            assert!(text.contains(&format!("# {remark}\neval_split = 0.1")) && !text.contains("\neval = "), "{text}");
        }
        let Draft { text, left_out, .. } = drafted("dev.csv", "review,label\na,x\n");
        assert!(text.contains("/dev.csv\"\n") && !text.contains("eval_split"), "{text}");
        assert_eq!(left_out, None);
    }
}
