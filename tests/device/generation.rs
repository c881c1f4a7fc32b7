//! Generated texts against transformers', token for token, on the models under `tests/reference/cases`; on several ranks
//! and with sharded weights too; and what people run: an evaluation that generates, and `trainer predict`.
//! `tests/reference/generation.py` wrote the texts.

use crate::common::cases::{CaseBench, Kind as CaseKind};
use crate::common::device::tolerance;
use crate::common::page::{Table, table};
use crate::common::process::{mpi_is_here, mpirun, run, trainer};
use crate::common::reference::{alone, folder};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tch::Kind;
use trainer::checkpoint::run_dir::Resume;
use trainer::comm::{Collective, threads};
use trainer::data::{Collation, Dataset, Example, Label};
use trainer::generate::continuous::{Running, Start};
use trainer::generate::settings::Search;
use trainer::generate::{Passes, Settings, Text, uniform};
use trainer::models::family::DropoutOverrides;
use trainer::models::registry;
use trainer::parallel::Zero;
use trainer::tasks::Head;
use trainer::train::evaluate::Evaluator;
use trainer::train::model_loading::{Declared, LoadOptions, Source};

/// What transformers wrote on one model.
#[derive(Deserialize)]
struct Wanted {
    #[serde(skip)]
    case: String,
    prompts: Vec<Vec<u32>>,
    /// For each prompt the number that each of its tokens is drawn by.
    uniforms: Vec<Vec<f64>>,
    runs: Vec<Run>,
}

#[derive(Deserialize)]
struct Run {
    settings: Map<String, Value>,
    texts: Vec<Vec<u32>>,
}

fn all() -> Vec<Wanted> {
    let entries = std::fs::read_dir(folder("generation")).unwrap().map(|entry| entry.unwrap().path());
    let read = |path: std::path::PathBuf| {
        let wanted: Wanted = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        Wanted { case: format!("cases/{}", path.file_stem().unwrap().to_str().unwrap()), ..wanted }
    };
    let mut all: Vec<Wanted> = entries.map(read).collect();
    all.sort_by(|a, b| a.case.cmp(&b.case));
    assert!(!all.is_empty());
    all
}

impl Wanted {
    /// Some of the prompts.
    fn dataset(&self, prompts: &[usize]) -> Dataset {
        let config = registry::read_config(&folder(&self.case)).unwrap();
        let collation = match config["decoder_start_token_id"].as_u64() {
            Some(start) => Collation::SourceTarget { start: start as u32 },
            None => Collation::NextToken,
        };
        let example = |&i: &usize| {
            let ids = self.prompts[i].clone();
            Example::single(ids.clone(), vec![0; ids.len()], Label::None)
        };
        Dataset::new(prompts.iter().map(example), collation, [0; 32])
    }

    /// The texts of these prompts by one run's settings, on one of the ranks.
    fn texts(&self, run: &Run, prompts: &[usize], how: How, comm: &Arc<dyn Collective>) -> Vec<Text> {
        let folder = folder(&self.case);
        let json = registry::read_config(&folder).unwrap();
        let head = Head::of_config(&folder, &json).unwrap();
        let declared = Declared::read(&folder, json, DropoutOverrides::default(), head.role()).unwrap();
        let zero = Zero::ALL[how.zero];
        let holding = LoadOptions { kind: how.kind, zero, trains: false.into(), seed: 0, from: Source::Folder };
        let mut loaded = declared.with_head(&head).load(comm, &holding).unwrap();
        let settings = Settings::read(&folder, &run.settings).unwrap();
        let dataset = self.dataset(prompts);
        let draw = |record: u64, position: usize| self.uniforms[prompts[record as usize]][position];
        let mut evaluator = Evaluator {
            model: &loaded.model,
            params: &loaded.params,
            weights: &mut loaded.weights,
            comm: comm.as_ref(),
            micro_batch_tokens: how.tokens,
            generation: None,
        };
        evaluator.texts(&dataset, &settings, &draw).unwrap()
    }

    /// The texts of a run with greedy decoding or sampling in a batch that prompts join two tokens apart and leave when
    /// they are complete; with sampling also what [`Evaluator::texts`] samples by the same numbers.
    fn joining(&self, run: &Run) -> Option<[Vec<Vec<u32>>; 2]> {
        const SEED: u64 = 7;
        let folder = folder(&self.case);
        let settings = Settings::read(&folder, &run.settings).unwrap();
        let sampling = match settings.search {
            Search::Greedy => None,
            Search::Sample(sampling) => Some(sampling),
            Search::Beam(_) => return None,
        };
        let comm = alone();
        let json = registry::read_config(&folder).unwrap();
        let head = Head::of_config(&folder, &json).unwrap();
        let declared = Declared::read(&folder, json, DropoutOverrides::default(), head.role()).unwrap();
        let holding =
            LoadOptions { kind: Kind::Float, zero: Zero::ALL[0], trains: false.into(), seed: 0, from: Source::Folder };
        let mut loaded = declared.with_head(&head).load(&comm, &holding).unwrap();
        let backbone = loaded.model.backbone.as_ref();
        let mut evaluator = Evaluator {
            model: &loaded.model,
            params: &loaded.params,
            weights: &mut loaded.weights,
            comm: comm.as_ref(),
            micro_batch_tokens: 100_000,
            generation: None,
        };
        let wanted = match sampling {
            None => run.texts.clone(),
            Some(_) => {
                let random = |_, position| uniform(SEED, 0, position);
                ids(&evaluator.texts(&self.dataset(&self.indices()), &settings, &random).unwrap())
            }
        };
        let start = |(id, prompt): (u64, &Vec<u32>)| {
            let (min_new, max_new) = settings.length.after(prompt.len(), backbone.max_length());
            Start { id, prompt: prompt.clone(), sampling, seed: SEED, min_new, max_new }
        };
        let mut waiting = (0..).zip(&self.prompts).map(start);
        let mut passes = evaluator.passes();
        let mut running = Running::new(backbone, &settings, passes.device()).unwrap();
        let mut found = vec![Vec::new(); self.prompts.len()];
        for step in 0.. {
            // Two prompts at first, and then one after every second token.
            let new: Vec<Start> = waiting.by_ref().take([2, 0, 1, 0][step % 4]).collect();
            if new.is_empty() && running.is_empty() && waiting.size_hint().0 == 0 {
                break;
            }
            let open = running.len() + new.len();
            let next = running.step(new, &mut passes).unwrap();
            assert_eq!(next.len(), open, "each text has a token in each step");
            next.iter().for_each(|next| found[next.id as usize].push(next.token));
        }
        Some([found, wanted])
    }

    fn indices(&self) -> Vec<usize> {
        (0..self.prompts.len()).collect()
    }
}

#[derive(Clone, Copy)]
struct How {
    kind: Kind,
    zero: usize,
    /// In the cache at a time.
    tokens: usize,
}

/// All prompts in one batch.
const TOGETHER: How = How { kind: Kind::Float, zero: 0, tokens: 100_000 };

fn ids(texts: &[Text]) -> Vec<Vec<u32>> {
    texts.iter().map(|text| text.ids.clone()).collect()
}

/// All prompts in one batch, whatever their lengths; and each alone.
#[test]
fn texts_are_those_of_transformers() {
    tch::set_num_threads(1);
    let mut wrong = Vec::new();
    for wanted in all() {
        for run in &wanted.runs {
            let settings = Value::from(run.settings.clone());
            let together = wanted.texts(run, &wanted.indices(), TOGETHER, &alone());
            if ids(&together) != run.texts {
                wrong.push(format!("{} {settings}\n{:?}\n{:?}", wanted.case, ids(&together), run.texts));
            }
            let alone = wanted.texts(run, &wanted.indices(), How { tokens: 1, ..TOGETHER }, &alone());
            for (a, b) in together.iter().zip(&alone) {
                let near = a
                    .log_probs
                    .iter()
                    .zip(&b.log_probs)
                    .all(|(x, y)| f64::from(x - y).abs() < tolerance(Kind::Float).output);
                if a.ids != b.ids || !near {
                    wrong.push(format!("{} {settings}: together {a:?}, alone {b:?}", wanted.case));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A text does not depend on what joins and leaves its batch meanwhile.
#[test]
fn texts_join_and_leave_a_running_batch() {
    tch::set_num_threads(1);
    let causal = all().into_iter().filter(|wanted| wanted.case.ends_with("-causal")).collect::<Vec<_>>();
    assert!(causal.len() > 2);
    let mut compared = 0;
    for wanted in &causal {
        for run in &wanted.runs {
            let Some([found, texts]) = wanted.joining(run) else { continue };
            assert_eq!(found, texts, "{} {}", wanted.case, Value::from(run.settings.clone()));
            compared += 1;
        }
    }
    assert!(compared > 10, "{compared}");
}

/// On two ranks, which share the prompts unequally and have other numbers of passes; with whole and with sharded weights.
#[test]
fn texts_do_not_depend_on_ranks_and_sharding() {
    tch::set_num_threads(1);
    for wanted in all().iter().filter(|wanted| {
        ["cases/gpt2-causal", "cases/t5-tied-relu", "cases/bart-seq2seq"].contains(&wanted.case.as_str())
    }) {
        // Greedy, beams and draws.
        for run in [1, 5, 9].map(|i| &wanted.runs[i]) {
            for how in [0, 3].map(|zero| How { zero, tokens: 30, ..TOGETHER }) {
                let group = threads::group(2, Duration::from_secs(60));
                let texts: Vec<Vec<Text>> = thread::scope(|scope| {
                    let rank = |comm: Arc<dyn Collective>| move || wanted.texts(run, &wanted.indices(), how, &comm);
                    let ranks: Vec<_> = group.into_iter().map(|comm| scope.spawn(rank(comm))).collect();
                    ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
                });
                assert_eq!(texts[0], texts[1], "{}: the ranks agree", wanted.case);
                assert_eq!(ids(&texts[0]), run.texts, "{} at ZeRO {}", wanted.case, how.zero);
            }
        }
    }
}

/// In bf16 and fp16 too a text is what it is without neighbours, up to rounding: the first tokens' probabilities are near
/// those of fp32.
#[test]
fn half_models_generate() {
    tch::set_num_threads(1);
    for wanted in
        all().iter().filter(|wanted| ["cases/qwen3-causal", "cases/t5-gated-gelu"].contains(&wanted.case.as_str()))
    {
        let run = &wanted.runs[1];
        let texts = |kind: Kind| wanted.texts(run, &wanted.indices(), How { kind, ..TOGETHER }, &alone());
        let exact = texts(Kind::Float);
        for kind in [Kind::BFloat16, Kind::Half] {
            for (half, exact) in texts(kind).iter().zip(&exact) {
                let same = half.ids.iter().zip(&exact.ids).take_while(|(a, b)| a == b).count();
                let near = half.log_probs.iter().zip(&exact.log_probs).take(same).all(|(a, b)| (a - b).abs() < 0.2);
                assert!(same > 0 && near, "{} in {kind:?}: {half:?}, {exact:?}", wanted.case);
            }
        }
    }
}

/// BLEU and ROUGE-L of the same run on one rank, and on two with sharded weights; `evaluate` finds the same.
#[test]
fn an_evaluation_generates() {
    let bench = CaseBench::new("t5-tied-relu", CaseKind::Seq2Seq);
    let more = |zero: u8| {
        let own = ["task.predict_with_generate=true", "num_beams=2", "max_new_tokens=6", "learning_rate=2e-2"];
        let mut own: Vec<String> = own.map(String::from).to_vec();
        own.extend([format!("zero_stage={zero}"), "max_steps=60".into(), "eval_steps=30".into()]);
        own.push("report_texts=true".into());
        own
    };
    let metrics = |world: usize, zero: u8, out: &str| {
        let more = more(zero);
        bench.run(world, out, &more.iter().map(String::as_str).collect::<Vec<_>>(), &Resume::None).unwrap();
        let lines = bench.lines(out, "eval_bleu");
        assert_eq!(lines.len(), 2);
        [0, 1].map(|i| ["eval_bleu", "eval_rougeL"].map(|key| lines[i][key].as_f64().unwrap()))
    };
    let alone = metrics(1, 0, "alone");
    assert!(alone[1][1] > 0.0 && alone[1][1] <= 1.0 && alone[1][0] <= 100.0, "{alone:?}");
    assert_eq!(metrics(2, 3, "sharded"), alone);

    let args = ["evaluate", "--model", "alone/final", "--task", "seq2seq", "--data", "eval.jsonl", "--json"];
    let own = ["--predict-with-generate", "--num-beams", "2", "--max-new-tokens", "6", "--max-length", "24"];
    let ended = run(trainer(&bench).args(args).args(own)).expect(0);
    let found: Value = serde_json::from_str(ended.stdout.trim()).unwrap();
    assert_eq!(["eval_bleu", "eval_rougeL"].map(|key| found[key].as_f64().unwrap()), alone[1]);

    let args =
        ["predict", "--model", "alone/final", "--input", "eval.jsonl", "--output", "out.jsonl", "--max-length", "24"];
    run(trainer(&bench).args(args).args(&own[1..5])).expect(0);
    let lines = fs::read_to_string(bench.path("out.jsonl")).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let Table { head, rows } =
        table(&bench.path("alone"), "Generated texts with the lowest ROUGE-L at step 60").unwrap();
    assert_eq!(head, ["example", "label", "predicted", "rougeL", "text"]);
    assert_eq!((lines.len(), rows.len()), (9, 9));
    let scores: Vec<f64> = rows.iter().map(|row| row[3].parse().unwrap()).collect();
    assert!(scores.is_sorted() && (scores.iter().sum::<f64>() / 9.0 - alone[1][1]).abs() < 1e-4, "{scores:?}");
    for row in rows {
        assert_eq!(lines[row[0].parse::<usize>().unwrap() - 1]["text"], row[2].as_str(), "{row:?}");
    }
}

#[test]
fn predictions_are_texts() {
    let bench = CaseBench::new("gpt2-causal", CaseKind::CausalLm);
    let records = [
        json!({"text": "aa bg"}),
        json!({"prompt": "aa bg", "completion": "unread"}),
        json!({"messages": [{"role": "user", "content": "aa bg"}]}),
        json!({"text": "ch"}),
    ];
    let write = |records: &[Value]| {
        let lines: Vec<String> = records.iter().map(Value::to_string).collect();
        fs::write(bench.path("in.jsonl"), lines.join("\n")).unwrap();
    };
    let template = "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %} ch{% endif %}";
    fs::write(bench.model.join("chat_template.jinja"), template).unwrap();
    write(&records);
    let predict = |mut command: std::process::Command, options: &[&str]| -> Vec<Value> {
        let args = ["predict", "--model", "model", "--input", "in.jsonl", "--output", "out.jsonl", "--scores"];
        run(command.args(args).args(["--max-new-tokens", "7"]).args(options)).expect(0);
        let text = fs::read_to_string(bench.path("out.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let greedy = predict(trainer(&bench), &[]);
    assert_eq!(greedy.len(), 4);
    for line in &greedy {
        let (ids, log_probs) = (line["token_ids"].as_array().unwrap(), line["log_probs"].as_array().unwrap());
        assert!(!ids.is_empty() && ids.len() <= 7 && ids.len() == log_probs.len(), "{line}");
        assert!(log_probs.iter().all(|x| x.as_f64().unwrap() < 0.0), "{line}");
        assert!(!line["text"].as_str().unwrap().contains('<'), "{line}");
    }
    assert_eq!(greedy[1], greedy[2], "a prompt is what a user says");
    assert_ne!(greedy[0], greedy[1], "a text is continued as it stands");

    let drawn = |seed: &str| predict(trainer(&bench), &["--do-sample", "--temperature=2", "--seed", seed]);
    assert_eq!(drawn("1"), drawn("1"));
    assert_ne!(drawn("1"), drawn("2"));
    if mpi_is_here() {
        let texts = |lines: &[Value]| lines.iter().map(|line| line["token_ids"].clone()).collect::<Vec<Value>>();
        assert_eq!(texts(&predict(mpirun(2, &bench), &["--micro-batch-tokens", "1"])), texts(&greedy));
    }

    let refused = |options: &[&str], says: &str| {
        let args = ["predict", "--model", "model", "--input", "in.jsonl", "--output", "out.jsonl"];
        let ended = run(trainer(&bench).args(args).args(options)).expect(2);
        assert!(ended.stderr.contains(says), "{}", ended.stderr);
    };
    refused(&["--temperature", "0.5"], "temperature = 0.5: this has no effect without do_sample = true");
    refused(&["--num-beams", "31"], "num_beams = 31: too many for a vocabulary of 60");
    let long = "aa ".repeat(32);
    write(&[json!({"text": "aa"}), json!({"text": long})]);
    refused(&[], "in.jsonl:2: the prompt has 32 tokens, but prompt and answer have at most 32");
    write(&[json!({"text": ""})]);
    refused(&[], "in.jsonl:1: the prompt has no tokens");
}
