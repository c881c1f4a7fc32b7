//! Loading: each rank reads what it keeps, and nothing else.

mod common;

use common::mistakes::copy_folder;
use common::models::spoilt;
use common::reference::folder;
use common::runs::Bench;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tch::{Device, Kind, Tensor};
use trainer::checkpoint::export;
use trainer::checkpoint::optimizer::MASTERS;
use trainer::checkpoint::run_dir::Resume;
use trainer::checkpoint::tensor_writer::{Entry, Writer};
use trainer::checkpoint::tensors::TensorFile;
use trainer::comm::{Collective, threads};
use trainer::config::Config;
use trainer::ffi::memory;
use trainer::models::family::DropoutOverrides;
use trainer::models::registry;
use trainer::nn::ParamId;
use trainer::observe::signals::StopFlag;
use trainer::parallel::Zero;
use trainer::tasks::Head;
use trainer::train::model_loading::{Declared, LoadOptions, Loaded, Source};
use trainer::train::{Start, Trainer};

/// The counters are per process, so the tests run one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    memory::install();
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Loads a folder's model on one of the ranks, which needs no other.
fn load(folder: &Path, comm: &Arc<dyn Collective>, kind: Kind, zero: Zero, from: Source) -> Loaded {
    let json = registry::read_config(folder).unwrap();
    let head = Head::of_config(folder, &json).unwrap();
    let declared = Declared::read(folder, json, DropoutOverrides::default(), head.role()).unwrap();
    let how = LoadOptions { kind, zero, trains: true.into(), seed: 7, from };
    declared.with_head(&head).load(comm, &how).unwrap()
}

/// A parameter's whole values: the tensors of the file, read whole and converted.
fn whole(loaded: &Loaded, file: &TensorFile, id: ParamId) -> Tensor {
    let spec = loaded.params.spec(id);
    let param = loaded.names.of(&spec.name);
    let pieces = param.pieces(&spec.shape);
    let read = |(name, piece): (String, &Vec<i64>)| param.form.to_native(&file.read(&name).unwrap(), piece);
    let tensors: Vec<Tensor> = loaded.names.exported(param).into_iter().zip(&pieces).map(read).collect();
    Tensor::cat(&tensors, 0).to_kind(Kind::Float)
}

/// Asserts that a rank keeps the bits of `values` (of each parameter, f32), rounded where weights are.
fn assert_keeps(loaded: &Loaded, values: impl Fn(ParamId) -> Tensor, what: &str) {
    let Loaded { params, weights, .. } = loaded;
    for (unit, spec) in params.layout().units().iter().enumerate() {
        let all = Tensor::zeros([params.layout().padded(unit)], (Kind::Float, Device::Cpu));
        for (id, mut part) in params.members(unit, &all) {
            part.copy_(&values(id));
        }
        let targets = weights.targets(params, unit);
        let masters = usize::from(params.kind() != Kind::Float && spec.is_trained());
        assert_eq!(targets.len(), 1 + masters, "{what}");
        for (range, kept) in targets {
            let expected = all.narrow(0, range.start, range.end - range.start).to_kind(kept.kind());
            assert!(kept == expected, "{what}: unit {unit}, elements {range:?} in {:?}", kept.kind());
        }
    }
}

/// World sizes, ZeRO stages and dtypes.
fn splits() -> impl Iterator<Item = (usize, Zero, Kind)> {
    let kinds = [Kind::Float, Kind::BFloat16];
    let stages = [1, 2, 4].into_iter().flat_map(|world| Zero::ALL.map(|zero| (world, zero)));
    stages.flat_map(move |(world, zero)| kinds.map(|kind| (world, zero, kind)))
}

/// Fused and transposed, fused, of another shape, tied: what each rank has is its part of the whole tensors.
#[test]
fn each_rank_has_its_part_of_the_file() {
    let _turn = alone();
    for case in ["gpt2-classes", "llama-causal", "t5-tied-relu", "bert-masked", "xlnet-classes"] {
        let folder = folder(&format!("cases/{case}"));
        let file = TensorFile::open(&folder.join("model.safetensors")).unwrap();
        for (world, zero, kind) in splits() {
            let ranks = threads::group(world, Duration::from_secs(10));
            let loaded: Vec<Loaded> =
                ranks.iter().map(|comm| load(&folder, comm, kind, zero, Source::Folder)).collect();
            for (rank, loaded) in loaded.iter().enumerate() {
                let what = format!("{case}, world {world}, ZeRO {}, rank {rank}, {kind:?}", zero.stage());
                assert_keeps(loaded, |id| whole(loaded, &file, id), &what);
            }
            assert!(loaded.iter().all(|rank| rank.sums == loaded[0].sums), "{case}: all have read the same");
        }
    }
}

/// A checkpoint's masters come before its rounded weights.
#[test]
fn masters_take_precedence() {
    let _turn = alone();
    let dir = tempfile::tempdir().unwrap();
    copy_folder(&folder("cases/gpt2-classes"), dir.path());
    let solo = &threads::group(1, Duration::from_secs(10))[0];
    let before = load(dir.path(), solo, Kind::Float, Zero::ALL[0], Source::Folder);
    let master = |id: ParamId| before.params.view(id).detach() * 1.001 + 1e-5;
    let ids: Vec<ParamId> = before.params.ids().filter(|&id| before.params.spec(id).trainable).collect();
    let name = |id: ParamId| before.params.spec(id).name.clone();
    let entry = |&id: &ParamId| Entry { name: name(id), shape: master(id).size(), kind: Kind::Float };
    fs::create_dir(dir.path().join("optimizer")).unwrap();
    let mut file = Writer::create(&dir.path().join(MASTERS), ids.iter().map(entry).collect()).unwrap();
    ids.iter().for_each(|&id| file.write(&name(id), &master(id)).unwrap());
    file.finish().unwrap();
    for (world, zero, kind) in splits() {
        for (rank, comm) in threads::group(world, Duration::from_secs(10)).iter().enumerate() {
            let loaded = load(dir.path(), comm, kind, zero, Source::Checkpoint);
            let what = format!("world {world}, ZeRO {}, rank {rank}, {kind:?}", zero.stage());
            assert_keeps(&loaded, master, &what);
        }
    }
}

/// A folder of the Llama class with newly initialized weights of 3 MB.
fn larger(dir: &Path) {
    let original = folder("cases/llama-causal");
    copy_folder(&original, dir);
    let mut config: Value = serde_json::from_str(&fs::read_to_string(original.join("config.json")).unwrap()).unwrap();
    for (key, value) in [("hidden_size", 128), ("intermediate_size", 256), ("num_hidden_layers", 4)] {
        config[key] = value.into();
    }
    config.as_object_mut().unwrap().remove("head_dim");
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let solo = &threads::group(1, Duration::from_secs(10))[0];
    let Loaded { params, names, .. } = &load(dir, solo, Kind::Float, Zero::ALL[0], Source::Random);
    let mut file = Writer::create(&dir.join("model.safetensors"), export::entries(params, names)).unwrap();
    for unit in 0..params.layout().units().len() {
        let parts = export::parts(params, names, unit, params.flat(unit));
        parts.iter().for_each(|(name, tensor)| file.write(name, tensor).unwrap());
    }
    file.finish().unwrap();
}

/// While a rank loads, its tensors take what it keeps afterwards. At ZeRO 3 one whole unit is allocated, before the
/// shards are; a newly initialized parameter exists whole while it is copied.
#[test]
fn loading_takes_no_more_memory_than_the_weights() {
    let _turn = alone();
    let dir = tempfile::tempdir().unwrap();
    larger(dir.path());
    // Scalars and the like.
    const SLACK: u64 = 4096;
    for (world, zero, kind) in splits() {
        for from in [Source::Folder, Source::Random] {
            let ranks = threads::group(world, Duration::from_secs(10));
            let before = memory::usage().current.iter().sum::<u64>();
            memory::reset_peaks();
            let loaded = load(dir.path(), ranks.last().unwrap(), kind, zero, from);
            let peak = memory::usage().total_peak - before;
            let held = memory::usage().current.iter().sum::<u64>() - before;
            let Loaded { params, weights, .. } = &loaded;
            let (kept, masters) = weights.bytes(params);
            assert!((kept + masters..kept + masters + SLACK).contains(&held), "{held} for {kept} + {masters}");
            let units = 0..params.layout().units().len();
            let unit = units.map(|unit| params.layout().padded(unit) as u64).max().unwrap();
            let parameter = params.ids().map(|id| params.spec(id).numel() as u64).max().unwrap();
            let whole = if zero.shards_weights() { unit * kind.elt_size_in_bytes() as u64 } else { 0 };
            let new = if from == Source::Random { 4 * parameter } else { 0 };
            let most = (held + new).max(whole) + SLACK;
            let what = format!("world {world}, ZeRO {}, {kind:?}, {from:?}", zero.stage());
            assert!(peak <= most, "{what}: the peak is {peak}, {held} are kept, {most} expected");
            if zero.shards_weights() && world == 4 && from == Source::Folder {
                assert!(peak < 4 * params.numel() as u64 * 2 / 3, "{what}: {peak} is not a part of the model");
            }
        }
    }
}

/// Of each linear layer's weight a byte per element is kept, with a scale and a sum for each output, in full panels of
/// outputs; everything else as in fp32.
#[test]
fn int8_weights_replace_those_of_fp32() {
    let _turn = alone();
    let dir = tempfile::tempdir().unwrap();
    larger(dir.path());
    let solo = &threads::group(1, Duration::from_secs(10))[0];
    let (kind, zero, trains) = (Kind::Float, Zero::ALL[0], false.into());
    let how = LoadOptions { kind, zero, trains, seed: 7, from: Source::Folder };
    let weights = || memory::usage().current[memory::Use::Weights as usize];
    let before = weights();
    let json = registry::read_config(dir.path()).unwrap();
    let head = Head::of_config(dir.path(), &json).unwrap();
    let declared = Declared::read(dir.path(), json, DropoutOverrides::default(), head.role()).unwrap();
    let loaded = declared.with_head(&head).with_int8().load(solo, &how).unwrap();
    let held = weights() - before;
    let params = &loaded.params;
    let (mut fp32, mut int8) = (0, 0);
    for spec in params.ids().map(|id| params.spec(id)) {
        let numel = spec.numel() as u64;
        if spec.int8 {
            int8 += numel + 8 * spec.shape[0] as u64;
        } else {
            fp32 += 4 * numel;
        }
    }
    assert!(int8 > fp32, "most of the model: {int8}, {fp32}");
    // Widths are multiples of 64 here; units are padded.
    assert!((fp32 + int8..fp32 + int8 + 8192).contains(&held), "{held} for {fp32} and {int8}");
}

/// Hosts that have other weights under the same name must not train together.
#[test]
fn ranks_that_read_different_weights_are_refused() {
    let _turn = alone();
    let bench = Bench::new("bert-classification");
    let other = spoilt(&bench, "bert.encoder.layer.1.attention.self.key.weight", 5, 0.25);
    for zero in [0, 3] {
        let stage = format!("parallel.zero_stage={zero}");
        let config = |more: &[&str]| Config::load(None, &bench.settings("run", more)).unwrap();
        let path = format!("model.path={}", other.display());
        let configs = [config(&[&stage]), config(&[&stage, &path])];
        let start = |(config, comm): (Config, Arc<dyn Collective>)| {
            std::thread::spawn(move || {
                let (resume, stop) = (Resume::None, StopFlag::new());
                let start = Start { resume, allow_new_data_order: false, began: Instant::now(), stop };
                Trainer::open(config, comm, start).err().expect("an error").to_string()
            })
        };
        let ranks: Vec<_> = configs.into_iter().zip(threads::group(2, Duration::from_secs(60))).map(start).collect();
        for rank in ranks {
            let message = rank.join().unwrap();
            assert!(message.contains(": not the same as on rank 0: the weights of the layer 1"), "{message}");
        }
    }
}
