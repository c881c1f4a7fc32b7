//! `trainer plan`: what it tells against what a run measures, and what it refuses.

mod common;

use common::cases::{CaseBench, Kind};
use common::mistakes::edit;
use common::process::{Ended, mpi_is_here, mpirun, run, trainer};
use common::runs::Bench;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Stdio;
use tch::Kind as Type;
use trainer::data::Extents;
use trainer::models::family::DropoutOverrides;
use trainer::nn::{ComputeMode, Layout};
use trainer::parallel::Zero;
use trainer::plan::load::Load;
use trainer::plan::memory::{self, OptimizerBytes, Setup, Types};
use trainer::tasks::Head;
use trainer::train::model_loading::Declared;

/// Models of a size at which tensors are more than odds and ends, without weights.
fn grown(bench: &Bench, sizes: &Value) {
    _ = fs::remove_file(bench.model.join("model.safetensors"));
    edit(&bench.model.join("config.json"), |config| {
        for (key, value) in sizes.as_object().unwrap() {
            config[key] = value.clone();
        }
    });
}

fn gpt2() -> CaseBench {
    let bench = CaseBench::new("gpt2-causal", Kind::CausalLm);
    grown(&bench, &json!({"n_embd": 96, "n_inner": 384, "n_head": 6, "vocab_size": 400, "resid_pdrop": 0.1}));
    bench
}

fn t5() -> CaseBench {
    let bench = CaseBench::new("t5-tied-relu", Kind::Seq2Seq);
    grown(&bench, &json!({"d_model": 96, "d_ff": 384, "d_kv": 16, "num_heads": 6, "vocab_size": 400}));
    bench
}

fn bert() -> Bench {
    let mut bench = Bench::new("bert-classification");
    let copy = bench.path("model");
    common::mistakes::copy_folder(&bench.model, &copy);
    bench.model = copy;
    grown(&bench, &json!({"hidden_size": 96, "intermediate_size": 384, "num_attention_heads": 6}));
    bench
}

/// Without the ends of lines, wherever they are.
fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn json_of(ended: Ended) -> Value {
    let ended = ended.expect(0);
    serde_json::from_str(&ended.stdout).unwrap_or_else(|e| panic!("{e}: {}", ended.text()))
}

/// The bytes of each kind, and of all together.
type Peaks = [f64; 6];
const KINDS: [&str; 5] = ["weights", "gradients", "optimizer", "activations", "communication"];

/// The planned peaks of the configured way, and the largest that a rank measured in a run of three steps.
fn peaks(bench: &Bench, settings: &[String], world: usize, out: &str) -> (Peaks, Peaks) {
    let plan = ["plan", "--json", "--ranks", &world.to_string()].map(str::to_owned);
    let plan = json_of(run(trainer(bench).args(plan).args(settings)));
    let ways = plan["memory"].as_array().unwrap();
    let way = ways.iter().find(|way| way["configured"] == true).expect("the configured way is among them");
    let mut command = if world == 1 { trainer(bench) } else { mpirun(world, bench) };
    run(command.arg("train").args(settings)).expect(0);
    let summary = bench.summary(out);
    let ranks = summary["peak_bytes"].as_array().unwrap();
    let of = |at: usize, kinds: &Value, all: &Value| (if at < 5 { &kinds[KINDS[at]] } else { &all["total"] }).as_f64();
    let planned = std::array::from_fn(|at| of(at, &way["peak"], way).unwrap());
    let measured = |at| ranks.iter().map(|rank| of(at, rank, rank).unwrap()).fold(0.0, f64::max);
    (planned, std::array::from_fn(measured))
}

/// Bytes, not time: they can be asserted. Worlds x ZeRO stages x precisions x recomputation.
#[test]
fn memory_is_what_a_run_measures() {
    if !mpi_is_here() {
        return;
    }
    let (bert, gpt2, t5) = (bert(), gpt2(), t5());
    let whole: Vec<(usize, usize, &str, &str)> =
        [1, 2, 4].into_iter().flat_map(|world| (0..4).map(move |zero| (world, zero, "fp32", "none"))).collect();
    let some = vec![(1, 0, "fp32", "none"), (2, 3, "fp32", "none"), (2, 2, "bf16", "all"), (4, 1, "fp32", "none")];
    let halves = vec![(1, 0, "bf16", "none"), (2, 3, "bf16", "all"), (2, 1, "fp32", "all")];
    let cases: [(&Bench, &str, Vec<_>); 3] = [
        (&bert, "sequence-classification", [whole, halves].concat()),
        (&gpt2, "causal-lm", some.clone()),
        (&t5, "seq2seq", some),
    ];
    let mut far = Vec::new();
    for (bench, kind, combinations) in cases {
        for (world, zero, precision, recompute) in combinations {
            let out = format!("{world}-{zero}-{precision}-{recompute}");
            let more = [
                format!("task.kind={kind}"),
                format!("parallel.zero_stage={zero}"),
                format!("parallel.precision={precision}"),
                format!("parallel.recompute={recompute}"),
                "model.init=random".into(),
                "max_steps=3".into(),
                "global_batch_size=48".into(),
                "micro_batch_tokens=300".into(),
                "max_length=30".into(),
            ];
            let more: Vec<&str> = more.iter().map(String::as_str).collect();
            let (planned, measured) = peaks(bench, &bench.settings(&out, &more), world, &out);
            let ratios: Vec<String> =
                planned.iter().zip(measured).map(|(planned, measured)| format!("{:.4}", planned / measured)).collect();
            println!(
                "{kind} on {world}, ZeRO {zero}, {precision}, recompute {recompute}: {:?} of {measured:?}",
                ratios
            );
            // All but activations to the byte.
            let alike = [0, 1, 2, 4].into_iter().all(|kind: usize| planned[kind] == measured[kind]);
            if !alike || (planned[5] / measured[5] - 1.0).abs() > 0.1 {
                far.push(format!("{kind} {out}: planned {planned:?}, measured {measured:?}"));
            }
        }
    }
    assert!(far.is_empty(), "too far from what was measured:\n{}", far.join("\n"));
}

#[test]
fn a_plan_tells_of_data_memory_disk_and_time() {
    let bench = bert();
    let settings = bench.settings("run", &["model.init=random", "save_total_limit=2", "save_steps=5"]);
    let plan = |more: &[&str]| run(trainer(&bench).arg("plan").args(&settings).args(more));
    let svg = bench.path("plan.svg");
    let told =
        plan(&["--all", "--ranks", "2", "--device", "a100-80gb", "--plot", svg.to_str().unwrap()]).expect(0).stdout;
    let told = flat(&told);
    for part in [
        "90 examples",
        "20 steps of 12 examples, 8 per epoch",
        "padding none; padded to the longest of each batch",
        "each of 2 ranks",
        "* as configured",
        "at most 2 checkpoints at a time",
        "a100-80gb at 50 % of its peak",
        "nvlink3 within nodes of 8 ranks, ib200 between",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(!bench.path("run").exists(), "nothing is written");
    assert!(fs::read_to_string(svg).unwrap().contains("tokens per second"));

    let json = json_of(plan(&["--json", "--device", "h100-sxm", "--gpu-memory", "1MB"]));
    assert_eq!((&json["data"]["examples"], &json["data"]["steps"]), (&json!(90), &json!(20)));
    // 32 words of three to 26 tokens, two special ones among them.
    let lengths = &json["data"]["lengths"];
    assert!(lengths["shortest"].as_u64().unwrap() >= 3 && lengths["longest"].as_u64().unwrap() <= 26, "{lengths}");
    let parameters = json["model"]["parameters"].as_u64().unwrap();
    assert_eq!(json["disk"]["checkpoint"], 12 * parameters);
    assert_eq!(json["disk"]["most"], 3 * 12 * parameters + 4 * parameters);
    let worlds = json["time"]["worlds"].as_array().unwrap();
    assert_eq!((&worlds[0]["ranks"], &worlds[10]["ranks"]), (&json!(1), &json!(1024)));
    assert!(worlds[0]["exposed_communication"] == 0.0 && worlds[1]["exposed_communication"].as_f64().unwrap() > 0.0);
    let fits: Vec<&Value> = json["memory"].as_array().unwrap().iter().map(|way| &way["fits"]).collect();
    assert_eq!((fits.len(), fits[0]), (16, &json!(false)));

    let assumed = ["--all", "--assume-length", "20", "--batch-per-rank", "2", "--assume-examples", "90"];
    let text = flat(&plan(&assumed).expect(0).stdout);
    assert!(text.contains("from 64 ranks on, a batch is the whole data set: 90 examples"), "{text}");
    assert!(text.contains("evaluation is not counted"), "{text}");
    let short = plan(&["--gpu-memory", "1MB"]).expect(0).stdout;
    assert!(short.starts_with("Nothing fits") && short.contains("more ranks"), "{short}");
    let assumed = json_of(plan(&["--json", "--assume-length", "20", "--assume-examples", "500"]));
    assert_eq!(assumed["data"]["tokens"], 10_000);
}

#[test]
fn names_that_are_not_known_are_refused() {
    let bench = bert();
    let cases: [(&[&str], &str); 9] = [
        (&["--device", "abacus"], "--device: \"abacus\" is not known; expected one of cpu, h100-sxm"),
        (&["--link", "string"], "--link: \"string\" is not known; expected one of nvlink4"),
        (&["--link", "pcie4,eth25,eth25"], "--link: at most two"),
        (&["--efficiency", "0.5"], "--efficiency: the CPU is measured"),
        // Real steps are of real data, and of what ranks compute on here.
        (
            &["--device", "h100-sxm", "--measure", "comm.backend=solo"],
            "ranks compute on the CPU here, but --device is h100-sxm",
        ),
        (&["--measure", "--assume-length", "20"], "cannot be used with"),
        // As long as the model takes, and as a run would leave it.
        (&["--assume-length", "5000"], "--assume-length 5000: data.max_length = 5000: this model supports at most"),
        (&["--assume-length", "20", "max_length=16"], "a run truncates to data.max_length = 16; set it to 20"),
        (&["--assume-length", "20", "--assume-examples", "10000001"], "10000001 is not in 1..=10000000"),
    ];
    for (more, says) in cases {
        let ended = run(trainer(&bench).arg("plan").args(bench.settings("run", &["model.init=random"])).args(more));
        let ended = ended.expect(2);
        assert!(ended.stderr.contains(says), "{says}: {}", ended.text());
    }
}

/// Where the configuration leaves the ZeRO stage open it is the lowest that fits into what `train` may use.
#[test]
fn auto_is_what_a_run_would_choose() {
    let bench = bert();
    let plan = |memory: &str, more: &[&str]| {
        let settings = bench.settings("run", &["model.init=random", "zero_stage=auto", memory]);
        run(trainer(&bench).args(["plan", "--ranks", "4"]).args(settings).args(more)).expect(0).stdout
    };
    let json = |memory: &str, more: &[&str]| -> Value {
        serde_json::from_str(&plan(memory, &[more, &["--json"]].concat())).unwrap()
    };
    let starred = |plan: &Value| -> Vec<u64> {
        let ways = plan["memory"].as_array().unwrap().iter().filter(|way| way["configured"] == true);
        ways.map(|way| way["zero_stage"].as_u64().unwrap()).collect()
    };
    let much = json("memory_per_rank=1TiB", &[]);
    assert_eq!((starred(&much), &much["time"]["zero_stage"]), (vec![0], &json!(0)));
    // Between stage 0 and stage 1; whatever the arguments say, which `train` does not see.
    let [whole, sharded] = [0, 1].map(|stage| much["memory"][stage]["total"].as_u64().unwrap());
    let memory = format!("memory_per_rank={}", (whole + sharded) / 2);
    let some = json(&memory, &["--gpu-memory", "80GiB"]);
    assert_eq!(some["memory_limit"], ((whole + sharded) / 2) as f64);
    assert_eq!((starred(&some), &some["time"]["zero_stage"]), (vec![1], &json!(1)));
    let told = plan(&memory, &["--all"]);
    assert!(
        told.contains("* as configured, the lowest stage that fits") && told.contains(", parallel.memory_per_rank")
    );
    let none = plan("memory_per_rank=1MB", &["--all"]);
    assert!(flat(&none).contains("no stage fits") && !none.contains(" * "), "{none}");
    // What is free here, by nine tenths of a rank's part.
    let free = json("parallel.zero_stage=auto", &[]);
    assert!(free["memory_limit"].as_f64().unwrap() > 0.0 && starred(&free) == [0], "{free}");
}

/// `recompute = "auto"` checkpoints as few of the first blocks as the memory requires, in a plan and in a run.
#[test]
fn auto_checkpoints_as_few_blocks_as_necessary() {
    let bench = bert();
    edit(&bench.model.join("config.json"), |config| config["num_hidden_layers"] = json!(5));
    let fixed = ["model.init=random", "max_steps=2", "global_batch_size=48", "micro_batch_tokens=300", "max_length=30"];
    let settings = |more: &[&str]| bench.settings("run", &[&fixed[..], more].concat());
    let way = |more: &[&str]| -> Value {
        let plan = json_of(run(trainer(&bench).args(["plan", "--json"]).args(settings(more))));
        let ways = plan["memory"].as_array().unwrap();
        ways.iter().find(|way| way["configured"] == true).expect("the configured way is among them").clone()
    };
    let words: Vec<String> = (1..6).map(|n| format!("first-{n}")).collect();
    let words: Vec<&str> = std::iter::once("none").chain(words.iter().map(String::as_str)).collect();
    let totals: Vec<u64> =
        words.iter().map(|word| way(&[&format!("recompute={word}")])["total"].as_u64().unwrap()).collect();
    assert!(totals.windows(2).all(|pair| pair[1] <= pair[0]) && totals[5] < totals[0], "{totals:?}");
    for few in (0..6).filter(|&few| few == 0 || totals[few] < totals[few - 1]) {
        // Just enough for this many.
        let memory = format!("memory_per_rank={}", totals[few] + 1);
        assert_eq!(way(&["recompute=auto", &memory])["recompute"], words[few], "{memory}");
    }
    let memory = format!("memory_per_rank={}", totals[4] + 1);
    let ended = run(trainer(&bench).arg("train").args(settings(&["recompute=auto", &memory]))).expect(0);
    let told = flat(&ended.text());
    assert!(told.contains("activation checkpointing of the first 4 blocks (auto)"), "{told}");
    let peak = bench.summary("run")["peak_bytes"][0]["total"].as_f64().unwrap();
    assert!(peak < totals[3] as f64, "{peak} of {totals:?}");
    // Not even all of them fit.
    let settings = settings(&["recompute=auto", "memory_per_rank=1MB", "overwrite_output_dir=true"]);
    let error = run(trainer(&bench).arg("train").args(settings)).expect(2).text();
    assert!(error.contains("nothing fits") && !flat(&error).contains("parallel.recompute"), "{error}");
}

/// With a batch for each rank all that is told is of that batch, not of the one that is configured.
#[test]
fn a_batch_for_each_rank_is_that_of_all_figures() {
    let bench = bert();
    let plan = |more: &[&str]| {
        let settings = bench.settings("run", &["model.init=random", "save_strategy=epoch", "data.eval="]);
        let settings =
            settings.iter().filter(|setting| !setting.starts_with("data.eval") && *setting != "max_steps=20");
        json_of(run(trainer(&bench).args(["plan", "--json", "--ranks", "4"]).args(settings).args(more)))
    };
    let (same, own) = (plan(&["global_batch_size=8"]), plan(&["--batch-per-rank", "2"]));
    assert_eq!(own["data"]["global_batch_size"], 8);
    assert_eq!((&own["data"]["steps"], &own["data"]["steps_per_epoch"]), (&json!(36), &json!(12)));
    for part in ["data", "memory", "model"] {
        assert_eq!(same[part], own[part], "{part}");
    }
    assert_eq!(same["disk"]["most"], own["disk"]["most"]);
    // 90 examples are fewer than two for each of 64 ranks.
    let batches: Vec<u64> = own["time"]["worlds"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["global_batch_size"].as_u64().unwrap())
        .collect();
    assert_eq!(batches, [2, 4, 8, 16, 32, 64, 90, 90, 90, 90, 90]);

    let worlds = own["time"]["worlds"].as_array().unwrap();
    assert_eq!(worlds[0]["communicated_bytes"], 0.0, "one rank sends nothing");
    let parts: f64 = ["linear", "attention", "memory", "exposed_communication"]
        .iter()
        .map(|part| worlds[3][part].as_f64().unwrap())
        .sum();
    assert!((parts / worlds[3]["step_seconds"].as_f64().unwrap() - 1.0).abs() < 1e-6, "{}", worlds[3]);

    // Assumed data is as large as the largest batch.
    let assumed = plan(&["--batch-per-rank", "2", "--assume-length", "20"]);
    let last = &assumed["time"]["worlds"][10];
    assert_eq!((&last["global_batch_size"], last["tokens_per_step"].as_f64()), (&json!(2048), Some(2048.0 * 20.0)));
}

/// `trainer plan | head -1`: nobody reads to the end.
#[test]
fn a_reader_may_leave() {
    let bench = bert();
    let mut command = trainer(&bench);
    command.arg("plan").args(bench.settings("run", &["model.init=random"]));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success(), "{}: {}", ended.status, String::from_utf8_lossy(&ended.stderr));
}

/// A few real steps beside what was planned of them, alone and on two ranks; bytes agree, times are only told.
#[test]
fn real_steps_correct_the_plan() {
    let bench = bert();
    let more = ["model.init=random", "global_batch_size=48", "max_length=30"];
    let plan = |mut command: std::process::Command| {
        let json = json_of(run(command.args(["plan", "--measure", "--json"]).args(bench.settings("run", &more))));
        let measured = json["time"]["measured"].clone();
        let [planned, peak] = ["planned_peak", "peak"].map(|key| measured[key].as_f64().unwrap());
        assert!((planned / peak - 1.0).abs() < 0.1, "planned {planned}, measured {peak}");
        assert!(measured["step_seconds"].as_f64().unwrap() > 0.0);
        assert!(!bench.path("run").exists(), "nothing is written");
        measured
    };
    assert_eq!(plan(trainer(&bench))["collectives"], json!([]));
    if mpi_is_here() {
        let measured = plan(mpirun(2, &bench));
        let timed = measured["collectives"].as_array().unwrap();
        assert_eq!((&measured["ranks"], timed.len()), (&json!(2), 12));
        assert!(timed.iter().all(|one| one["seconds"].as_f64().unwrap() > 0.0), "{timed:?}");
    }
}

/// Llama 3 8B by hand: its numbers, their bytes and its products, from `config.json` alone.
#[test]
fn a_large_model_is_counted_by_hand() {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096,
        "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "max_position_embeddings": 8192, "rope_theta": 500000.0, "rms_norm_eps": 1e-5, "hidden_act": "silu",
        "attention_bias": false, "attention_dropout": 0.0, "tie_word_embeddings": false, "initializer_range": 0.02,
    });
    let declared =
        Declared::read(Path::new("llama"), config, DropoutOverrides::default(), Head::CausalLm.role()).unwrap();
    let shaped = declared.with_head(&Head::CausalLm);
    let (table, model) = (128_256 * 4096_i64, &shaped.model);
    // Queries and the way back, keys and values of 8 heads of 128, three matrices of the feed-forward part.
    let products = 2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 4096 * 14336_i64;
    let parameters: i64 = shaped.specs.iter().map(|spec| spec.numel()).sum();
    assert_eq!(parameters, 2 * table + 32 * (products + 2 * 4096) + 4096);
    assert_eq!(parameters, 8_030_261_248);

    let how = ComputeMode::training(Type::BFloat16, false);
    let tokens = 2.0 * 8192.0;
    let x = Extents::even(2, 8192, 2 * 8192);
    let costs: Vec<_> = (0..model.blocks()).map(|block| model.cost(block, &x, &how)).collect();
    let flops: f64 = costs.iter().map(|cost| cost.flops).sum();
    let attention: f64 = costs.iter().map(|cost| cost.attention_flops).sum();
    assert_eq!(attention, 32.0 * 4.0 * 2.0 * 8192.0 * 8192.0 * 4096.0);
    assert_eq!(flops - attention, 2.0 * tokens * (32 * products + table) as f64);
    // 6 N + 12 l h q t a token for forward and backward, N without the look-up table.
    let usual = 6.0 * (32 * products + table) as f64 + 12.0 * 32.0 * 32.0 * 128.0 * 8192.0;
    assert!((3.0 * flops / tokens / usual - 1.0).abs() < 1e-9, "{flops}");

    // ZeRO 3 over 8 ranks, gradients in fp32: 2, 4 and 12 bytes of each number, an eighth of them.
    let layout = Layout::new(&shaped.specs, 8);
    let types = Types { compute: Type::BFloat16, reduce: Type::Float };
    let keeps = (0..model.blocks()).map(|block| block + 1 == model.blocks()).collect();
    let setup = Setup {
        types,
        zero: Zero::ALL[3],
        cpu: false,
        keeps,
        saves: false,
        offloads: false,
        noise: false,
        frozen_vocabulary: false,
        optimizer: OptimizerBytes::ADAMW,
    };
    let need = memory::estimate(model, &layout, &setup, &Load { busiest: x, rows: 16e3, ..Load::default() });
    for (kept, bytes) in need.kept.into_iter().zip([2.0, 4.0, 12.0]) {
        assert!((kept / (bytes * parameters as f64 / 8.0) - 1.0).abs() < 1e-4, "{kept}");
    }
    // The boundary of each layer, and in the head, in fp32, the gradients of its matrix and of its input, and a product that
    // is added to the former; logits exist for a few rows only.
    let head = 4.0 * (2.0 * table as f64 + tokens * 4096.0);
    let boundaries = 33.0 * 2.0 * tokens * 4096.0;
    assert!(need.peak[3] > boundaries + head && need.peak[3] < 1.2 * (boundaries + head), "{}", need.peak[3]);
}
