//! The same records in other files and formats train the same model, and what is wrong with files is said; damaged files
//! of all formats are read without a panic (`fuzz/`).

mod common;
#[path = "fuzz/replay.rs"]
mod replay;

use common::process::{mpi_is_here, mpirun, run, trainer};
use common::runs::Bench;
use flate2::write::GzEncoder;
use serde_json::Value;
use std::fs;
use std::io::Write;
use trainer::checkpoint::run_dir::Resume;

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// Writes the training records in three files of a folder, each in another compression, and in other formats.
fn spread(bench: &Bench) {
    let text = fs::read_to_string(bench.path("train.jsonl")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let part = |range: std::ops::Range<usize>| lines[range].join("\n") + "\n";
    fs::create_dir(bench.path("parts")).unwrap();
    fs::write(bench.path("parts/part-0.jsonl"), part(0..20)).unwrap();
    let members = [gzip(&part(20..33)), gzip(&part(33..50))].concat();
    fs::write(bench.path("parts/part-1.jsonl.gz"), members).unwrap();
    fs::write(bench.path("parts/part-2.jsonl.zst"), zstd::encode_all(part(50..90).as_bytes(), 3).unwrap()).unwrap();
    fs::write(bench.path("parts/README.md"), "about").unwrap();
    fs::write(bench.path("array.json"), format!("[\n{}\n]\n", lines.join(",\n"))).unwrap();
    let rows = lines.iter().map(|line| {
        let record: Value = serde_json::from_str(line).unwrap();
        format!("{};\"{}\"\r\n", record["label"].as_str().unwrap(), record["text"].as_str().unwrap())
    });
    fs::write(bench.path("semicolons.csv"), format!("Label;Text\r\n{}", rows.collect::<String>())).unwrap();
}

#[cfg(feature = "columnar")]
fn parquet(bench: &Bench) {
    use arrow_array::{ArrayRef, RecordBatch, StringArray};
    use std::sync::Arc;
    let text = fs::read_to_string(bench.path("train.jsonl")).unwrap();
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let column = |name: &str| -> ArrayRef {
        Arc::new(records.iter().map(|record| record[name].as_str()).collect::<StringArray>())
    };
    let batch = RecordBatch::try_from_iter([("label", column("label")), ("text", column("text"))]).unwrap();
    let file = fs::File::create(bench.path("table.parquet")).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let file = fs::File::create(bench.path("table.arrow")).unwrap();
    let mut writer = arrow_ipc::writer::FileWriter::try_new(file, &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
}

/// Losses and gradient norms are the same to the bit.
#[test]
fn the_same_records_in_other_files_take_the_same_steps() {
    let bench = Bench::new("bert-classification");
    spread(&bench);
    let steps = |out: &str, train: &str| {
        let train = format!("data.train={train}").replace('@', &bench.dir.path().display().to_string());
        bench.run(1, out, &[&train, "max_steps=6"], &Resume::None).unwrap();
        bench.steps(out)
    };
    let expected = steps("one", "@/train.jsonl");
    #[allow(unused_mut)]
    let mut cases = vec![
        ("folder", "@/parts"),
        ("pattern", "@/parts/part-*"),
        ("list", "[\"@/parts/part-0.jsonl\", \"@/parts/part-1.jsonl.gz\", \"@/parts/*.zst\"]"),
        ("array", "@/array.json"),
        ("csv", "@/semicolons.csv"),
    ];
    #[cfg(feature = "columnar")]
    {
        parquet(&bench);
        cases.extend([("parquet", "@/table.parquet"), ("arrow", "@/table.arrow")]);
    }
    for (out, train) in cases {
        assert_eq!(steps(out, train), expected, "{out}");
    }
}

/// Evaluation and prediction read folders and patterns too, and write as many lines as there are records.
#[test]
fn a_folder_is_evaluated_and_predicted() {
    let bench = Bench::new("bert-classification");
    spread(&bench);
    bench.run(1, "run", &["max_steps=3", "save_strategy=no"], &Resume::None).unwrap();
    let of = |data: &str| {
        run(trainer(&bench).args(["evaluate", "--model", "run/final", "--json", "--data", data])).expect(0).stdout
    };
    let metrics = |text: String| serde_json::from_str::<Value>(text.trim()).unwrap()["accuracy"].clone();
    assert_eq!(metrics(of("parts")), metrics(of("train.jsonl")));
    let predicted = |input: &str| {
        let args = ["predict", "--model", "run/final", "--keep", "text", "--input", input];
        run(trainer(&bench).args(args)).expect(0).stdout
    };
    let expected = predicted("train.jsonl");
    assert_eq!((expected.lines().count(), predicted("parts/part-*")), (90, expected));
}

/// What is held out is evaluated, the same at every world size, and `evaluate` finds the same records again.
#[test]
fn a_held_out_part_is_evaluated() {
    let bench = Bench::new("bert-classification");
    let run_words = |out: &str, split: &str| -> Vec<String> {
        let settings = bench.settings(out, &[&format!("data.eval_split={split}"), "max_steps=3", "eval_steps=3"]);
        settings.into_iter().filter(|word| !word.starts_with("data.eval=")).collect()
    };
    let mut losses = Vec::new();
    for (out, split, held) in [("tenth", "0.1", 9), ("third", "\"3/3\"", 30)] {
        let ended = run(trainer(&bench).arg("train").args(run_words(out, split))).expect(0);
        let said = if held == 9 { "0.1 held out" } else { "fold 3 of 3" };
        assert!(ended.text().contains(&format!("({said}): {held} examples")), "{}", ended.text());
        assert!(ended.text().contains(&format!("train.jsonl: {} examples", 90 - held)), "{}", ended.text());
        let evaluated = run(trainer(&bench).args(["evaluate", &format!("{out}/config.toml"), "--json"])).expect(0);
        let evaluated: Value = serde_json::from_str(evaluated.stdout.trim()).unwrap();
        let own = bench.lines(out, "eval_loss").pop().unwrap();
        assert_eq!(evaluated["eval_accuracy"], own["eval_accuracy"]);
        losses.push(own["eval_loss"].as_f64().unwrap());
        assert!((evaluated["eval_loss"].as_f64().unwrap() - losses[losses.len() - 1]).abs() < 1e-6);
    }
    assert_ne!(losses[0], losses[1]);
    if mpi_is_here() {
        run(mpirun(2, &bench).arg("train").args(run_words("two", "0.1"))).expect(0);
        let two = bench.lines("two", "eval_loss").pop().unwrap()["eval_loss"].as_f64().unwrap();
        assert!((two - losses[0]).abs() < 1e-6 * losses[0], "{two} {}", losses[0]);
    }
    let ended = run(trainer(&bench).arg("train").args(run_words("none", "0.001"))).expect(2);
    assert!(ended.text().contains("train.jsonl: the fraction 0.001 of 90 records is none"), "{}", ended.text());
    let ended = run(trainer(&bench).arg("train").args(bench.settings("none", &["data.eval_split=0.1"]))).expect(2);
    assert!(ended.text().contains("data.eval_split: holds out a part of the training data, but"), "{}", ended.text());
}

#[test]
fn what_is_wrong_with_files_is_said() {
    let bench = Bench::new("bert-classification");
    spread(&bench);
    fs::create_dir(bench.path("empty")).unwrap();
    fs::write(bench.path("cut.jsonl.zst"), &zstd::encode_all(&b"{}\n"[..], 3).unwrap()[..8]).unwrap();
    fs::write(
        bench.path("bad.jsonl"),
        "{\"text\": \"a\", \"label\": 1, \"label\": 2}\n{\"text\": \"b\", \"label\": 1}\n",
    )
    .unwrap();
    fs::write(bench.path("forms.jsonl"), "{\"text\": \"a\", \"label\": 1}\n{\"text\": \"b\", \"label\": 1.0}\n")
        .unwrap();
    fs::write(bench.path("table.parquet"), "PAR1").unwrap();
    for (train, says) in [
        ("none/*.csv", "data.train: none/*.csv: no file matches this pattern"),
        ("empty", "data.train: empty: the folder has no data file"),
        ("[1]", "data.train: [1]: no file matches this pattern"),
        ("[\"train.jsonl\", \"train.jsonl\"]", "data.train: train.jsonl is named twice"),
        ("[\"train.jsonl\", \"bad.jsonl\"]", "bad.jsonl:1: the key \"label\" is there twice"),
        ("cut.jsonl.zst", "cut.jsonl.zst: not a complete zstd file"),
        ("table.parquet", "table.parquet: not a complete Parquet file"),
        ("forms.jsonl", "\"1\" (line 1) and \"1.0\" (line 2) differ only in form"),
    ] {
        let settings = bench.settings("run", &[&format!("data.train={train}")]);
        let ended = run(trainer(&bench).arg("train").args(settings)).expect(2);
        assert_eq!(ended.text().matches("trainer: error: ").count(), 1, "{}", ended.text());
        assert!(ended.text().contains(says), "{says}: {}", ended.text());
    }
    // As the message says: with the labels listed, they are two classes.
    let more = ["data.train=forms.jsonl", "task.labels=[\"1\", \"1.0\"]", "max_steps=1", "data.eval=forms.jsonl"];
    run(trainer(&bench).arg("train").args(bench.settings("run", &more))).expect(0);
}

/// A host that lacks a file is named, with its rank.
#[test]
fn a_file_that_one_rank_lacks_is_said_with_the_rank() {
    if !mpi_is_here() {
        return;
    }
    let bench = Bench::new("bert-classification");
    let mut command = mpirun(1, &bench);
    command.arg("train").args(bench.settings("run", &[]));
    command.args([":", "-n", "1", common::process::program(), "train"]);
    command.args(bench.settings("run", &["data.train=elsewhere.jsonl"]));
    let ended = run(&mut command).expect(2);
    let text = ended.text();
    assert!(text.contains("rank 1 on ") && text.contains("data.train: no such file: elsewhere.jsonl"), "{text}");
}
