//! Optimizer state in host memory (`parallel.offload = "optimizer"`). On a CPU the host is the device: nothing moves, the
//! copies are counted, and the losses are the same bits. With masters apart from the weights, as on a GPU, copies are
//! really made, here from host to host.

mod common;

use common::runs::Bench;
use std::sync::Arc;
use std::time::Duration;
use tch::{Device, Kind, Tensor};
use trainer::checkpoint::run_dir::Resume;
use trainer::comm::{Collective, threads};
use trainer::nn::{Init, ParamBuilder, Params};
use trainer::optim::adamw::AdamConfig;
use trainer::optim::{Optimizer, Part, Rule, UnitShape};
use trainer::parallel::{Gradients, Masters, Offload, Rows, Weights, Zero};
use trainer::plan::memory::{OptimizerBytes, Setup, Types};

const OFFLOAD: &str = "parallel.offload=optimizer";

fn model(bench: &Bench, out: &str) -> Vec<u8> {
    std::fs::read(bench.path(out).join("final/model.safetensors")).unwrap()
}

/// Dropout on: every stage and precision takes the same steps, and a checkpoint is taken up with and without.
#[test]
fn offload_changes_no_bit_and_no_checkpoint() {
    let bench = Bench::new("bert-classification");
    for (world, zero, precision) in [(1, 0, "fp32"), (2, 0, "bf16"), (2, 1, "fp32"), (2, 2, "bf16"), (2, 3, "fp32")] {
        let (stage, kind) = (format!("parallel.zero_stage={zero}"), format!("parallel.precision={precision}"));
        let plain = ["hidden_dropout_prob=0.1", "micro_batch_tokens=60", "max_steps=8", "save_steps=4", &stage, &kind];
        let offloaded = [&plain[..], &[OFFLOAD]].concat();
        let name = |what: &str| format!("{what}-{world}-{zero}-{precision}");
        let runs = [("plain", &plain[..], None), ("off", &offloaded, None)];
        let resumed = [("onto-plain", &plain[..], Some("off")), ("onto-off", &offloaded, Some("plain"))];
        for (out, settings, from) in runs.into_iter().chain(resumed) {
            let from = from.map(|from| bench.path(&name(from)).join("checkpoint-4"));
            bench.run(world, &name(out), settings, &from.map_or(Resume::None, Resume::Path)).unwrap();
            assert_eq!(bench.steps(&name(out)), bench.steps(&name("plain")), "{}", name(out));
            assert!(model(&bench, &name(out)) == model(&bench, &name("plain")), "{}: the final model", name(out));
        }
        // One download for the losses, and one of each for every trained unit.
        let copies = |out: &str, key: &str| bench.lines(&name(out), key).pop().unwrap()[key].as_u64().unwrap();
        let units = copies("off", "device_to_host_copies") - copies("plain", "device_to_host_copies");
        assert_eq!(copies("plain", "device_to_host_copies"), 1);
        assert_eq!(
            copies("off", "host_to_device_copies") - copies("plain", "host_to_device_copies"),
            units,
            "{}",
            name("off")
        );
        assert!(units >= 4, "{units} units");
    }
}

/// Three dense units, one of them with weights that are not decayed.
fn params(world: usize, kind: Kind, zero: Zero) -> Params {
    let mut b = ParamBuilder::new();
    for block in 0..3 {
        b.block(block, |b| {
            b.weight(&format!("w{block}"), &[7 + block as i64, 33], Init::Zeros);
            b.vector(&format!("b{block}"), 5, Init::Zeros)
        });
    }
    Params::new(b.finish(), world, kind, Device::Cpu, zero.shards_weights()).unwrap()
}

/// Four steps with made-up gradients; all weights afterwards, and the bytes of optimizer state and copies.
fn updated(comm: Arc<dyn Collective>, zero: Zero, kind: Kind, masters: Masters) -> (Vec<f32>, u64) {
    let params = params(comm.world(), kind, zero);
    let mut weights = Weights::new(&params, Arc::clone(&comm), zero, masters).unwrap();
    let layout = params.layout();
    for unit in 0..layout.units().len() {
        let values = Tensor::arange(layout.padded(unit), (Kind::Float, Device::Cpu)).sin();
        weights.set(&params, unit, &values).unwrap();
    }
    let rule = Rule::AdamW(AdamConfig { beta1: 0.9, beta2: 0.99, epsilon: 1e-6 });
    let shapes = layout.units().iter().enumerate().map(|(index, unit)| {
        let owned = weights.owned(unit);
        weights.master(index).map(|weights| UnitShape { weights, owned, pieces: Vec::new() })
    });
    let mut adamw = Optimizer::new(rule, shapes).unwrap();
    let mut gradients = Gradients::new(&params, Arc::clone(&comm), zero, Kind::Float).unwrap();
    let mut offload = match masters {
        Masters::Host => {
            let owned = layout.units().iter().map(|unit| weights.owned(unit).end - weights.owned(unit).start);
            Offload::new(owned.max().unwrap(), Kind::Float, kind, Device::Cpu).unwrap()
        }
        _ => Offload::in_place(),
    };
    for step in 0..4 {
        gradients.begin(&params, Rows::new(Vec::new())).unwrap();
        for block in (0..3).rev() {
            weights.fetch(&params, block, true).unwrap();
            weights.ready(&params, block).unwrap();
            gradients.before(&params, block).unwrap();
            for id in params.ids().filter(|&id| params.spec(id).block == block) {
                let n = params.view(id).numel() as i64;
                let made = (Tensor::arange(n, (Kind::Float, Device::Cpu)) * (step + 1) + comm.rank() as i64).cos();
                let made = made.view(params.view(id).size().as_slice()).to_kind(kind);
                _ = params.view(id).grad().f_add_(&made).unwrap();
            }
            gradients.after(&params, block, "a block", true).unwrap();
            weights.release(&params, block).unwrap();
        }
        gradients.finish(&params).unwrap();
        adamw.begin_step();
        offload.fetch(&gradients.owned(0, &layout.units()[0]).unwrap()).unwrap();
        for (index, unit) in layout.units().iter().enumerate() {
            let brought = offload.gradient().unwrap();
            if let Some(next) = layout.units().get(index + 1) {
                offload.fetch(&gradients.owned(index + 1, next).unwrap()).unwrap();
            }
            let weight_decay = unit.groups[0].hyper.weight_decay(0.1);
            let (range, learning_rate) = (0..layout.padded(index), 0.01);
            let part = Part { range, learning_rate, weight_decay, l1: 0.0, l2: 0.0, began: 0 };
            let alone = |own: &Tensor| Ok(own.shallow_clone());
            adamw.update(index, (weights.master(index).unwrap(), &brought), &[part], 2.0, &alone).unwrap();
            weights.publish_from_host(&params, index, "an update", &mut offload).unwrap();
        }
        weights.settle().unwrap();
    }
    let whole = |unit| weights.whole(&params, unit).unwrap().to_kind(Kind::Float);
    let all = Tensor::cat(&(0..layout.units().len()).map(whole).collect::<Vec<_>>(), 0);
    let bytes = adamw.bytes() + weights.bytes(&params).1 + offload.bytes();
    let types = Types { compute: kind, reduce: Kind::Float };
    let setup = Setup {
        types,
        zero,
        cpu: false,
        keeps: vec![true; 3],
        saves: false,
        noise: false,
        frozen_vocabulary: false,
        offloads: true,
        optimizer: OptimizerBytes::ADAMW,
    };
    if masters == Masters::Host {
        assert_eq!(bytes as f64, setup.host(layout), "host memory as planned, ZeRO {}", zero.stage());
    }
    (Vec::try_from(&all).unwrap(), bytes)
}

/// Copies to and from memory of its own, one unit ahead, lead to the same weights bit for bit.
#[test]
fn copies_change_no_bit() {
    for kind in [Kind::Float, Kind::BFloat16] {
        for zero in Zero::ALL {
            let run = |masters: Masters| {
                let ranks = threads::group(2, Duration::from_secs(60)).into_iter();
                let ranks: Vec<_> = ranks
                    .map(|comm| {
                        std::thread::spawn(move || {
                            let result = updated(Arc::clone(&comm), zero, kind, masters);
                            comm.barrier("the end").unwrap();
                            result
                        })
                    })
                    .collect();
                ranks.into_iter().map(|rank| rank.join().unwrap()).collect::<Vec<_>>()
            };
            let (in_place, apart) = (run(Masters::Device), run(Masters::Host));
            assert!(in_place[0].0.iter().any(|w| *w != 0.0));
            for (a, b) in in_place.iter().zip(&apart) {
                assert!(a.0 == b.0, "{kind:?}, ZeRO {}", zero.stage());
                assert!(a.1 < b.1, "buffers and, in fp32, masters of their own");
            }
        }
    }
}
