//! Language models as a person trains them, and what packing must not change.

mod common;

use common::page::table;
use common::process::{run, trainer};
use common::reference::{Reference, gradients};
use common::runs::Bench;
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use tch::Kind;
use trainer::data::batch::Batch;
use trainer::data::example::NO_LABEL;
use trainer::data::masking::{Masking, WORD_START};
use trainer::data::{Collation, Dataset, Example, Label, RandomKey};
use trainer::models::family::DropoutOverrides;

/// Documents of a small vocabulary, of unequal lengths.
fn documents() -> Vec<Vec<u32>> {
    let lengths = [5_u32, 9, 2, 16, 3];
    lengths
        .iter()
        .enumerate()
        .map(|(d, &n)| (0..n).map(|t| 5 + (7 * t * t + 11 * d as u32 + t) % 50).collect())
        .collect()
}

/// An example of these sequences.
fn example(sequences: &[Vec<u32>], label: Label) -> Example {
    let ids = sequences.concat();
    let lengths = sequences.iter().map(|sequence| sequence.len() as u32).collect();
    Example { type_ids: vec![0; ids.len()], ids, lengths, label }
}

/// Loss and gradients of documents that are packed are those of the documents one by one.
#[test]
fn packed_documents_are_separate_ones() {
    let marks: fn(&[Vec<u32>]) -> Label = |sequences| {
        let mark = |&id: &u32| if id % 3 == 0 { NO_LABEL } else { WORD_START };
        Label::Tokens(sequences.concat().iter().map(mark).collect())
    };
    let any: fn(&[Vec<u32>]) -> Label = |_| Label::None;
    let masking = Masking { probability: 0.4, whole_words: false, mask: 4, vocab_size: 50 };
    for (case, collation, label) in [
        ("cases/gpt2-causal", Collation::NextToken, any),
        ("cases/gpt2-untied", Collation::NextToken, any),
        ("cases/bert-masked", Collation::Masked(masking), marks),
    ] {
        let reference = Reference::open(case);
        let mut loaded = reference.load_with(&reference.head(), DropoutOverrides::default(), Kind::Float);
        let documents = documents();
        let example = |sequences: &[Vec<u32>]| example(sequences, label(sequences));
        let separate: Vec<Example> = documents.chunks(1).map(example).collect();
        let packed = vec![example(&documents[..3]), example(&documents[3..])];
        let mut of = |examples: Vec<Example>| {
            // The other order puts other documents beside each other.
            let samples: Vec<u32> = (0..examples.len() as u32).rev().collect();
            let data = Dataset::new(examples, collation.clone(), [0; 32]);
            gradients(&mut loaded, &Batch::collate(&data, &samples, RandomKey::default()), 1.0)
        };
        let (alone, together) = (of(separate), of(packed));
        assert!((alone.0 - together.0).abs() < 1e-6 * alone.0, "{case}: {} and {}", alone.0, together.0);
        for ((name, a), (_, b)) in alone.1.iter().zip(&together.1) {
            let (difference, norm) = ((a - b).norm().double_value(&[]), a.norm().double_value(&[]));
            assert!(difference <= 1e-5 * norm + 1e-7, "{case}: {name} differs by {difference:e} of {norm:e}");
        }
        // One text of them all is something else.
        let joined = of(vec![example(&[documents.concat()[..32].to_vec()])]);
        assert!((joined.0 - alone.0).abs() > 1e-4 * alone.0, "{case}");
    }
}

/// A folder of a fresh model: `config.json`, and a tokenizer trained on `texts`.
fn fresh(bench: &Bench, name: &str, case: &str, tokenizer: &[&str], texts: &Path, change: Value) -> String {
    let folder = bench.path(name);
    let arguments = ["tokenizer", "--output", folder.to_str().unwrap(), "--input", texts.to_str().unwrap()];
    let ended = run(trainer(bench).args(arguments).args(tokenizer)).expect(0);
    assert!(ended.stderr.contains(" tokens\n"), "{}", ended.text());
    let path = common::reference::folder(case).join("config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    for (key, value) in change.as_object().unwrap() {
        config[key] = value.clone();
    }
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    folder.display().to_string()
}

fn train(bench: &Bench, model: &str, out: &str, more: &[&str]) -> String {
    let mut settings = bench.settings(out, &["init=random", "learning_rate=1e-2", "weight_decay=0"]);
    settings.push(format!("model.path={model}"));
    settings.extend(more.iter().map(|&setting| setting.to_owned()));
    run(trainer(bench).arg("train").args(settings)).expect(0).stderr
}

fn evaluate(bench: &Bench, out: &str, kind: &str, data: &Path, more: &[&str]) -> Value {
    let model = bench.path(out).join("final");
    let arguments = ["evaluate", "--json", "--task", kind, "--model", model.to_str().unwrap()];
    let ended = run(trainer(bench).args(arguments).args(["--data", data.to_str().unwrap()]).args(more)).expect(0);
    serde_json::from_str(&ended.stdout).unwrap()
}

fn last(bench: &Bench, out: &str, key: &str) -> f64 {
    bench.lines(out, key).last().unwrap()[key].as_f64().unwrap()
}

fn assert_learns(bench: &Bench, out: &str) {
    let steps = bench.steps(out);
    assert!(steps[steps.len() - 1].0 < 0.8 * steps[0].0, "{steps:?}");
}

/// Verses with a pattern, one a line, with a blank line between poems.
fn poems(bench: &Bench) -> std::path::PathBuf {
    let path = bench.path("poems.txt");
    let verse = |i: usize| format!("{} sees the {}\n", ["sun", "moon", "sea"][i % 3], ["day", "night", "wave"][i % 3]);
    let poem = |p: usize| (0..3 + p % 4).map(|line| verse(p + line)).collect::<String>();
    fs::write(&path, (0..24).map(poem).collect::<Vec<_>>().join("\n")).unwrap();
    path
}

#[test]
fn a_text_is_learnt_from_nothing() {
    let bench = Bench::new("bert-classification");
    let text = poems(&bench);
    let model = fresh(&bench, "model", "cases/gpt2-causal", &["--kind", "chars"], &text, json!({"eos_token_id": 0}));
    let data = format!("data.train={}", text.display());
    let eval = format!("data.eval={}", text.display());
    let paragraphs = [data.as_str(), &eval, "kind=causal-lm", "documents=paragraphs", "report_texts=true"];
    let said = train(&bench, &model, "run", &paragraphs);
    assert!(said.contains("24 documents in ") && said.contains(" blocks"), "{said}");
    let samples = table(&bench.path("run"), "Generated texts of the first examples at step 20").unwrap();
    assert_eq!(samples.head, ["example", "label", "predicted", "rougeL", "text"]);
    let without_spaces = |text: &str| text.replace(char::is_whitespace, "");
    let poems = without_spaces(&fs::read_to_string(&text).unwrap());
    for row in &samples.rows {
        // Both halves of a document, or of a part of it.
        let whole = without_spaces(&format!("{}{}", row[4], row[1]));
        assert!(!row[1].is_empty() && poems.contains(&whole), "{whole:?}");
    }
    assert_learns(&bench, "run");
    let ended = evaluate(&bench, "run", "causal-lm", &text, &["--documents", "paragraphs"]);
    let (loss, perplexity) = (ended["eval_loss"].as_f64().unwrap(), ended["eval_perplexity"].as_f64().unwrap());
    assert!((loss - last(&bench, "run", "eval_loss")).abs() < 1e-6 * loss, "{ended}");
    assert!((loss.exp() - perplexity).abs() < 1e-9 * perplexity, "{ended}");

    let path = format!("model.path={model}");
    let settings = bench.settings("refused", &[&paragraphs[..], &["text_column=verse", &path]].concat());
    let refused = run(trainer(&bench).arg("train").args(settings)).expect(2);
    assert!(refused.stderr.contains("poems.txt: text_column: plain text has no columns"), "{}", refused.text());

    let arguments = ["evaluate", "--task", "causal-lm", "--model", &bench.path("run/final").display().to_string()]
        .map(str::to_owned);
    let wrong =
        run(trainer(&bench).args(arguments).args(["--data", text.to_str().unwrap(), "--mlm-probability", "0.2"]));
    assert!(wrong.expect(2).stderr.contains("--mlm-probability: causal-lm does not use this"));
}

/// Documents that fit into a block have the same loss packed and one by one, in every family of language models.
#[test]
fn packing_does_not_change_the_evaluation() {
    let bench = Bench::new("bert-classification");
    let text = bench.path("lines.txt");
    let line = |i: usize| (0..1 + (7 * i + i * i / 5) % 17).map(|w| format!("w{} ", (i * w + w * w) % 23)).collect();
    fs::write(&text, (0..200).map(line).collect::<Vec<String>>().join("\n")).unwrap();
    let (data, eval) = (format!("data.train={}", text.display()), format!("data.eval={}", text.display()));
    let masked = ["bert", "albert", "distilbert", "roberta", "electra", "modernbert", "deberta-v2", "longformer"];
    let masked = masked.map(|family| (family, "masked"));
    let causal = ["gpt2", "llama", "mistral", "qwen2", "qwen3"].map(|family| (family, "causal"));
    for (family, task) in masked.into_iter().chain(causal) {
        let tokenizer = ["--kind", "wordpiece", "--vocab-size", "50"];
        let model = fresh(&bench, family, &format!("cases/{family}-{task}"), &tokenizer, &text, json!({}));
        let kind = format!("{task}-lm");
        let task = format!("task.kind={kind}");
        train(&bench, &model, &format!("{family}-run"), &[&data, &eval, &task, "documents=lines", "max_steps=2"]);
        let loss = |length: &str, more: &[&str]| {
            let more = [&["--documents", "lines", "--max-length", length], more].concat();
            evaluate(&bench, &format!("{family}-run"), &kind, &text, &more)["eval_loss"].as_f64().unwrap()
        };
        let (alone, packed) = (loss("30", &["--packing", "false"]), loss("30", &[]));
        assert!((alone - packed).abs() < 1e-6 * alone, "{family}: {alone} and {packed}");
        assert!((packed - loss("8", &[])).abs() > 1e-6 * packed, "{family}: divided documents");
    }
}

#[test]
fn masked_words_are_learnt_and_filled_in() {
    let bench = Bench::new("bert-classification");
    let text = poems(&bench);
    let tokenizer = ["--kind", "wordpiece", "--vocab-size", "60", "--lowercase"];
    let model = fresh(&bench, "model", "cases/bert-masked", &tokenizer, &text, json!({}));
    let (data, eval) = (format!("data.train={}", text.display()), format!("data.eval={}", text.display()));
    let settings = [&data, &eval, "kind=masked-lm", "documents=lines", "whole_word_mask=true", "mlm_probability=0.3"];
    train(&bench, &model, "run", &[&settings[..], &["max_steps=60"]].concat());
    assert_learns(&bench, "run");
    assert!(last(&bench, "run", "eval_masked_accuracy") > 0.4);

    let gaps = bench.path("gaps.jsonl");
    fs::write(&gaps, "{\"text\": \"sun [MASK] the [MASK]\"}\n{\"text\": \"[MASK]\"}\n").unwrap();
    let predict = |more: &[&str]| {
        let (model, out) = (bench.path("run/final"), bench.path("filled.jsonl"));
        let paths = ["--model", model.to_str().unwrap(), "--input", gaps.to_str().unwrap(), "--output"];
        run(trainer(&bench).arg("predict").args(paths).arg(&out).args(more)).expect(0);
        let lines = fs::read_to_string(out).unwrap();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
    };
    let filled = predict(&[]);
    let masks = filled[0]["masks"].as_array().unwrap();
    assert_eq!(
        (masks.len(), masks[0].as_array().unwrap().len(), filled[1]["masks"].as_array().unwrap().len()),
        (2, 5, 1)
    );
    assert_eq!(masks[0][0]["token"], "sees", "{filled:?}");
    let scores: Vec<f64> = masks[0].as_array().unwrap().iter().map(|best| best["score"].as_f64().unwrap()).collect();
    assert!(scores.windows(2).all(|pair| pair[0] >= pair[1]) && scores.iter().sum::<f64>() <= 1.0001);
    assert!(masks[0][0].get("logit").is_none() && predict(&["--scores"])[0]["masks"][0][0]["logit"].is_f64());
}

#[test]
fn next_sentences_are_learnt() {
    let bench = Bench::new("bert-classification");
    let text = poems(&bench);
    let tokenizer = ["--kind", "wordpiece", "--vocab-size", "60"];
    let model = fresh(&bench, "model", "cases/bert-pretraining", &tokenizer, &text, json!({}));
    let (data, eval) = (format!("data.train={}", text.display()), format!("data.eval={}", text.display()));
    let said = train(&bench, &model, "run", &[&data, &eval, "kind=masked-lm", "next_sentence=true"]);
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.contains(" 24 documents in ") && said.contains(" pairs, "), "{said}");
    let config: Value =
        serde_json::from_str(&fs::read_to_string(bench.path("run/final/config.json")).unwrap()).unwrap();
    assert_eq!(config["architectures"], json!(["BertForPreTraining"]));
    let ended = evaluate(&bench, "run", "masked-lm", &text, &[]);
    for key in ["eval_loss", "eval_sentence_accuracy", "eval_masked_accuracy", "eval_perplexity"] {
        let (now, then) = (ended[key].as_f64().unwrap(), last(&bench, "run", key));
        assert!((now - then).abs() <= 1e-6 * then, "{key}: {now} {then}");
    }
}

#[test]
fn answers_are_learnt() {
    let bench = Bench::new("bert-classification");
    let text = poems(&bench);
    let tokenizer = ["--kind", "chars", "--special-token", "<|user|>", "--special-token", "<|assistant|>"];
    let ids = json!({"eos_token_id": 0, "n_positions": 64});
    let model = fresh(&bench, "model", "cases/gpt2-causal", &tokenizer, &text, ids);
    let template = "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}\
                    {% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}\
                    {% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}";
    fs::write(Path::new(&model).join("chat_template.jinja"), template).unwrap();
    let additional = "additional_chat_templates";
    fs::create_dir(Path::new(&model).join(additional)).unwrap();
    fs::write(Path::new(&model).join(additional).join("tool_use.jinja"), template).unwrap();
    let chats = bench.path("chats.jsonl");
    let long = "sea ".repeat(30);
    let chat = |i: usize| match i % 3 {
        0 => json!({"prompt": "sun", "completion": "day"}),
        1 => json!({"messages": [{"role": "user", "content": "moon"}, {"role": "assistant", "content": "night"},
                                 {"role": "user", "content": "sun"}, {"role": "assistant", "content": "day"}]}),
        _ => json!({"prompt": long, "completion": "wave"}),
    };
    fs::write(&chats, (0..30).map(|i| format!("{}\n", chat(i))).collect::<String>()).unwrap();
    let (data, eval) = (format!("data.train={}", chats.display()), format!("data.eval={}", chats.display()));
    let said = train(&bench, &model, "run", &[&data, &eval, "kind=chat", "report_texts=true"]);
    assert!(said.contains("20 examples") && said.contains("10 skipped, as max_length = 64"), "{said}");
    assert_learns(&bench, "run");
    let names = common::process::names(&bench.path("run/final"));
    assert!(names.iter().any(|name| name == "chat_template.jinja"), "{names:?}");
    assert_eq!(common::process::names(&bench.path("run/final").join(additional)), ["tool_use.jinja"]);
    let ended = evaluate(&bench, "run", "chat", &chats, &[]);
    assert!((ended["eval_loss"].as_f64().unwrap() - last(&bench, "run", "eval_loss")).abs() < 1e-6, "{ended}");

    // What `trainer chat` says is what `trainer predict` writes.
    let ask = ["predict", "--model", "run/final", "--max-new-tokens", "8", "--text", "sun", "--text", "moon"];
    let written = run(trainer(&bench).args(ask)).expect(0).stdout;
    let texts = written.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["text"].clone());
    let texts: Vec<String> = texts.map(|text| text.as_str().unwrap().to_owned()).collect();
    let mut chat = trainer(&bench);
    chat.args(["chat", "run/final", "--max-new-tokens", "8"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut chat = chat.stderr(Stdio::piped()).spawn().unwrap();
    chat.stdin.take().unwrap().write_all(b"sun\n\n/new\nmoon\n/exit\nnot said\n").unwrap();
    let said = chat.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(said.stdout).unwrap(), format!("{}\n{}\n", texts[0], texts[1]));
    assert!(texts[0].starts_with("day"), "{texts:?}");
    let samples = table(&bench.path("run"), "Generated texts of the first examples at step 20").unwrap();
    assert_eq!((samples.rows.len(), &*samples.rows[0][1]), (10, "day"), "{samples:?}");
    assert!(samples.rows[0][2].starts_with("day") && samples.rows[0][4].ends_with("sun"), "{samples:?}");
    assert!(!bench.path("run/final/generation_config.json").exists(), "its config.json ends texts where answers end");

    for (line, says) in [
        ("{\"messages\": [{\"role\": \"bot\", \"content\": \"a\"}]}", "chats.jsonl:1: message 1: the role \"bot\""),
        ("{\"prompt\": \"sun\", \"completion\": \"\"}", "chats.jsonl:1: the completion is empty"),
        ("{\"text\": \"sun\"}", "chats.jsonl:1: no column \"messages\""),
    ] {
        fs::write(&chats, format!("{line}\n")).unwrap();
        let mut settings = bench.settings("other", &["kind=chat", &data, "init=random"]);
        settings.push(format!("model.path={model}"));
        let ended = run(trainer(&bench).arg("train").args(settings)).expect(2);
        assert!(ended.stderr.contains(says), "{says}: {}", ended.text());
    }
}

/// A model that learnt its answers' end from a template tells other programs so.
#[test]
fn a_chat_model_ends_texts_where_its_template_does() {
    let bench = Bench::new("bert-classification");
    let text = poems(&bench);
    let tokenizer = ["--kind", "chars", "--special-token", "<|end|>"];
    let ids = json!({"eos_token_id": 0, "bos_token_id": 0, "n_positions": 64, "temperature": 0.5});
    let model = fresh(&bench, "model", "cases/gpt2-causal", &tokenizer, &text, ids);
    let template = "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}<|end|>{% endif %}{% endfor %}";
    fs::write(Path::new(&model).join("chat_template.jinja"), template).unwrap();
    let chats = bench.path("chats.jsonl");
    fs::write(&chats, "{\"prompt\": \"sun\", \"completion\": \"day\"}\n".repeat(8)).unwrap();
    let data = format!("data.train={}", chats.display());
    let tokenizer: Value =
        serde_json::from_str(&fs::read_to_string(Path::new(&model).join("tokenizer.json")).unwrap()).unwrap();
    let added = tokenizer["added_tokens"].as_array().unwrap();
    let end = &added.iter().find(|token| token["content"] == "<|end|>").unwrap()["id"];
    let eval = format!("data.eval={}", chats.display());
    let more = [data.as_str(), &eval, "kind=chat", "max_steps=2", "save_strategy=steps", "save_steps=2"];
    let said = train(&bench, &model, "run", &more);
    assert!(said.contains(&format!("token {end} ends an answer in the chat template")), "{said}");
    for folder in ["run/final", "run/checkpoint-2"] {
        let file = fs::read_to_string(bench.path(folder).join("generation_config.json")).unwrap();
        let file: Value = serde_json::from_str(&file).unwrap();
        assert_eq!(file, json!({"bos_token_id": 0, "pad_token_id": 0, "eos_token_id": [0, end]}), "{folder}");
    }
    // What a folder says beside that stays.
    fs::write(Path::new(&model).join("generation_config.json"), "{\"top_p\": 0.5, \"do_sample\": true}").unwrap();
    train(&bench, &model, "other", &more);
    let file: Value =
        serde_json::from_str(&fs::read_to_string(bench.path("other/final/generation_config.json")).unwrap()).unwrap();
    assert_eq!(file, json!({"top_p": 0.5, "do_sample": true, "eos_token_id": end}));
}

#[test]
fn a_tokenizer_says_what_the_model_must_know() {
    let bench = Bench::new("bert-classification");
    let text = poems(&bench);
    let folder = bench.path("model");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("config.json"), "{\"vocab_size\": 50257, \"bos_token_id\": 0}").unwrap();
    let arguments = |kind: &str| {
        let paths = ["--input", text.to_str().unwrap(), "--output", folder.to_str().unwrap()].map(str::to_owned);
        ["tokenizer", "--kind", kind, "--vocab-size", "300"]
            .map(str::to_owned)
            .into_iter()
            .chain(paths)
            .collect::<Vec<_>>()
    };
    let ended = run(trainer(&bench).args(arguments("bpe"))).expect(0);
    assert!(ended.stderr.contains("\"vocab_size\": ") && ended.stderr.contains("it has 50257 now"), "{}", ended.text());
    assert!(ended.stderr.contains("\"eos_token_id\": 0") && !ended.stderr.contains("bos_token_id"), "{}", ended.text());
    let again = run(trainer(&bench).args(arguments("bpe"))).expect(2);
    assert!(again.stderr.contains("tokenizer.json already exists"), "{}", again.text());
    let wrong = run(trainer(&bench).args(arguments("words"))).expect(2);
    assert!(wrong.stderr.contains("--kind: found \"words\", expected one of bpe"), "{}", wrong.text());
}
