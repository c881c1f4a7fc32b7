//! The program as a person starts it, on one rank.

mod common;

use common::mistakes::mistakes;
use common::process::{names, run, trainer};
use common::runs::Bench;
use common::scenarios::train;
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

fn bench() -> Bench {
    Bench::new("bert-classification")
}

#[test]
fn mistakes_get_one_clear_message() {
    let bench = bench();
    for mistake in mistakes(&bench) {
        mistake.check(&run(trainer(&bench).args(&mistake.args)), &bench);
    }
}

#[test]
fn wrong_arguments_get_usage() {
    let bench = bench();
    let ended = run(trainer(&bench).args(["train", "--resum", "auto"])).expect(2);
    assert!(ended.stderr.contains("--resume") && ended.stderr.contains("Usage"), "{}", ended.text());
    let ended = run(trainer(&bench).args(["evaluate", "--json"])).expect(2);
    assert!(ended.stderr.contains("--model") && ended.stderr.contains("--data"), "{}", ended.text());
    // A setting is no option.
    let ended = run(trainer(&bench).args(["train", "run.toml", "--lr", "3e-5", "--bf16", "--seed=1"])).expect(2);
    for told in ["--lr: unknown key: use train.learning_rate=3e-5", "parallel.precision=bf16", "--seed: write seed=1"] {
        assert!(ended.stderr.contains(told) && !ended.stderr.contains("Usage"), "{told}: {}", ended.text());
    }
    let ended = run(trainer(&bench).arg("plan").args(bench.settings("run", &[])).args(["--device", "H100"])).expect(2);
    assert!(ended.stderr.contains("--device: found \"H100\": use \"h100-sxm\" (or"), "{}", ended.text());
    assert!(run(trainer(&bench).arg("--version")).expect(0).stdout.contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn without_arguments_it_trains_by_the_file_that_is_here() {
    let bench = bench();
    let ended = run(&mut trainer(&bench)).expect(2);
    assert!(ended.stderr.contains("Usage") && ended.stderr.contains("no ./trainer.toml"), "{}", ended.text());
    assert_eq!(ended.text().matches("trainer: error: ").count(), 1, "{}", ended.text());

    let config = run(trainer(&bench).arg("train").arg("--print-config").args(bench.settings("run", &[]))).expect(0);
    fs::write(bench.path("trainer.toml"), config.stdout).unwrap();
    run(&mut trainer(&bench)).expect(0);
    assert_eq!(bench.steps("run").len(), 20);
    run(trainer(&bench).args(["train", "output_dir=other", "max_steps=3"])).expect(0);
    assert_eq!(bench.steps("other").len(), 3);
}

#[test]
fn print_config_shows_what_it_reads_back() {
    let bench = bench();
    let settings = bench.settings("run", &["warmup_ratio=0.1", r#"task.labels=["a \"b\"", "c"]"#, "timeout_seconds=7"]);
    let print = |args: &[String]| run(trainer(&bench).args(["train", "--print-config"]).args(args)).expect(0).stdout;
    let first = print(&settings);
    for line in ["learning_rate = 0.001", "adam_beta2 = 0.999", "labels = ['a \"b\"', \"c\"]", "timeout_seconds = 7.0"]
    {
        assert!(first.lines().any(|l| l == line), "{line}: {first}");
    }
    fs::write(bench.path("config.toml"), &first).unwrap();
    assert_eq!(print(&[bench.path("config.toml").display().to_string()]), first);
    assert!(names(bench.dir.path()).iter().all(|name| name != "run"), "it does nothing else");
}

#[test]
fn config_explains_keys_and_shells_complete_them() {
    let bench = bench();
    let config = |word: &str| run(trainer(&bench).args(["config", word]));
    let explained = config("learning_rate").expect(0).stdout;
    let type_and_default = "\nSection      [train]\nType         number > 0\nDefault      5e-5\nOther tools  lr, ";
    assert!(explained.contains(type_and_default), "{explained}");
    assert!(explained.ends_with("\n\nPeak learning rate of the schedule.\n"), "{explained}");
    let all = config("--all").expect(0).stdout;
    let of_train = all.split("\n[train]\n").nth(1).and_then(|section| section.lines().next()).expect("the section");
    let words: Vec<&str> = of_train.split_whitespace().collect();
    assert_eq!(words.join(" "), "num_train_epochs Passes over the training data.", "{all}");
    let long = config("metric_for_best_model").expect(0).stdout;
    assert!(long.lines().chain(all.lines()).all(|line| line.chars().count() <= 80), "{long}");
    let unknown = config("learning_rat").expect(2).stderr;
    assert!(unknown.contains("learning_rat: unknown key, did you mean train.learning_rate?"), "{unknown}");
    let other_tool = config("lr").expect(2).stderr;
    assert!(other_tool.contains("lr: unknown key: use train.learning_rate = 5e-5"), "{other_tool}");

    run(trainer(&bench).args(["man", "pages/man1"])).expect(0);
    let page = fs::read_to_string(bench.path("pages/man1/trainer-train.1")).unwrap();
    assert!(page.starts_with(".ie") && page.contains("trainer\\-train"), "{page}");
    let script = run(trainer(&bench).args(["completions", "bash"])).expect(0).stdout;
    assert!(script.contains(" learning_rate= ") && script.contains("compopt -o nospace"), "{script}");
    let help = run(trainer(&bench).args(["train", "--help"])).expect(0).stdout;
    assert!(!help.contains("learning_rate= "), "{help}");
}

#[test]
fn evaluation_on_training_data_is_told() {
    let bench = bench();
    let eval = format!("data.eval={}", bench.path("train.jsonl").display());
    let ended = run(trainer(&bench).args(train(&bench, "run", &["max_steps=1", &eval]))).expect(0);
    assert!(ended.text().contains("train.jsonl is training data too"), "{}", ended.text());
    let ended = run(trainer(&bench).args(train(&bench, "other", &["max_steps=1"]))).expect(0);
    assert!(!ended.text().contains("is training data too"), "{}", ended.text());
}

#[test]
fn the_token_cache_is_listed_and_cleared() {
    let bench = bench();
    let cache = |more: &[&str]| run(trainer(&bench).args(["cache", "--cache-dir", "tokens"]).args(more));
    assert_eq!(cache(&[]).expect(0).stdout, "tokens: 0 files, 0 B\n");
    let folder = format!("cache_dir={}", bench.path("tokens").display());
    run(trainer(&bench).args(train(&bench, "run", &["max_steps=1", &folder]))).expect(0);
    let listed = cache(&[]).expect(0).stdout;
    assert!(listed.lines().all(|line| line.chars().count() <= 80), "{listed}");
    for told in ["tokens: ", "Last use", "sequence-classification", "today"] {
        assert!(listed.contains(told), "{told}: {listed}");
    }
    let json = |more: &[&str]| -> Value { serde_json::from_str(&cache(more).expect(0).stdout).unwrap() };
    let files = json(&["--json"]);
    let entries = files["files"].as_array().unwrap();
    assert!(entries.iter().all(|entry| entry["state"] == "ready" && entry["tokens"].as_u64() > Some(0)), "{files}");
    let sizes: u64 = entries.iter().map(|entry| entry["bytes"].as_u64().unwrap()).sum();
    assert_eq!(files["bytes"].as_u64(), Some(sizes));

    // What is new stays, what is locked stays, and so does what is not of the cache.
    fs::write(bench.path("tokens/notes.txt"), "").unwrap();
    assert_eq!(json(&["--clear", "--unused-days", "1", "--json"])["removed"], json!([]));
    let used = fs::File::open(entries[0]["path"].as_str().map(|path| bench.path(path)).unwrap()).unwrap();
    used.lock_shared().unwrap();
    let kept = cache(&["--clear"]).expect(0).stdout;
    assert!(kept.contains(" removed, ") && kept.contains("; 1 file left, "), "{kept}");
    assert!(cache(&[]).expect(0).stdout.contains("in use"));
    drop(used);
    assert!(cache(&["--clear"]).expect(0).stdout.contains("1 file removed"));
    assert_eq!(names(&bench.path("tokens")), ["notes.txt"]);
    let ended = cache(&["--unused-days", "1"]).expect(2);
    assert!(ended.stderr.contains("--clear"), "{}", ended.text());
}

#[test]
fn a_run_leaves_what_the_format_says() {
    let bench = bench();
    let ended = run(trainer(&bench).args(train(&bench, "run", &["eval_steps=10", "save_steps=10"]))).expect(0);
    let files = ["checkpoint-10", "checkpoint-20", "config.toml", "final", "metrics.jsonl", "report.html"];
    assert_eq!(names(&bench.path("run")), files);
    assert_eq!(
        names(&bench.path("run/checkpoint-20")),
        [
            "COMPLETE",
            "config.json",
            "model.safetensors",
            "optimizer",
            "tokenizer.json",
            "tokenizer_config.json",
            "trainer_config.toml",
            "trainer_state.json"
        ]
    );
    assert_eq!(bench.lines("run", "eval_loss").len(), 2, "{}", ended.text());
    assert!(ended.stderr.contains("90 examples") && ended.stderr.contains("tokenized now"), "{}", ended.text());
    let tables = ["│ step ", "│ memory per rank ", "│ training time "];
    assert!(
        tables.iter().all(|table| ended.stdout.contains(table) && !ended.stderr.contains(table)),
        "{}",
        ended.text()
    );
    assert!(ended.stdout.lines().all(|line| line.starts_with(['┌', '│', '╞', '└'])), "results alone: {}", ended.text());

    // A second start finds the tokens, whatever the run's folder.
    let ended = run(trainer(&bench).args(train(&bench, "again", &["max_steps=1"]))).expect(0);
    assert_eq!(ended.stderr.matches("from the token cache").count(), 2, "{}", ended.text());
    assert!(!ended.stderr.contains("tokenized now"), "{}", ended.text());
}

#[test]
fn a_folder_that_holds_a_run_is_replaced_only_when_asked_and_only_by_a_run_that_can_start() {
    let bench = bench();
    let short = ["max_steps=4", "save_steps=2"];
    run(trainer(&bench).args(train(&bench, "run", &short))).expect(0);
    let before = fs::read(bench.path("run/metrics.jsonl")).unwrap();
    let whole = |what: &str| {
        assert_eq!(fs::read(bench.path("run/metrics.jsonl")).unwrap(), before, "{what}");
        let left = names(&bench.path("run"));
        assert!(
            ["checkpoint-2", "checkpoint-4", "final"].iter().all(|&n| left.iter().any(|l| l == n)),
            "{what}: {left:?}"
        );
    };
    let ended = run(trainer(&bench).args(train(&bench, "run", &short))).expect(2);
    assert!(
        ended.stderr.contains("--resume auto") && ended.stderr.contains("overwrite_output_dir"),
        "{}",
        ended.text()
    );
    whole("refused");

    let replaced = [&short[..], &["overwrite_output_dir=true", "seed=7"]].concat();
    run(trainer(&bench).args(train(&bench, "run", &[&replaced[..], &["data.train=nowhere.jsonl"]].concat()))).expect(2);
    whole("a mistake beside overwrite_output_dir");
    let checkpoint = bench.path("run/checkpoint-2").display().to_string();
    run(trainer(&bench).args(train(&bench, "run", &["seed=7"])).args(["--resume", &checkpoint])).expect(2);
    whole("a resume that is refused");

    run(trainer(&bench).args(train(&bench, "run", &replaced))).expect(0);
    assert_ne!(fs::read(bench.path("run/metrics.jsonl")).unwrap(), before);
}

/// CSV and TSV, with a header and without, train exactly as JSONL does, quotes and commas in the text included.
/// As with transformers a head of the right shape is taken, whatever it was trained for; but it is told.
#[test]
fn a_head_for_other_labels_is_told() {
    let bench = bench();
    let header = |settings: &[&str]| run(trainer(&bench).args(train(&bench, "run", settings))).expect(0).stderr;
    let short = ["max_steps=1", "overwrite_output_dir=true"];
    assert!(!header(&short).contains("\nhead      "));
    for name in ["train.jsonl", "eval.jsonl"] {
        let text = fs::read_to_string(bench.path(name)).unwrap();
        fs::write(bench.path(name), text.replace("\"sport\"", "\"games\"")).unwrap();
    }
    let told = header(&short);
    let expected =
        "\nhead      was trained for other labels (science, sport, weather) and continues from its weights\n";
    assert!(told.contains(expected), "{told}");
}

#[test]
fn formats_give_the_same_losses() {
    let bench = bench();
    let records = |name: &str| -> Vec<(String, String)> {
        let text = fs::read_to_string(bench.path(name)).unwrap();
        let record = |line: &str| {
            let json: Value = serde_json::from_str(line).unwrap();
            let [text, label] = ["text", "label"].map(|key| json[key].as_str().unwrap().to_owned());
            (text.replacen(' ', ", \"so\" ", 1), label)
        };
        text.lines().map(record).collect()
    };
    let write = |name: &str, header: &str, line: &dyn Fn(&str, &str) -> String| {
        for data in ["train", "eval"] {
            let lines =
                records(&format!("{data}.jsonl")).iter().map(|(text, label)| line(text, label)).collect::<String>();
            fs::write(bench.path(&format!("{data}-{name}")), header.to_owned() + &lines).unwrap();
        }
    };
    let csv = |text: &str, label: &str| format!("\"{}\",{label}\n", text.replace('"', "\"\""));
    write("0.jsonl", "", &|text, label| json!({"label": label, "text": text}).to_string() + "\n");
    write("1.csv", "text,label\r\n", &csv);
    write("2.csv", "", &csv);
    write("3.tsv", "label\ttext\n", &|text, label| format!("{label}\t{text}\n"));
    write("4.tsv", "", &|text, label| format!("{text}\t{label}\n"));
    write("5.tsv", "", &|text, label| format!("7\t{label}\t{text}\n"));
    let steps = ["0.jsonl", "1.csv", "2.csv", "3.tsv", "4.tsv", "5.tsv"].map(|name| {
        let [train_file, eval_file] =
            ["train", "eval"].map(|data| format!("data.{data}={}", bench.path(&format!("{data}-{name}")).display()));
        let mut more = vec!["max_steps=10", &train_file, &eval_file];
        if name == "5.tsv" {
            more.push(r#"data.columns=["id", "label", "text"]"#);
        }
        run(trainer(&bench).args(train(&bench, name, &more))).expect(0);
        (bench.steps(name), bench.lines(name, "eval_loss").pop().map(|line| line["eval_loss"].clone()))
    });
    assert_eq!(steps[0].0.len(), 10);
    for (other, name) in steps[1..].iter().zip(["header csv", "csv", "header tsv", "tsv", "tsv with columns"]) {
        assert_eq!(*other, steps[0], "{name}");
    }
}

/// The last evaluation of training, again from the model that it wrote; and one line predicted for each text.
#[test]
fn evaluate_and_predict_use_what_training_wrote() {
    let bench = bench();
    run(trainer(&bench).args(train(&bench, "run", &["max_steps=40", "learning_rate=3e-3"]))).expect(0);
    let evaluate = ["evaluate", "--model", "run/final", "--task", "sequence-classification", "--data", "eval.jsonl"];
    let ended = run(trainer(&bench).args(evaluate).arg("--json")).expect(0);
    let found: Value = serde_json::from_str(ended.stdout.trim()).unwrap();
    let logged = bench.lines("run", "eval_loss").pop().unwrap();
    let names: Vec<&String> = found.as_object().unwrap().keys().collect();
    assert_eq!(names, ["eval_loss", "eval_accuracy", "eval_f1", "eval_micro_f1", "eval_matthews_correlation"]);
    names.iter().for_each(|&name| assert_eq!(found[name], logged[name], "{name}"));
    let table = run(trainer(&bench).args(evaluate)).expect(0).stdout;
    assert!(
        table.contains("accuracy") && table.contains(&format!("{:.6}", found["eval_loss"].as_f64().unwrap())),
        "{table}"
    );

    let forward = predicted(&bench, "eval.jsonl", "forward.jsonl");
    let truth: Vec<Value> = lines_of(&bench.path("eval.jsonl"));
    assert_eq!(forward.len(), truth.len());
    let right = forward.iter().zip(&truth).filter(|(line, truth)| line["label"] == truth["label"]).count();
    assert_eq!(right as f64 / truth.len() as f64, found["eval_accuracy"].as_f64().unwrap());
    for line in &forward {
        let logits = numbers(&line["logits"]);
        let labels = ["science", "sport", "weather"];
        let best = (0..3).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
        let score = 1.0 / logits.iter().map(|x| (x - logits[best]).exp()).sum::<f64>();
        assert_eq!(line["label"], labels[best], "{line}");
        assert!((line["score"].as_f64().unwrap() - score).abs() < 1e-6, "{line}");
    }

    // Without labels, and the other way round: the order is the input's, and a text's logits are its own.
    let reversed: Vec<String> = truth.iter().rev().map(|line| json!({"text": line["text"]}).to_string()).collect();
    fs::write(bench.path("reversed.jsonl"), reversed.join("\n")).unwrap();
    let backward = predicted(&bench, "reversed.jsonl", "backward.jsonl");
    for (a, b) in forward.iter().zip(backward.iter().rev()) {
        assert_eq!(a["label"], b["label"]);
        let pairs = numbers(&a["logits"]).into_iter().zip(numbers(&b["logits"]));
        pairs.for_each(|(x, y)| assert!((x - y).abs() < 5e-6, "{a} {b}"));
    }

    let bad = run(trainer(&bench).args(predict("run/final", "bad.jsonl", "bad-out.jsonl"))).expect(2);
    assert!(bad.stderr.contains("no such file: bad.jsonl"), "{}", bad.text());
    fs::write(bench.path("bad.jsonl"), "{\"text\": \"a\"}\n{\"txt\": \"b\"}\n").unwrap();
    let bad = run(trainer(&bench).args(predict("run/final", "bad.jsonl", "bad-out.jsonl"))).expect(2);
    assert!(bad.stderr.contains("bad.jsonl:2: no column \"text\""), "{}", bad.text());
    assert!(!bench.path("bad-out.jsonl").exists());
}

/// Training leaves its configuration with the model: nobody has to say the task and the columns again.
#[test]
fn a_model_knows_its_task_and_its_columns() {
    let bench = bench();
    for name in ["train.jsonl", "eval.jsonl"] {
        let text = fs::read_to_string(bench.path(name)).unwrap();
        fs::write(bench.path(name), text.replace("\"text\"", "\"review\"").replace("\"label\"", "\"topic\"")).unwrap();
    }
    let arguments = train(&bench, "run", &["max_steps=4", "text_column=review", "label_column=topic", "max_length=16"]);
    let printed = run(trainer(&bench).args(&arguments).arg("--print-config")).expect(0).stdout;
    fs::write(bench.path("run.toml"), printed).unwrap();
    run(trainer(&bench).args(["train", "run.toml"])).expect(0);
    let logged = bench.lines("run", "eval_loss").pop().unwrap();
    let evaluated = |words: &[&str]| -> Value {
        let ended = run(trainer(&bench).args(["evaluate", "--json"]).args(words)).expect(0);
        serde_json::from_str(ended.stdout.trim()).unwrap()
    };
    for words in [&["run.toml"][..], &["--model", "run/final", "--data", "eval.jsonl"]] {
        assert_eq!(evaluated(words)["eval_loss"], logged["eval_loss"], "{words:?}");
    }
    let longer = evaluated(&["run.toml", "--max-length", "64"]);
    assert_ne!(longer["eval_loss"], logged["eval_loss"], "what is given counts");
    let lines = predicted(&bench, "eval.jsonl", "out.jsonl");
    assert_eq!(lines.len(), 23);

    // Of another kind of file nothing is taken over but the columns' names.
    let rows = lines_of(&bench.path("eval.jsonl"));
    let row = |line: &Value| format!("{},{}\n", line["topic"].as_str().unwrap(), line["review"].as_str().unwrap());
    fs::write(bench.path("eval.csv"), format!("topic,review\n{}", rows.iter().map(row).collect::<String>())).unwrap();
    assert_eq!(evaluated(&["--model", "run/final", "--data", "eval.csv"])["eval_loss"], logged["eval_loss"]);
    let ended = run(trainer(&bench).args(["evaluate", "run.toml", "--task", "regression"])).expect(2);
    assert!(ended.stderr.contains("run/final was fine-tuned for sequence-classification"), "{}", ended.text());
    let ended = run(trainer(&bench).args(["evaluate", "--model", "run/final"])).expect(2);
    assert!(ended.stderr.contains("--data"), "{}", ended.text());
}

/// Texts of the command line and standard input are predicted as a file is; standard output has nothing but predictions.
#[test]
fn predict_reads_texts_and_standard_input() {
    let bench = bench();
    run(trainer(&bench).args(train(&bench, "run", &["max_steps=2"]))).expect(0);
    let records = fs::read_to_string(bench.path("eval.jsonl")).unwrap();
    let wanted = predicted(&bench, "eval.jsonl", "out.jsonl");
    let printed = |stdout: &str| -> Vec<Value> { stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect() };
    let base = ["predict", "--scores", "--model", "run/final"];

    let mut child = trainer(&bench);
    child.args(base).args(["--input", "-", "--output", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = child.stderr(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(records.as_bytes()).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success());
    assert_eq!(printed(&String::from_utf8(ended.stdout).unwrap()), wanted);

    let texts = lines_of(&bench.path("eval.jsonl"));
    let texts: Vec<&str> = texts.iter().flat_map(|line| ["--text", line["text"].as_str().unwrap()]).collect();
    assert_eq!(printed(&run(trainer(&bench).args(base).args(texts)).expect(0).stdout), wanted);
    let ended = run(trainer(&bench).args(base).args(["--text", "red", "--input", "eval.jsonl"])).expect(2);
    assert!(ended.stderr.contains("cannot be used with"), "{}", ended.text());
    assert_eq!(run(trainer(&bench).args(base)).expect(2).stdout, "", "neither --input nor --text");
}

/// Columns of the input stand before the predictions, in JSON and in CSV.
#[test]
fn predictions_carry_columns_over() {
    let bench = bench();
    run(trainer(&bench).args(train(&bench, "run", &["max_steps=2"]))).expect(0);
    let texts = ["red, \"dry\" wine", "two\nlines", "blue"];
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let rows = texts.iter().enumerate().map(|(i, text)| format!("{},{},x\n", 7 + i, quoted(text)));
    fs::write(bench.path("in.csv"), format!("id,text,more\n{}", rows.collect::<String>())).unwrap();
    let given = |words: &[&str]| {
        let base = ["predict", "--model", "run/final", "--input", "in.csv"];
        run(trainer(&bench).args(base).args(words))
    };
    let printed = given(&["--keep", "id,text"]).expect(0).stdout;
    let lines: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let keys: Vec<&str> = lines[0].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys[..3], ["id", "text", "label"], "{printed}");
    let kept: Vec<_> =
        lines.iter().map(|line| (line["id"].as_str().unwrap(), line["text"].as_str().unwrap())).collect();
    assert_eq!(kept, [("7", texts[0]), ("8", texts[1]), ("9", texts[2])]);

    let ended = given(&["--keep", "id,text", "--output", "out.csv"]).expect(0);
    assert!(ended.stderr.contains("3 predictions written to out.csv") && ended.stdout.is_empty(), "{}", ended.text());
    let text = fs::read_to_string(bench.path("out.csv")).unwrap();
    assert!(text.starts_with("id,text,label,score\n7,\"red, \"\"dry\"\" wine\","), "{text}");
    for line in &lines {
        let end = format!(",{},{}\n", line["label"].as_str().unwrap(), line["score"]);
        assert!(text.contains(&end), "{end}: {text}");
    }
    for (words, says) in [
        (&["--keep", "key"][..], "--keep: in.csv:1: no column \"key\"; found \"id\", \"text\", \"more\""),
        (&["--keep", "id", "--format", "tsv"], "--keep: in.csv:1: no column \"id\""),
    ] {
        let ended = given(words).expect(2);
        assert!(ended.stderr.contains(says), "{says}: {}", ended.text());
    }
    fs::write(bench.path("labelled.jsonl"), "{\"text\": \"a\", \"label\": 1}\n").unwrap();
    let ended =
        run(trainer(&bench).args(predict("run/final", "labelled.jsonl", "out.jsonl")).args(["--keep", "label"]));
    assert!(ended.expect(2).stderr.contains("the predictions already have a column \"label\""));
    assert!(!bench.path("out.jsonl").exists());
}

/// Each line of JSON logs is an object with a time and a rank, and nothing that a person is told is missing.
#[test]
fn json_logs_tell_everything() {
    let bench = bench();
    let arguments = train(&bench, "run", &["max_steps=3", "save_steps=2"]);
    let ended = run(trainer(&bench).args(["--log-format", "json"]).args(arguments)).expect(0);
    let events: Vec<Value> = ended.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for event in &events {
        assert!(event["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')), "{event}");
        assert!(event["level"].is_string() && event["rank"] == 0, "{event}");
    }
    let told = |what: &str| events.iter().filter(|event| event["message"].as_str().unwrap().contains(what)).count();
    assert_eq!((told("/run/checkpoint-2"), told("/run/checkpoint-3")), (1, 1), "{}", ended.text());
    let logged: Vec<Value> = lines_of(&bench.path("run/metrics.jsonl"));
    let metrics: Vec<&Value> = events.iter().filter(|event| event["message"] == "metrics").collect();
    assert_eq!(metrics.iter().map(|event| &event["metrics"]).collect::<Vec<_>>(), logged.iter().collect::<Vec<_>>());
    assert_eq!(logged.last().unwrap()["event"], "summary");
}

/// `evaluate run.toml` evaluates as the run does, with settings replaced on the command line.
#[test]
fn a_run_is_evaluated_as_it_is_set() {
    let bench = bench();
    let mut text = fs::read_to_string(bench.path("eval.jsonl")).unwrap();
    text.push_str("{\"text\": \"no label\"}\n");
    fs::write(bench.path("eval.jsonl"), text).unwrap();
    let arguments = train(&bench, "run", &["max_steps=2", "on_bad_record=skip"]);
    run(trainer(&bench).args(&arguments)).expect(0);
    let logged = bench.lines("run", "eval_loss").pop().unwrap();
    let evaluated = |words: &[&str]| run(trainer(&bench).args(["evaluate", "run/config.toml", "--json"]).args(words));
    let loss = |words: &[&str]| -> Value { serde_json::from_str(evaluated(words).expect(0).stdout.trim()).unwrap() };
    assert_eq!(loss(&[])["eval_loss"], logged["eval_loss"]);
    assert_ne!(loss(&["data.max_length=5"])["eval_loss"], logged["eval_loss"]);
    assert!(evaluated(&["--on-bad-record", "error"]).expect(2).stderr.contains("eval.jsonl:24"));
    assert!(evaluated(&["max_lenght=5"]).expect(2).stderr.contains("max_length"));
}

/// Each evaluation includes the sets of `data.eval_sets`, one of which can decide what is best, at every world size.
#[test]
fn several_evaluation_sets_are_evaluated() {
    let bench = bench();
    fs::copy(bench.path("train.jsonl"), bench.path("seen.jsonl")).unwrap();
    let sets = "data.eval_sets={ seen = 'seen.jsonl', again = 'eval.jsonl' }";
    let best = ["metric_for_best_model=eval_seen_loss", "load_best_model_at_end=true", "eval_steps=1"];
    let arguments = train(&bench, "run", &[&[sets, "max_steps=2"][..], &best].concat());
    let ended = run(trainer(&bench).args(&arguments)).expect(0);
    assert!(ended.text().contains("eval      seen: seen.jsonl: "), "{}", ended.text());
    let logged = bench.lines("run", "eval_loss").pop().unwrap();
    assert_eq!(logged["eval_again_loss"], logged["eval_loss"]);
    let state = fs::read_to_string(bench.path("run/checkpoint-2/trainer_state.json")).unwrap();
    let state: Value = serde_json::from_str(&state).unwrap();
    assert_eq!(state["best_metric"], logged["eval_seen_loss"]);
    let card = fs::read_to_string(bench.path("run/final/README.md")).unwrap();
    assert!(card.contains("| evaluation, seen | `seen.jsonl` |") && !card.contains("seen_loss\"\n"), "{card}");

    let evaluated = |words: &[&str]| -> Vec<Value> {
        let ended = run(trainer(&bench).args(["evaluate", "--json"]).args(words)).expect(0);
        ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let lines = evaluated(&["run/config.toml"]);
    let found: Vec<(&str, &Value)> = lines.iter().map(|l| (l["data"].as_str().unwrap(), &l["eval_loss"])).collect();
    let [main, again, seen] = ["eval_loss", "eval_again_loss", "eval_seen_loss"].map(|name| &logged[name]);
    let file = bench.path("eval.jsonl").display().to_string();
    assert_eq!(found, [(file.as_str(), main), ("again", again), ("seen", seen)]);
    let given = evaluated(&["--model", "run/final", "--data", "seen.jsonl", "--data", "eval.jsonl"]);
    assert_eq!([&given[0]["eval_loss"], &given[1]["eval_loss"]], [seen, main]);
    let table = run(trainer(&bench).args(["evaluate", "run/config.toml", "--report"])).expect(0).stdout;
    assert!(table.lines().any(|line| ["metric", "again", "seen"].iter().all(|name| line.contains(name))), "{table}");

    for (words, wanted) in [
        (&["data.eval_sets={ macro = 'seen.jsonl' }", "metric_for_best_model=macro_f2"][..], "found \"f2\", expected"),
        (&["data.eval_sets={ a = 'missing.jsonl' }"], "data.eval_sets: no such file: missing.jsonl"),
        (&["data.eval_sets={ binary = 'seen.jsonl' }"], "its f1 would have the name of another metric, binary_f1"),
    ] {
        let ended = run(trainer(&bench).args(train(&bench, "other", words))).expect(2);
        assert!(ended.stderr.contains(wanted), "{}", ended.stderr);
    }
}

/// `trainer show` prints where a run is, and its curves; it ends with the run.
#[test]
fn a_run_is_shown_in_the_terminal() {
    let bench = bench();
    run(trainer(&bench).args(train(&bench, "run", &["max_steps=4", "eval_steps=2", "logging_steps=1"]))).expect(0);
    let shown = run(trainer(&bench).args(["show", "run", "--follow"])).expect(0).stdout;
    let last = bench.lines("run", "eval_loss").pop().unwrap();
    let evaluation = format!("last eval eval_loss {:.4}, ", last["eval_loss"].as_f64().unwrap());
    for part in ["run\n  step      4 of 4, ended\n", &evaluation, "\nLoss (loss, ● eval_loss)\n", "\neval_accuracy\n"]
    {
        assert!(shown.contains(part), "{part:?} in {shown}");
    }
    assert!(!shown.contains("Learning rate") && shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
    assert!(run(trainer(&bench).args(["show", "run", "--all"])).expect(0).stdout.contains("Learning rate"));
    assert!(run(trainer(&bench).args(["show", "nothing"])).expect(2).stderr.contains("nothing: "));
}

/// `trainer init` writes a configuration that trains as it is.
#[test]
fn a_drafted_configuration_trains() {
    let bench = bench();
    let model = bench.model.display().to_string();
    let init = |words: &[&str]| run(trainer(&bench).args(["init", "--model", &model]).args(words));
    let ended = init(&["train.jsonl"]).expect(0);
    assert!(
        ended.stdout.contains("labels in \"label\"") && ended.stdout.contains("wrote     trainer.toml"),
        "{}",
        ended.text()
    );
    assert!(init(&["train.jsonl"]).expect(2).stderr.contains("trainer.toml: the file exists"));
    run(trainer(&bench).args(["train", "trainer.toml", "num_train_epochs=1", "output_dir=run"])).expect(0);
    assert!(bench.path("run/final/model.safetensors").exists());

    // Both files of a set; no label in the first row, and none for one text.
    let row = |i: usize| format!("this is the text number {i}\t{}\n", ["good", "bad"][i % 2]);
    fs::create_dir(bench.path("set")).unwrap();
    fs::write(bench.path("set/train.tsv"), (0..40).map(row).collect::<String>() + "this one has no label\t\n").unwrap();
    fs::write(bench.path("set/dev.tsv"), (0..8).map(row).collect::<String>()).unwrap();
    let text = init(&["set", "--output", "-"]).expect(0).stdout;
    assert!(
        text.contains("eval = \"set/dev.tsv\"\ncolumns = [\"text\", \"label\"]\non_bad_record = \"skip\""),
        "{text}"
    );
    fs::write(bench.path("set.toml"), text).unwrap();
    run(trainer(&bench).args(["train", "set.toml", "num_train_epochs=1", "output_dir=set-run"])).expect(0);

    fs::write(bench.path("play.txt"), "FIRST:\nspeak\n\nSECOND:\nhear\n").unwrap();
    assert!(init(&["play.txt", "--output", "-"]).expect(0).stdout.contains("documents = \"paragraphs\""));
    fs::write(bench.path("chat.jsonl"), "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}\n").unwrap();
    let ended = init(&["chat.jsonl", "--output", "-"]).expect(2);
    assert!(ended.stderr.contains("chat.jsonl: chat (conversations in column \"messages\")"), "{}", ended.stderr);
}

/// What is wrong before a run begins leaves no folder behind.
#[test]
fn a_run_that_does_not_begin_leaves_no_folder() {
    let bench = bench();
    fs::write(bench.path("train.jsonl"), "{\"txt\": 1}\n").unwrap();
    run(trainer(&bench).args(train(&bench, "a/b/run", &[]))).expect(2);
    assert!(!bench.path("a").exists());
    fs::create_dir(bench.path("mine")).unwrap();
    run(trainer(&bench).args(train(&bench, "mine/run", &[]))).expect(2);
    assert!(bench.path("mine").exists() && !bench.path("mine/run").exists());
}

fn predict<'a>(model: &'a str, input: &'a str, output: &'a str) -> [&'a str; 8] {
    ["predict", "--scores", "--model", model, "--input", input, "--output", output]
}

fn predicted(bench: &Bench, input: &str, output: &str) -> Vec<Value> {
    run(trainer(bench).args(predict("run/final", input, output))).expect(0);
    lines_of(&bench.path(output))
}

fn lines_of(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn numbers(list: &Value) -> Vec<f64> {
    list.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

#[test]
fn evaluate_and_predict_say_what_they_do_and_lose_nothing() {
    let bench = bench();
    run(trainer(&bench).args(train(&bench, "run", &["max_steps=2"]))).expect(0);
    let ended = run(trainer(&bench).args(predict("run/final", "eval.jsonl", "out.jsonl"))).expect(0);
    for part in ["run/final (sequence-classification)", "23 examples", " tokens", "ranks     1 (solo, "] {
        assert!(ended.stderr.contains(part), "{part}: {}", ended.text());
    }
    assert!(ended.stderr.ends_with("23 predictions written to out.jsonl\n"), "{}", ended.text());
    assert_eq!(ended.stdout, "");

    // Before any work: the model is not even looked for.
    let before = fs::read(bench.path("eval.jsonl")).unwrap();
    let ended = run(trainer(&bench).args(predict("nowhere", "eval.jsonl", "./eval.jsonl"))).expect(2);
    assert!(ended.stderr.contains("--output ./eval.jsonl: this is also the input"), "{}", ended.text());
    assert_eq!(fs::read(bench.path("eval.jsonl")).unwrap(), before);
    let ended = run(trainer(&bench).args(predict("nowhere", "eval.jsonl", "nodir/out.jsonl"))).expect(2);
    assert!(ended.stderr.contains("no such folder: nodir; create it first"), "{}", ended.text());
    let before = fs::read(bench.path("out.jsonl")).unwrap();
    run(trainer(&bench).args(predict("nowhere", "eval.jsonl", "out.jsonl"))).expect(2);
    assert_eq!(fs::read(bench.path("out.jsonl")).unwrap(), before, "an earlier output stays until there is a new one");
    assert!(names(bench.dir.path()).iter().all(|name| !name.ends_with(".tmp")), "{:?}", names(bench.dir.path()));
}

/// What messages advise is there as an option.
#[test]
fn evaluate_and_predict_read_as_they_are_told() {
    let bench = bench();
    run(trainer(&bench).args(train(&bench, "run", &["max_steps=2"]))).expect(0);
    fs::write(bench.path("rows.txt"), "Review,topic\nred,sport\nblue,politics\n").unwrap();
    let said = |more: &[&str]| {
        let evaluate = ["evaluate", "--model", "run/final", "--task", "sequence-classification", "--data", "rows.txt"];
        run(trainer(&bench).args(evaluate).args(more))
    };
    let refused = |more: &[&str], says: &str| {
        let ended = said(more).expect(2);
        assert!(ended.stderr.contains(says) && !ended.stderr.contains("data."), "{says}: {}", ended.text());
    };
    let named = ["--format", "csv", "--text-column", "review", "--label-column", "topic"];
    let with = |more: &[&'static str]| [&named[..], more].concat();
    refused(&[], "set format");
    refused(&["--format", "csv", "--header", "true"], "set text_column");
    refused(&with(&[]), "on_bad_record = \"skip\"");
    refused(&with(&["--max-length", "65"]), "max_length = 65: this model supports at most 64");
    refused(&with(&["--backend", "none"]), "auto");
    refused(&with(&["--timeout-seconds", "0"]), "greater than 0");
    let ended = said(&with(&["--on-bad-record", "skip", "--backend", "solo", "--timeout-seconds", "60"])).expect(0);
    assert!(ended.stderr.contains(" 1 example, "), "{}", ended.text());
    assert!(
        ended.stderr.contains("1 invalid record skipped (first: line 3: the label \"politics\""),
        "{}",
        ended.text()
    );

    let args = predict("run/final", "rows.txt", "out.jsonl");
    let headerless = ["--format", "csv", "--header", "false"];
    run(trainer(&bench).args(args).args(headerless)).expect(0);
    assert_eq!(lines_of(&bench.path("out.jsonl")).len(), 3);
    let skip = run(trainer(&bench).args(args).args(["--on-bad-record", "skip"])).expect(2);
    assert!(skip.stderr.contains("--on-bad-record"), "a line for every record: {}", skip.text());
}

#[test]
fn a_regression_over_pairs_trains_and_is_measured() {
    let bench = Bench::new("bert-pairs-regression");
    for name in ["train.jsonl", "eval.jsonl"] {
        let texts = lines_of(&bench.path(name));
        let pair = |two: &[Value]| {
            let [a, b] = [0, 1].map(|i| two[i]["text"].as_str().unwrap().to_owned());
            let longer = a.split(' ').count() as f64 / 10.0 - b.split(' ').count() as f64 / 10.0;
            json!({"first": a, "second": b, "score": longer}).to_string()
        };
        fs::write(bench.path(name), texts.windows(2).map(pair).collect::<Vec<_>>().join("\n")).unwrap();
    }
    let more = [
        "task.kind=regression",
        "data.text_column=first",
        "data.text_pair_column=second",
        "data.label_column=score",
        "max_steps=60",
        "metric_for_best_model=pearson",
    ];
    let ended = run(trainer(&bench).args(train(&bench, "run", &more))).expect(0);
    let last = bench.lines("run", "eval_loss").pop().unwrap();
    let value = |name: &str| last[name].as_f64().unwrap_or_else(|| panic!("no {name} in {last}"));
    assert!((value("eval_mse") / value("eval_loss") - 1.0).abs() < 1e-5, "{last}");
    assert!(value("eval_pearson") > 0.3 && value("eval_spearmanr") > 0.3, "{last}: {}", ended.text());
    let steps = bench.steps("run");
    assert!(steps[50..].iter().map(|s| s.0).sum::<f64>() < steps[..10].iter().map(|s| s.0).sum::<f64>(), "{steps:?}");

    let columns = ["--text-column", "first", "--text-pair-column", "second"];
    run(trainer(&bench).args(predict("run/final", "eval.jsonl", "out.jsonl")).args(columns)).expect(0);
    let lines = lines_of(&bench.path("out.jsonl"));
    assert_eq!(lines.len(), 22);
    assert!(lines.iter().all(|line| line.get("label").is_none() && line["score"] == line["logits"][0]), "{lines:?}");
    let evaluate = ["evaluate", "--json", "--model", "run/final", "--data", "eval.jsonl", "--label-column", "score"];
    let ended = run(trainer(&bench).args(evaluate).args(columns).args(["--task", "regression"])).expect(0);
    let found: Value = serde_json::from_str(ended.stdout.trim()).unwrap();
    assert_eq!(found["eval_pearson"], last["eval_pearson"]);
    let wrong = run(trainer(&bench).args(evaluate).args(columns).args(["--task", "sequence-classification"])).expect(2);
    assert!(wrong.stderr.contains("run/final") && wrong.stderr.contains("regression"), "{}", wrong.text());
    let summary = bench.summary("run");
    // fp32 on one rank: weights, gradients and two moments, 16 bytes a parameter, and little else between steps.
    let file = fs::read(bench.path("run/final/model.safetensors")).unwrap();
    let header = u64::from_le_bytes(file[..8].try_into().unwrap());
    let parameters = (file.len() as u64 - 8 - header) / 4;
    let bytes = |list: &str| summary[list][0]["total"].as_u64().unwrap_or_else(|| panic!("{list}: {summary}"));
    let (held, peak) = (bytes("persistent_bytes"), bytes("peak_bytes"));
    assert!((16 * parameters..17 * parameters).contains(&held), "{held} bytes for {parameters} parameters");
    assert!(peak > held, "{peak} {held}");
}
