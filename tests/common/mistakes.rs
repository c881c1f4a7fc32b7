//! What people get wrong, with the exit code and what the message must say.

use super::process::{Ended, names};
use super::runs::Bench;
use serde_json::Value;
use std::fs;
use std::path::Path;
use trainer::config::Config;

/// One mistake: the arguments of a `trainer` that makes it, and what has to come of that.
#[derive(Clone)]
pub struct Mistake {
    pub what: &'static str,
    pub args: Vec<String>,
    pub code: i32,
    /// Parts of the message.
    pub says: Vec<String>,
    out: String,
}

impl Mistake {
    /// Asserts the exit code, one message that says what it must, and that nothing half-written is left.
    pub fn check(&self, ended: &Ended, bench: &Bench) {
        let (what, text) = (self.what, ended.text());
        assert_eq!(ended.status.code(), Some(self.code), "{what}: {text}");
        assert_eq!(text.matches("trainer: ").count(), 1, "{what}: one message: {text}");
        assert_eq!(text.matches("trainer: error: ").count(), 1, "{what}: {text}");
        for part in &self.says {
            assert!(text.contains(part), "{what}: says nothing of {part:?}: {text}");
        }
        let left = names(&bench.path(&self.out));
        let written = |name: &&String| name.contains("checkpoint") || name.contains("final") || name.ends_with(".tmp");
        assert_eq!(left.iter().find(written), None, "{what}: left behind: {left:?}");
    }
}

/// All of them, each ready to be made once. The bench is one of `bert-classification`.
pub fn mistakes(bench: &Bench) -> Vec<Mistake> {
    let mut book = Book { bench, mistakes: Vec::new() };
    configuration(&mut book);
    data(&mut book);
    models(&mut book);
    frozen(&mut book);
    folders(&mut book);
    let number = "the loss is";
    book.add("a loss that is not finite", &["learning_rate=1e30", "warmup_steps=0"], &[number, "learning_rate"]);
    let sharded = ["learning_rate=1e30", "warmup_steps=0", "max_grad_norm=0", "parallel.zero_stage=3"];
    book.add("the same, sharded", &sharded, &[number, "the first tensor with NaN or Inf, on rank ", "over sample"]);
    book.mistakes.iter_mut().rev().take(2).for_each(|mistake| mistake.code = 4);
    book.mistakes
}

fn configuration(book: &mut Book) {
    book.add(
        "an unknown key",
        &["learning_rat=1e-4"],
        &["command line: learning_rat: unknown key, did you mean train.learning_rate?"],
    );
    book.file(
        "an unknown key in a file",
        "learning_rate = 0.001",
        "learning_rte = 0.001",
        &["train.learning_rte: unknown key, did you mean train.learning_rate?"],
    );
    book.add(
        "a key of another tool",
        &["per_device_train_batch_size=8", "load_in_4bit=true"],
        &["command line: per_device_train_batch_size: unknown key: use train.global_batch_size=32 (per device"],
    );
    book.file(
        "a key of another tool in a file",
        "max_steps = 20",
        "load_in_4bit = true\nmax_steps = 20",
        &["train.load_in_4bit: quantization is not supported in this version: "],
    );
    book.add(
        "a word of another tool",
        &["task.kind=ner"],
        &["command line: task.kind: found \"ner\": use \"token-classification\""],
    );
    book.add(
        "a wrong type",
        &["max_steps=many"],
        &["command line: train.max_steps: found the string \"many\", expected an integer"],
    );
    book.file(
        "a wrong type in a file",
        "max_steps = 20",
        "max_steps = \"many\"",
        &["train.max_steps: found the string \"many\", expected an integer"],
    );
    book.add(
        "two mistakes at once",
        &["max_steps=0", "weight_decay=-1"],
        &["2 problems", "train.max_steps: found the integer 0", "train.weight_decay: found the integer -1"],
    );
    let missing = book.bench.path("nowhere.toml").display().to_string();
    book.args("no such configuration", vec!["train".into(), missing.clone()], &[&missing, "No such file"]);
}

fn data(book: &mut Book) {
    let missing = book.bench.path("nowhere.jsonl").display().to_string();
    book.add("no such data file", &[&format!("data.train={missing}")], &["data.train: no such file: ", &missing]);
    book.add("no such evaluation file", &[&format!("data.eval={missing}")], &["data.eval: no such file: ", &missing]);

    let good = fs::read_to_string(book.bench.path("train.jsonl")).unwrap();
    let lines: Vec<&str> = good.lines().collect();
    let changed = |at: usize, line: &str| [&lines[..at - 1], &[line], &lines[at..]].concat().join("\n");
    let file = book.write("no-text.jsonl", &changed(7, r#"{"sentence": "hello", "label": "sport"}"#));
    book.add(
        "a record without the text column",
        &[&format!("data.train={file}")],
        &[&format!("{file}:7: no column \"text\""), "\"sentence\"", "text_column"],
    );
    let file = book.write("broken.jsonl", &changed(90, r#"{"text": "hello", "label": "#));
    book.add("a broken record", &[&format!("data.train={file}")], &[&format!("{file}:90: invalid JSON")]);
    let file = book.write("politics.jsonl", &changed(31, r#"{"text": "hello", "label": "politics"}"#));
    let labels = r#"task.labels=["science", "sport", "weather"]"#;
    let unknown = format!("{file}:31: the label \"politics\" is not one of the 3 known: \"science\"");
    book.add("a label not in the list", &[labels, &format!("data.train={file}")], &[&unknown]);
    book.add("a label that training never saw", &[&format!("data.eval={file}")], &["data.eval", &unknown]);
    let file = book.write("empty.jsonl", "");
    book.add("an empty data set", &[&format!("data.train={file}")], &[&file, "the data set is empty"]);
    let file = book.write("empty.csv", "text,label\n");
    book.add("an empty evaluation set", &[&format!("data.eval={file}")], &["data.eval", &file, "empty"]);
}

fn models(book: &mut Book) {
    let missing = book.bench.path("no-model").display().to_string();
    book.add("no such model", &[&format!("model.path={missing}")], &["model.path: no such folder: ", &missing]);
    let file = book.bench.model.join("config.json").display().to_string();
    book.add("a file of a model", &[&format!("model.path={file}")], &[&format!("{file} is a file: name its folder, ")]);
    let named = "is named ORG/NAME, such as google-bert/bert-base-uncased,";
    book.add("a name without its owner", &["model.path=bert-base-uncased"], &[named]);
    let here = "model.path: no such folder: nowhere in the working directory";
    book.add("no such model here", &["model.path=nowhere"], &[here]);
    book.model(
        "a truncated model.safetensors",
        |folder| {
            let path = folder.join("model.safetensors");
            let bytes = fs::read(&path).unwrap();
            fs::write(path, &bytes[..bytes.len() - 1000]).unwrap();
        },
        &["/model.safetensors: not a complete safetensors file", "105476 bytes"],
    );
    book.model(
        "no weights",
        |folder| fs::remove_file(folder.join("model.safetensors")).unwrap(),
        &["neither model.safetensors nor model.safetensors.index.json, pytorch_model.bin"],
    );
    let folder = book.bench.path("one-segment");
    copy_folder(&book.bench.model, &folder);
    edit(&folder.join("config.json"), |c| c["type_vocab_size"] = 1.into());
    book.add(
        "pairs for a model of one segment",
        &[&format!("model.path={}", folder.display()), "data.text_pair_column=text"],
        &["the data has 2 segments", "type_vocab_size = 1"],
    );
    book.model(
        "a dropout of 1",
        |folder| edit(&folder.join("config.json"), |c| c["hidden_dropout_prob"] = 1.0.into()),
        &["config.json: hidden_dropout_prob = 1: expected a probability of at least 0 and below 1"],
    );
    book.model(
        "another family",
        |folder| edit(&folder.join("config.json"), |c| c["model_type"] = "gpt_neox".into()),
        &["config.json: model_type \"gpt_neox\" is not supported", "fine-tunes: bert"],
    );
    book.model(
        "more rows in config.json than in the embedding",
        |folder| {
            edit(&folder.join("config.json"), |c| c["vocab_size"] = 170.into());
        },
        &["bert.embeddings.word_embeddings.weight is [160, 32], config.json says [170, 32]"],
    );
    book.model(
        "fewer rows in config.json than the tokenizer needs",
        |folder| {
            edit(&folder.join("config.json"), |c| c["vocab_size"] = 150.into());
        },
        &["the data has token ids up to 15", "config.json has vocab_size = 150"],
    );
    book.model(
        "a tokenizer with more ids than the model",
        |folder| {
            edit(&folder.join("tokenizer.json"), |t| t["model"]["vocab"]["the"] = 160.into());
        },
        &["the data has token ids up to 160", "config.json has vocab_size = 160"],
    );
    book.model(
        "more layers in config.json than in the file",
        |folder| {
            edit(&folder.join("config.json"), |c| c["num_hidden_layers"] = 3.into());
        },
        &["bert.encoder.layer.2.attention.self.query.weight is missing"],
    );
    book.model(
        "a tokenizer that needs a word segmenter",
        |folder| {
            edit(&folder.join("tokenizer_config.json"), |c| c["tokenizer_class"] = "BertJapaneseTokenizer".into());
        },
        &["tokenizer_config.json: tokenizer_class \"BertJapaneseTokenizer\"", "\"PreTrainedTokenizerFast\""],
    );
    book.model(
        "a tokenizer class of another kind",
        |folder| {
            edit(&folder.join("tokenizer_config.json"), |c| c["tokenizer_class"] = "GPT2Tokenizer".into());
        },
        &["tokenizer.json: the model is WordPiece", "rebuilds it as BPE", "\"PreTrainedTokenizerFast\""],
    );
    book.model("no tokenizer", |folder| fs::remove_file(folder.join("tokenizer.json")).unwrap(), &["tokenizer.json"]);
    book.model(
        "a config.json that is not JSON",
        |folder| fs::write(folder.join("config.json"), "{").unwrap(),
        &["config.json: ", "line 1"],
    );
    book.add("sequences longer than the model takes", &["max_length=65"], &["data.max_length = 65", "at most 64"]);
}

fn frozen(book: &mut Book) {
    book.add(
        "a pattern that matches no weight",
        &[r#"model.freeze=["bert.embeddings.*", "encoder.*"]"#],
        &["model.freeze: \"encoder.*\" matches no weight", "bert.embeddings.word_embeddings.weight"],
    );
    book.add(
        "a part of what is one weight",
        &[r#"model.freeze=["bert.encoder.layer.1.attention.self.query.*"]"#],
        &["model.freeze: bert.encoder.layer.1.attention.self.query.weight, ", "freeze all of them or none"],
    );
    book.add("everything frozen", &[r#"model.freeze=["*"]"#], &["model.freeze: nothing is left to train"]);
    book.add(
        "all that is trained frozen",
        &[r#"model.train=["head"]"#, r#"model.freeze=["bert.pooler.*", "classifier.*"]"#],
        &["model.freeze: nothing is left to train: it matches all that model.train selects"],
    );
    book.add(
        "a layer that the model lacks",
        &[r#"model.train=["head", "layers.1-2"]"#],
        &["model.train: \"layers.1-2\" exceeds this model, which has layers 0 to 1"],
    );
    let groups = |tables: &str| format!("train.groups=[{tables}]");
    book.add(
        "a weight in two groups",
        &[&groups(r#"{params=["head"], learning_rate=1e-3}, {params=["classifier.*"], weight_decay=0.1}"#)],
        &["train.groups: classifier.weight is in table 1 and in table 2"],
    );
    book.add(
        "a group of frozen weights",
        &[&groups(r#"{params=["layers.0"], learning_rate=1e-3}"#), r#"model.train=["head"]"#],
        &["train.groups, table 1: params selects only frozen weights"],
    );
    book.add(
        "an unfreezing schedule longer than the run",
        &["train.unfreeze=7", "max_steps=21"],
        &["train.unfreeze: the schedule is longer than the run", "after step 21", "the run has 21 steps"],
    );
    book.add(
        "weight decay of biases",
        &[&groups(r#"{params=["*.bias"], weight_decay=0.1}"#)],
        &["train.groups, table 1: weight_decay is not applied to biases and norms"],
    );
}

fn folders(book: &mut Book) {
    let file = book.write("a-file", "");
    book.add("an output folder below a file", &[&format!("output_dir={file}/run")], &["output_dir", &file]);
    book.add("an output folder where nobody may write", &["output_dir=/proc/run"], &["output_dir", "/proc/run"]);
    let held = book.bench.path("held");
    fs::create_dir_all(held.join("checkpoint-5")).unwrap();
    fs::write(held.join("metrics.jsonl"), "{}\n").unwrap();
    book.add(
        "an output folder that holds a run",
        &[&format!("output_dir={}", held.display())],
        &[&held.display().to_string(), "--resume auto", "overwrite_output_dir=true"],
    );
    book.add("no such checkpoint", &[], &["/held/checkpoint-5: not a complete checkpoint (no file COMPLETE)"]);
    let checkpoint = held.join("checkpoint-5").display().to_string();
    if let Some(mistake) = book.mistakes.last_mut() {
        mistake.args.extend(["--resume".into(), checkpoint]);
    }
}

/// Collects mistakes; each trains into a folder of its own.
struct Book<'a> {
    bench: &'a Bench,
    mistakes: Vec<Mistake>,
}

impl Book<'_> {
    fn out(&self) -> String {
        format!("out-{}", self.mistakes.len())
    }

    fn args(&mut self, what: &'static str, args: Vec<String>, says: &[&str]) {
        let (out, says) = (self.out(), says.iter().map(|&s| s.to_owned()).collect());
        self.mistakes.push(Mistake { what, args, code: 2, says, out });
    }

    /// A run with other settings.
    fn add(&mut self, what: &'static str, more: &[&str], says: &[&str]) {
        let mut args = vec!["train".to_owned()];
        args.extend(self.bench.settings(&self.out(), more));
        self.args(what, args, says);
    }

    /// A run by a file with one line replaced; the message starts with that line's place.
    fn file(&mut self, what: &'static str, line: &str, by: &str, says: &[&str]) {
        let config = Config::load(None, &self.bench.settings(&self.out(), &[])).unwrap().to_toml();
        let number = config.lines().position(|l| l == line).unwrap_or_else(|| panic!("no {line} in {config}")) + 1;
        let file = self.write(&format!("{}.toml", self.out()), &config.replace(line, by));
        let place = format!("{file}:{number}: {}", says[0]);
        self.args(what, vec!["train".into(), file], &[&place]);
    }

    /// A run on a changed copy of the model.
    fn model(&mut self, what: &'static str, change: impl Fn(&Path), says: &[&str]) {
        let name = format!("model-{}", self.mistakes.len());
        let folder = self.bench.path(&name);
        copy_folder(&self.bench.model, &folder);
        change(&folder);
        let path = folder.display().to_string();
        self.add(what, &[&format!("model.path={path}")], &[&[path.as_str()], says].concat());
    }

    /// Writes a file into the bench's folder; returns its path.
    fn write(&self, name: &str, text: &str) -> String {
        let path = self.bench.path(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

/// Copies a folder's files, and its folders' files.
pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for name in names(from) {
        let (from, to) = (from.join(&name), to.join(&name));
        if from.is_dir() {
            copy_folder(&from, &to);
        } else {
            fs::copy(from, to).unwrap();
        }
    }
}

/// Changes a JSON file.
pub fn edit(path: &Path, change: impl Fn(&mut Value)) {
    let mut json = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    change(&mut json);
    fs::write(path, json.to_string()).unwrap();
}
