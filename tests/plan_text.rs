//! What `trainer plan` recommends, that its words give the figures that it tells, and that a terminal has room for it.

mod common;

use common::cases::{CaseBench, Kind};
use common::mistakes::{copy_folder, edit};
use common::process::{run, trainer};
use common::runs::Bench;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use trainer::observe::memory::human;

/// A model of a size at which tensors are more than odds and ends, without weights.
fn bert() -> Bench {
    let mut bench = Bench::new("bert-classification");
    let copy = bench.path("model");
    copy_folder(&bench.model, &copy);
    bench.model = copy;
    fs::remove_file(bench.model.join("model.safetensors")).unwrap();
    edit(&bench.model.join("config.json"), |config| {
        for (key, value) in [("hidden_size", 96), ("intermediate_size", 384), ("num_attention_heads", 6)] {
            config[key] = json!(value);
        }
    });
    bench
}

fn plan(bench: &Bench, args: &[String]) -> String {
    let mut settings = bench.settings("run", &["model.init=random"]);
    settings.extend_from_slice(args);
    run(trainer(bench).arg("plan").args(settings)).expect(0).stdout
}

/// Without the ends of lines, wherever they are.
fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn words(args: &[&str]) -> Vec<String> {
    args.iter().map(|&arg| arg.to_owned()).collect()
}

/// The way that the run takes, as `--json` has it.
fn configured(bench: &Bench, args: &[String]) -> Value {
    let json: Value = serde_json::from_str(&plan(bench, &[args, &words(&["--json"])].concat())).unwrap();
    let ways = json["memory"].as_array().unwrap().clone();
    ways.into_iter().find(|way| way["configured"] == true).expect("a way is configured")
}

fn total(way: &Value) -> u64 {
    way["total"].as_u64().unwrap()
}

/// The words that stand on lines of their own, four columns in.
fn told_words(text: &str) -> Vec<String> {
    let lines = text.split("\n\n").find(|part| part.starts_with("    ")).unwrap_or_default();
    lines.split_whitespace().map(|word| word.trim_matches('\'').to_owned()).collect()
}

/// Of what fits: `Fits with ZeRO 2 ...: 12.3 of 20.0 MB per rank.`, and the words to add.
fn check_that_words_fit(bench: &Bench, args: &[String]) -> (String, Vec<String>) {
    let text = plan(bench, args);
    let first = text.lines().next().unwrap().to_owned();
    assert!(first.starts_with("Fits with ZeRO "), "{text}");
    let added = told_words(&text);
    let way = configured(bench, &[args, &added].concat());
    assert_eq!(way["fits"], true, "{added:?}: {way}");
    let (number, unit) = first.rsplit_once(": ").unwrap().1.split_once(" of ").unwrap();
    let unit = unit.split_whitespace().nth(1).unwrap();
    let told = if number.contains(' ') { number.to_owned() } else { format!("{number} {unit}") };
    assert_eq!(told, human(total(&way)), "{added:?}: {text}");
    assert!(first.contains(&format!("ZeRO {}", way["zero_stage"])), "{first}: {way}");
    // Once they are added nothing is left to change.
    let again = plan(bench, &[args, &added].concat());
    assert_eq!(again.lines().next(), Some(first.as_str()), "{again}");
    assert!(told_words(&again).is_empty(), "{again}");
    (first, added)
}

/// At every limit the first line names the stage that `zero_stage = "auto"` takes.
#[test]
fn the_recommendation_is_what_auto_chooses() {
    let bench = bert();
    let whole = words(&["--device", "l40s", "--ranks", "4", "memory_per_rank=1TiB"]);
    let totals = (0..4).map(|stage| {
        total(&configured(&bench, &[whole.clone(), words(&[&format!("parallel.zero_stage={stage}")])].concat()))
    });
    let totals: Vec<u64> = totals.collect();
    let mut stages = Vec::new();
    for limit in totals {
        let args = words(&["--device", "l40s", "--ranks", "4", &format!("memory_per_rank={limit}")]);
        let chosen = configured(&bench, &[args.clone(), words(&["zero_stage=auto"])].concat());
        let stage = chosen["zero_stage"].as_u64().unwrap();
        let (first, added) = check_that_words_fit(&bench, &args);
        assert!(first.starts_with(&format!("Fits with ZeRO {stage} without activation checkpointing")), "{first}");
        let word = format!("parallel.zero_stage={stage}");
        assert_eq!(added, if stage == 0 { Vec::new() } else { vec![word] });
        // A run that leaves it open has nothing to add.
        let open = plan(&bench, &[args, words(&["zero_stage=auto"])].concat());
        assert_eq!(open.lines().next(), Some(first.as_str()));
        assert!(told_words(&open).is_empty() && flat(&open).contains("configured (zero_stage = \"auto\")"), "{open}");
        stages.push(stage);
    }
    stages.dedup();
    assert!(stages.len() > 2, "each limit is a case of its own: {stages:?}");
}

/// Many tokens for two ranks, so that micro-batches decide.
const LONG: [&str; 7] = ["--ranks", "2", "--assume-length", "20", "--assume-examples", "500", "global_batch_size=500"];

fn memory(bytes: u64) -> Vec<String> {
    // Nine tenths are for tensors.
    words(&["--gpu-memory", &(bytes.div_ceil(9) * 10 + 10).to_string()])
}

#[test]
fn micro_batches_come_before_recomputation_and_this_before_precision() {
    let bench = bert();
    let long = words(&LONG);
    let with = |more: &[&str]| [long.clone(), words(more)].concat();
    let least = |more: &[&str]| total(&configured(&bench, &with(&[more, &["parallel.zero_stage=3"]].concat())));
    let few = "train.micro_batch_tokens=512";
    let limits = [least(&[few]), least(&[few, "parallel.recompute=all"])];
    assert!(limits[0] > limits[1], "{limits:?}");

    let (first, added) = check_that_words_fit(&bench, &[long.clone(), memory(limits[0])].concat());
    assert!(first.contains("without activation checkpointing"), "{first}");
    assert!(added.iter().any(|word| word.starts_with("train.micro_batch_tokens=")), "{added:?}");
    let (first, added) = check_that_words_fit(&bench, &[long.clone(), memory(limits[1])].concat());
    assert!(first.contains("and activation checkpointing"), "{first}");
    assert!(added.contains(&"parallel.recompute=all".into()), "{added:?}");
    let half = ["parallel.precision=bf16", "parallel.recompute=all", few];
    let limit = least(&half);
    assert!(limit < limits[1], "{limit} {limits:?}");
    let (_, added) = check_that_words_fit(&bench, &[long, memory(limit)].concat());
    assert!(added.contains(&"parallel.precision=bf16".into()), "{added:?}");
}

/// What is configured fits, but so does what costs less.
#[test]
fn a_dearer_choice_that_fits_is_told_so() {
    let bench = bert();
    let args =
        words(&["--device", "l40s", "--ranks", "4", "--gpu-memory", "1GB", "zero_stage=3", "parallel.recompute=all"]);
    let (first, added) = check_that_words_fit(&bench, &args);
    assert!(first.starts_with("Fits with ZeRO 0 without"), "{first}");
    assert_eq!(added, ["parallel.recompute=none", "parallel.zero_stage=0"]);
    assert!(
        flat(&plan(&bench, &args)).contains("As configured, with ZeRO 3 and activation checkpointing, it also fits")
    );
}

#[test]
fn without_a_limit_the_need_is_told() {
    let bench = bert();
    let text = plan(&bench, &[]);
    let need = human(total(&configured(&bench, &[])));
    assert!(
        text.starts_with(&format!("Needs {need} per rank with ZeRO 0 without activation checkpointing.")),
        "{text}"
    );
    for part in ["Expected time: ", "--gpu-memory SIZE", "More: --all"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("positions per token"), "details are for --all: {text}");
}

/// A change as it is told.
#[derive(Debug)]
struct Told {
    /// Arguments, options among them.
    args: Vec<String>,
    alone: String,
    together: String,
}

/// The numbered list of changes.
fn changes(text: &str) -> Vec<Told> {
    let flat = flat(text);
    let starts = (1..).map_while(|n| Some((n, flat.find(&format!(" {n}. "))?)));
    let starts: Vec<(usize, usize)> = starts.collect();
    let ends = starts.iter().skip(1).map(|start| start.1).chain([flat.len()]);
    let told = |(&(n, start), end): (&(usize, usize), usize)| {
        let entry = flat[start..end].trim_start().trim_start_matches(&format!("{n}. ")).to_owned();
        let (options, effect) = entry.split_once(": saves ").unwrap();
        // The words end where what they are begins.
        let words =
            options.split_whitespace().take_while(|word| word.contains(['=', '-']) || word.parse::<u32>().is_ok());
        let size = |of: &str| {
            let rest = effect.split_once(of).unwrap_or_else(|| panic!("{of}: {effect}")).1;
            rest.split(' ').take(2).collect::<Vec<_>>().join(" ").trim_matches([',', ';', '.']).to_owned()
        };
        let alone = size("leaves ");
        let together = if n == 1 { alone.clone() } else { size("with all above ") };
        Told { args: words.map(|word| word.trim_matches('\'').to_owned()).collect(), alone, together }
    };
    starts.iter().zip(ends).map(told).collect()
}

/// Arguments with others that replace those for the same key or option; what is frozen adds up.
fn replaced(args: &[String], others: &[String]) -> Vec<String> {
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    let mut rest = args.iter().chain(others);
    while let Some(word) = rest.next() {
        let (key, value) = match word.split_once('=') {
            Some((key, value)) => (key.to_owned(), value.to_owned()),
            None => (word.clone(), rest.next().unwrap().clone()),
        };
        let value = match all.get(&key).filter(|_| key == "model.freeze") {
            Some(before) => format!("{},{}", before.trim_end_matches(']'), value.trim_start_matches('[')),
            None => value,
        };
        all.insert(key, value);
    }
    let words = |(key, value): (String, String)| {
        if key.starts_with("--") { vec![key, value] } else { vec![format!("{key}={value}")] }
    };
    all.into_iter().flat_map(words).collect()
}

fn bytes(size: &str) -> f64 {
    let (number, unit) = size.split_once(' ').unwrap();
    let power = ["B", "kB", "MB", "GB"].iter().position(|&u| u == unit).unwrap();
    number.parse::<f64>().unwrap() * 1000_f64.powi(power as i32)
}

/// Every change that is told is taken by the program, leaves what is said of it, and stands after those that save more.
#[test]
fn where_nothing_fits_changes_are_told_by_their_effect() {
    let bench = bert();
    let cases: [(&[&str], &[&str]); 2] = [
        (
            &LONG,
            &["recompute", "precision", "micro_batch_tokens", "--assume-length", "freeze", "--ranks", "zero_stage"],
        ),
        (&["--device", "l40s", "--ranks", "2"], &["precision", "max_length", "freeze", "--ranks", "zero_stage"]),
    ];
    for (args, kinds) in cases {
        let args = words(args);
        for (memory, fits) in [("300kB", false), ("1200kB", true)] {
            let text = plan(&bench, &[args.clone(), words(&["--gpu-memory", memory])].concat());
            assert!(text.starts_with("Nothing fits into "), "{text}");
            let told = changes(&text);
            for kind in kinds {
                assert!(told.iter().any(|change| change.args.iter().any(|arg| arg.contains(kind))), "{kind}: {text}");
            }
            let mut all = args.clone();
            for (place, change) in told.iter().enumerate() {
                let alone = total(&configured(&bench, &replaced(&args, &change.args)));
                assert_eq!(change.alone, human(alone), "{change:?}: {text}");
                all = replaced(&all, &change.args);
                let together = total(&configured(&bench, &all));
                assert_eq!(change.together, human(together), "{change:?} after those above: {text}");
                assert!(place == 0 || bytes(&told[place - 1].alone) <= bytes(&change.alone), "{change:?}: {text}");
            }
            assert_eq!(text.contains("and do not fit"), !fits, "{text}");
            assert_eq!(text.contains("together fit") || text.contains("fits by itself"), fits, "{text}");
        }
    }
}

/// Where a micro-batch is a single example, half the length does not help if two of them fill it again.
#[test]
fn a_single_long_example_is_halved_with_its_micro_batch() {
    let bench = bert();
    edit(&bench.model.join("config.json"), |config| config["max_position_embeddings"] = json!(2048));
    let args =
        words(&["--device", "l40s", "--assume-length", "1400", "--assume-examples", "90", "micro_batch_tokens=1400"]);
    let text = plan(&bench, &[args.clone(), words(&["--gpu-memory", "300kB"])].concat());
    let told = changes(&text);
    let shorter = told.iter().find(|change| change.args.contains(&"--assume-length".into())).unwrap();
    assert_eq!(shorter.args, ["train.micro_batch_tokens=700", "--assume-length", "700"], "{text}");
    let changed = replaced(&args, &words(&["micro_batch_tokens=700", "--assume-length", "700"]));
    assert_eq!(shorter.alone, human(total(&configured(&bench, &changed))), "{text}");
    assert!(bytes(&shorter.alone) < 0.8 * total(&configured(&bench, &args)) as f64, "{text}");
}

/// Paths may be longer than a line.
fn check_width(text: &str, what: &str) {
    for line in text.lines().filter(|line| line.chars().count() > 80) {
        let is_path = line.contains('/') && line.split_whitespace().count() == 1;
        assert!(is_path, "{what}: {} columns: {line}", line.chars().count());
    }
}

/// Every example configuration, on small models of the same kinds and without their data.
#[test]
fn a_plan_fits_into_80_columns() {
    let bench = bert();
    let (decoder, both) =
        (CaseBench::new("gpt2-causal", Kind::CausalLm), CaseBench::new("t5-tied-relu", Kind::Seq2Seq));
    let configs: Vec<_> = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("configs")).unwrap().collect();
    assert!(configs.len() > 5);
    let ways: [&[&str]; 5] = [
        &["--device", "h100-sxm"],
        &["--all", "--device", "a100-80gb", "--ranks", "2000"],
        &["--device", "l40s", "--ranks", "4", "--gpu-memory", "3MB", "zero_stage=3"],
        &["--device", "h200-sxm", "--ranks", "4", "--gpu-memory", "200kB"],
        &["--all", "--device", "l40s", "--gpu-memory", "200kB", "parallel.recompute=2", "save_steps=1"],
    ];
    for config in configs.into_iter().map(|entry| entry.unwrap().path()) {
        let text = fs::read_to_string(&config).unwrap();
        let kind = |name: &str| text.contains(&format!("kind = \"{name}\""));
        let (model, more): (&Bench, &[&str]) = match () {
            () if kind("causal-lm") || kind("chat") => (&decoder, &[]),
            () if kind("seq2seq") => (&both, &[]),
            () if kind("question-answering") => (&bench, &["task.doc_stride=4"]),
            () => (&bench, &[]),
        };
        let model = format!("model.path={}", model.model.display());
        for way in ways {
            let mut command = trainer(&bench);
            command.arg("plan").arg(&config).args(["--assume-length", "20", "data.max_length=20", "model.init=random"]);
            command.args(["parallel.precision=fp32", &model]).args(more).args(way);
            let told = run(&mut command).expect(0).stdout;
            check_width(&told, &format!("{}: {way:?}", config.display()));
        }
    }
    // Read data, this CPU, and what is measured.
    for args in [&["--all"][..], &["--ranks", "4"], &["--all", "--measure"], &["--measure", "--gpu-memory", "80GB"]] {
        check_width(&plan(&bench, &words(args)), &format!("{args:?}"));
    }
}
