//! The optimizer of a configuration, and the tensors that it sees.

use crate::checkpoint::state::OptimizerRecord;
use crate::config::{self, Config};
use crate::models::hf_names::HfNames;
use crate::nn::Params;
use crate::nn::param_builder::ParamSpec;
use crate::optim::adagrad::AdagradConfig;
use crate::optim::adamw::AdamConfig;
use crate::optim::lion::LionConfig;
use crate::optim::muon::{AdjustLr, MuonConfig};
use crate::optim::rmsprop::RmsPropConfig;
use crate::optim::sgd::SgdConfig;
use crate::optim::{Piece, Rule};
use crate::plan::memory::OptimizerBytes;

/// Returns the optimizer of a configuration; defaults are those of torch.
pub fn rule(config: &Config) -> Rule {
    let (train, args) = (&config.train, &config.train.optim_args);
    let adam = AdamConfig { beta1: train.adam_beta1, beta2: train.adam_beta2, epsilon: train.adam_epsilon };
    let number = |name: &str, default: f64| args.number(name).unwrap_or(default);
    let flag = |name: &str, default: bool| args.flag(name).unwrap_or(default);
    match train.optim {
        config::Optim::AdamW => Rule::AdamW(adam),
        config::Optim::Adam => Rule::Adam(adam),
        config::Optim::Sgd => {
            Rule::Sgd(SgdConfig { momentum: number("momentum", 0.0), nesterov: flag("nesterov", false) })
        }
        config::Optim::Adagrad => {
            Rule::Adagrad(AdagradConfig { lr_decay: number("lr_decay", 0.0), epsilon: number("eps", 1e-10) })
        }
        config::Optim::RmsProp => Rule::RmsProp(RmsPropConfig {
            alpha: number("alpha", 0.99),
            epsilon: number("eps", 1e-8),
            momentum: number("momentum", 0.0),
            centered: flag("centered", false),
        }),
        config::Optim::Lion => Rule::Lion(LionConfig { beta1: adam.beta1, beta2: adam.beta2 }),
        config::Optim::Adafactor => Rule::Adafactor,
        config::Optim::Muon => {
            let adjust = match args.word("adjust_lr_fn") {
                Some("match_rms_adamw") => AdjustLr::MatchRmsAdamW,
                _ => AdjustLr::Original,
            };
            let (momentum, ns_steps) = (number("momentum", 0.95), args.count("ns_steps").unwrap_or(5));
            Rule::Muon(MuonConfig { momentum, nesterov: flag("nesterov", true), ns_steps, adjust }, adam)
        }
    }
}

/// Returns the bytes that the optimizer needs, to plan memory.
pub fn bytes(config: &Config) -> OptimizerBytes {
    let rule = rule(config);
    let [element, hidden] = rule.bytes_of_element();
    let has_penalty = config.train.l1 > 0.0 || config.train.l2 > 0.0;
    let temporary = match rule {
        Rule::AdamW(_) if !has_penalty => [0.0; 3],
        // The gradient in fp32, its squares and the factors of the largest tensor.
        Rule::Adafactor => [4.0, 16.0, 0.0],
        // The gradient and the momentum of a piece; what is gathered in bf16, and some matrices of that.
        Rule::Muon(..) => [8.0, 10.0, 2.0],
        _ => [12.0, 0.0, 0.0],
    };
    let average = if config.train.ema_decay.is_some() { 4.0 } else { 0.0 };
    OptimizerBytes { element: element + average, hidden: hidden + average, temporary }
}

/// Returns what a checkpoint records of an optimizer.
pub fn record(rule: &Rule) -> OptimizerRecord {
    let states = rule.states().into_iter().map(str::to_owned).collect();
    OptimizerRecord { name: rule.name().to_owned(), states }
}

/// Returns the Hugging Face tensors of a unit, in their order there.
pub fn pieces(params: &Params, names: &HfNames, unit: usize) -> Vec<Piece> {
    let blocks = params.layout().blocks();
    let one = |(member, &id)| {
        let spec = params.spec(id);
        let shapes = names.of(&spec.name).pieces(&spec.shape);
        divided(member, spec, &shapes, params.layout().place(id).1.start, blocks)
    };
    params.layout().units()[unit].members.iter().enumerate().flat_map(one).collect()
}

/// Returns the Hugging Face tensors of all trained parameters, each parameter by itself, to count their state.
pub fn all_pieces(specs: &[ParamSpec], names: &HfNames) -> Vec<Piece> {
    let blocks = specs.iter().map(|spec| spec.block + 1).max().unwrap_or(0);
    let trained = specs.iter().enumerate().filter(|(_, spec)| spec.trainable);
    trained
        .flat_map(|(member, spec)| divided(member, spec, &names.of(&spec.name).pieces(&spec.shape), 0, blocks))
        .collect()
}

/// Divides a parameter from element `start` into tensors of these shapes. The first block has the embeddings, the last
/// one the head.
fn divided(member: usize, spec: &ParamSpec, shapes: &[Vec<i64>], start: i64, blocks: usize) -> Vec<Piece> {
    let between = spec.block > 0 && spec.block + 1 < blocks;
    let is_head = spec.newly_initialized && !spec.adapter;
    let is_hidden = between && spec.decay && !spec.row_sparse && !is_head && spec.shape.len() == 2;
    let mut end = start;
    let piece = |shape: &Vec<i64>| {
        let begin = end;
        end += shape.iter().product::<i64>();
        let matrix = match shape.as_slice() {
            [] | [_] => None,
            [rows @ .., columns] => Some([rows.iter().product(), *columns]),
        };
        Piece { member, range: begin..end, matrix, hidden: is_hidden }
    };
    shapes.iter().map(piece).collect()
}
