//! Settings of the training loop: its length, the optimizer, evaluation and checkpoints.

use serde::{Deserialize, Serialize};

use crate::config::arguments::Arguments;
use crate::config::choice::{IntervalStrategy, LrSchedulerType, OnNonFinite, Optim};
use crate::config::keys::{
    ABOVE_0_BELOW_1, ABOVE_0_TO_1, AT_LEAST_1, DefaultValue, Entries, FROM_0, FROM_0_BELOW_1, FROM_0_TO_1, Key,
    POSITIVE, STEPS, Section, parse, section,
};
use crate::config::mixed::{MicroBatchTokens, TimeLimit};
use crate::config::problems::Problems;
use crate::config::profile::ProfiledSteps;
use crate::config::report_to::ReportTo;
use crate::config::sections::tables::{GroupConfig, Unfreeze};
use crate::config::value::Value;

section! {
    /// `[train]`: length of the training, optimizer, evaluation and checkpoints.
    TrainConfig in "train" {
        /// Passes over the training data. Fractions are allowed.
        num_train_epochs: f64 = 3.0, POSITIVE;
        /// Number of optimizer steps. Overrides `num_train_epochs`.
        max_steps: Option<u64> => "determined by `num_train_epochs`", AT_LEAST_1;
        /// Time limit. `"90m"`, `"12h"`, `"1-06:00:00"`, or seconds, counted from the start of the process: the run then
        /// stops before the next step, with a checkpoint and exit code 3, as on a signal. `--resume auto` continues it.
        max_time: Option<TimeLimit> => "none";
        /// Sequences per optimizer step, over all ranks. Results do not depend on the number of ranks.
        global_batch_size: usize = 8, AT_LEAST_1;
        /// Tokens per micro-batch on each rank. A rank accumulates gradients over several micro-batches if its part of
        /// the batch is larger, with the same result and less memory. `"auto"`: 4096 on a CPU; on a GPU as many as fit
        /// into its memory ([how it is chosen](large-models.md#micro-batch-size)). The header of a run shows the
        /// number.
        micro_batch_tokens: MicroBatchTokens = MicroBatchTokens::Auto;
        /// Peak learning rate of the schedule.
        learning_rate: f64 = 5e-5, POSITIVE;
        /// Learning rate schedule after warm-up. `linear`: linear decay to 0; `cosine`: decay to 0 along half a cosine;
        /// `constant_with_warmup`: constant; `constant`: constant from the first step. [All schedules and their
        /// arguments](fine-tuning.md#learning-rate-schedules). Warm-up with a schedule that has none is an error.
        lr_scheduler_type: LrSchedulerType = LrSchedulerType::Linear;
        /// Arguments of the schedule. Hugging Face's names in an inline table, such as `{ num_cycles = 2 }`; JSON on the
        /// command line also works ([which schedule has which](fine-tuning.md#learning-rate-schedules)).
        lr_scheduler_kwargs: Arguments = Arguments::default();
        /// Linear warm-up from 0, as a fraction of all steps.
        warmup_ratio: f64 = 0.0, FROM_0_TO_1;
        /// Linear warm-up in steps. Below 1, a fraction of all steps. Overrides `warmup_ratio` if greater than 0.
        warmup_steps: f64 = 0.0, STEPS;
        /// Layer-wise learning rate decay. Of a model with L layers, layer i (counted from 0) has the learning rate
        /// times `layer_lr_decay` to the power L - i, the embeddings to the power L + 1, and what is above the last
        /// layer the full rate ([more](fine-tuning.md#learning-rates-per-layer-and-group)).
        layer_lr_decay: f64 = 1.0, ABOVE_0_TO_1;
        /// Weights with their own learning rate or decay. Tables `[[train.groups]]`, with the [keys
        /// below](#traingroups) ([more](fine-tuning.md#learning-rates-per-layer-and-group)).
        groups: Vec<GroupConfig> = Vec::new();
        /// Gradual unfreezing: when weights are first trained. `"epoch"`: in the first epoch only what is above the
        /// last layer, then one more layer in each epoch from the top, the embeddings last; a number N: the same every
        /// N steps; or tables `[[train.unfreeze]]`, with the [keys below](#trainunfreeze)
        /// ([more](fine-tuning.md#gradual-unfreezing)).
        unfreeze: Option<Unfreeze> => "all from the first step";
        /// Optimizer. Hugging Face's names of the same optimizers (`adamw_torch`, `adamw_torch_fused`, `lion_32bit`, ...)
        /// are accepted ([which to choose, and what they cost](fine-tuning.md#optimizers)).
        optim: Optim = Optim::AdamW;
        /// Arguments of the optimizer, with torch's names. An inline table, such as `{ momentum = 0.9 }`; the text
        /// `momentum=0.9`, as in Hugging Face, also works ([which optimizer has which](fine-tuning.md#optimizers)).
        optim_args: Arguments = Arguments::default();
        /// Weight decay. Decoupled from the gradient with `adamw`, `adafactor`, `lion` and `muon`; added to the gradient
        /// with `adam`, `sgd`, `adagrad` and `rmsprop`, as in torch. Not applied to biases and norms.
        weight_decay: f64 = 0.0, FROM_0;
        /// L1 penalty. Its product with the sign of the weights is added to their gradient after clipping. Not applied
        /// to biases and norms, and not part of the reported loss ([more](fine-tuning.md#weight-decay-and-penalties)).
        l1: f64 = 0.0, FROM_0;
        /// L2 penalty. Its product with the weights is added to their gradient after clipping, with any optimizer. Not
        /// applied to biases and norms, and not part of the reported loss.
        l2: f64 = 0.0, FROM_0;
        /// Decay rate of a moving average of the weights. After each update the average becomes its product with the rate
        /// plus the rest of the weights: an exponential moving average. Evaluations and the final model use the average; checkpoints have
        /// both ([more](fine-tuning.md#moving-average-of-the-weights)).
        ema_decay: Option<f64> => "no average", ABOVE_0_BELOW_1;
        /// Decay rate of the mean of gradients. With `adamw`, `adam`, `lion` and `muon`.
        adam_beta1: f64 = 0.9, FROM_0_BELOW_1;
        /// Decay rate of the mean of squared gradients. With `adamw`, `adam` and `muon`; with `lion` of the momentum.
        adam_beta2: f64 = 0.999, FROM_0_BELOW_1;
        /// Epsilon, added to the denominator. With `adamw`, `adam` and `muon`.
        adam_epsilon: f64 = 1e-8, POSITIVE;
        /// Maximum global norm of gradients, for clipping. 0 disables clipping.
        max_grad_norm: f64 = 1.0, FROM_0;
        /// Label smoothing. This part of each target's probability is spread evenly over all classes, or over the
        /// vocabulary. Training only: evaluations report the plain loss ([more](fine-tuning.md#losses)).
        label_smoothing_factor: f64 = 0.0, FROM_0_BELOW_1;
        /// Scale of NEFTune's noise on embeddings. Usually 5 to 15; training only ([more](fine-tuning.md#neftune)).
        neftune_noise_alpha: Option<f64> => "no noise", POSITIVE;
        /// What to do after a NaN or Inf loss or norm. `stop` ends the run with exit code 4 and reports the
        /// step, the rank, the first tensor with NaN or Inf, and the samples; `skip` leaves weights and optimizer
        /// state as they are, counts the step, and continues ([more](large-models.md#nan-or-inf-losses)).
        on_non_finite: OnNonFinite = OnNonFinite::Stop;
        /// Steps between two lines of metrics.
        logging_steps: u64 = 500, AT_LEAST_1;
        /// Whether the first step has a line of metrics too.
        logging_first_step: bool = false;
        /// Where metrics go besides `metrics.jsonl`. `["tensorboard"]` writes an event file to `output_dir/tensorboard`,
        /// with the tags of Hugging Face's Trainer ([more](watching.md#tensorboard)).
        report_to: ReportTo = ReportTo::default();
        /// Whether to write `report.html`. A page in `output_dir` with curves, the configuration, the worst examples and
        /// for classification a confusion matrix, written at each evaluation and at the end
        /// ([more](watching.md#reporthtml)).
        report: bool = true;
        /// Whether the report quotes texts of the data. The worst examples of the evaluation then have their texts,
        /// entities, answers and references; with `chat` and `causal-lm` each evaluation also generates texts for ten
        /// examples. Off by default, since reports are shared more often than data ([more](watching.md#reporthtml)).
        report_texts: bool = false;
        /// Steps to profile. `"10..12"`: from step 10 to step 12, or a number of final steps. On each rank libtorch's
        /// profiler writes `trace-rankN.json` to `output_dir`: every operation and GPU kernel, and ranges named after the
        /// step, each block's forward and backward, the waits for collectives, and the optimizer
        /// ([more](gpu.md#profiling)).
        profile: Option<ProfiledSteps> => "none";
        /// When to evaluate. `steps` by default if `eval_steps` is set. With `data.eval`, an evaluation always follows
        /// the last step.
        eval_strategy: IntervalStrategy = IntervalStrategy::No;
        /// Steps between two evaluations.
        eval_steps: Option<u64> => "`logging_steps`, if `eval_strategy` is `steps`", AT_LEAST_1;
        /// Evaluates once before the first step. This evaluation is reported, but it is never the best one.
        eval_on_start: bool = false;
        /// When to write checkpoints.
        save_strategy: IntervalStrategy = IntervalStrategy::Steps;
        /// Steps between two checkpoints.
        save_steps: u64 = 500, AT_LEAST_1;
        /// Number of checkpoints to keep. The latest are kept, and the best with `load_best_model_at_end`.
        save_total_limit: Option<usize> => "all", AT_LEAST_1;
        /// Makes the best checkpoint the final model. Otherwise the final model is that of the last step. Needs
        /// `data.eval` and evaluations. Every evaluation that is the best so far is followed by a checkpoint, whatever
        /// `save_strategy` is.
        load_best_model_at_end: bool = false;
        /// Metric that ranks checkpoints. `loss`; for sequence classification `accuracy`, `f1` (macro), `micro_f1`,
        /// `matthews_correlation`, and with two labels `binary_f1`, `roc_auc`, `average_precision`
        /// ([more](#sequence-classification)); for multi-label `accuracy`, `f1` (macro), `micro_f1`; for token
        /// classification `f1`, `precision`, `recall`, `accuracy`; for multiple choice `accuracy`; for regression
        /// `pearson`, `spearmanr`, `mse`; for question answering `exact_match`, `f1`, and with SQuAD 2.0's rules
        /// `HasAns_exact`, `HasAns_f1`, `NoAns_exact`, `NoAns_f1`; for language models `perplexity`; for `masked-lm`
        /// also `masked_accuracy` and, with `next_sentence`, `sentence_accuracy`; with `predict_with_generate` also
        /// `bleu` and `rougeL`; for `embedding` `pearson`, `spearmanr`, or `accuracy@1`, `recall@1`, `recall@5`,
        /// `recall@10`, `mrr@10`, `ndcg@10`. The prefix `eval_` is optional. `NAME_METRIC` is that of a set of `data.eval_sets`.
        metric_for_best_model: String = "loss".into();
        /// Whether a greater metric is better. Default: `false` for `mse`, `perplexity`, and names that end with
        /// `loss`; `true` for all others.
        greater_is_better: Option<bool> => "determined by the metric";
        /// Evaluations without improvement before stopping. Training then ends, with a checkpoint and the final model.
        /// The metric is `metric_for_best_model`; needs `data.eval` and evaluations. The learning rate schedule is still
        /// that of all steps.
        early_stopping_patience: Option<u64> => "never", AT_LEAST_1;
        /// Least improvement that counts. An evaluation counts as an improvement if the metric is better than the best
        /// so far by more than this.
        early_stopping_threshold: f64 = 0.0, FROM_0;
    }
}

impl TrainConfig {
    /// Returns whether a greater value of `metric_for_best_model` is better: as set, otherwise true unless the name is
    /// that of a loss (Hugging Face's rule) or of an error (`mse`, `perplexity`).
    pub fn is_greater_better(&self) -> bool {
        let metric = self.metric_for_best_model.as_str();
        // Names of evaluation sets precede the metric's.
        let lower_is_better = ["loss", "mse", "perplexity"].iter().any(|error| metric.ends_with(error));
        self.greater_is_better.unwrap_or(!lower_is_better)
    }
}
