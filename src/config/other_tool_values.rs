//! Values of settings in other tools: tasks and types of Hugging Face's pipelines, PEFT and torch, schedules and
//! optimizers of `transformers`, stages of FSDP and DeepSpeed, names of GPUs. The message for such a value has ours, or
//! says that there is none. docs/other-tools.md is generated from the table.

use Meaning::{Missing, Ours};

/// What a value of another tool is here.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Meaning {
    /// A value of ours, and a note.
    Ours(&'static str, &'static str),
    /// Not supported, and what there is instead.
    Missing(&'static str),
}

/// Returns what is wrong with a value of another tool for the setting `key` (dotted), and ours; `found` is the value as
/// a message shows it. `None` for a value that is not known.
pub fn problem(key: &str, value: &str, found: &str) -> Option<String> {
    Some(match meaning(key, value)? {
        Meaning::Ours(own, "") => format!("found {found}: use {}", shown(own)),
        Meaning::Ours(own, note) => format!("found {found}: use {} ({note})", shown(own)),
        Meaning::Missing("") => format!("{found} is not supported in this version"),
        Meaning::Missing(instead) => format!("{found} is not supported in this version: {instead}"),
    })
}

/// Returns what a value of another tool is here, for the setting `key` (dotted).
pub fn meaning(key: &str, value: &str) -> Option<Meaning> {
    let value = normal(value);
    let value = value.strip_prefix("torch.").or(value.strip_prefix("eval_")).unwrap_or(&value);
    let mut rows = VALUES.iter().filter(|(keys, _)| keys.contains(&key)).flat_map(|(_, rows)| rows.iter());
    rows.find(|(values, _)| values.contains(&value)).map(|(_, meaning)| *meaning)
}

/// Returns a name as the tables have it.
pub fn normal(name: &str) -> String {
    name.trim().to_lowercase().replace(['-', ' '], "_")
}

/// Returns a value of ours as TOML: numbers are bare.
pub fn shown(value: &str) -> String {
    if value.bytes().all(|b| b.is_ascii_digit()) { value.to_owned() } else { format!("{value:?}") }
}

/// Values, in lower case and with `_`, and what they are here.
pub type Row = (&'static [&'static str], Meaning);

/// For the settings of these dotted keys. `--device` and `--link` are options of `trainer plan`.
#[rustfmt::skip]
pub const VALUES: &[(&[&str], &[Row])] = &[
    (&["task.kind"], &[
        (&["classification", "text_classification", "sequence_classification", "single_label_classification", "seq_cls",
           "sentiment", "sentiment_analysis", "sentence_classification", "pair_classification", "nli", "classify",
           "automodelforsequenceclassification"],
         Ours("sequence-classification", "")),
        (&["multilabel", "multi_label_classification", "multilabel_classification"], Ours("multi-label", "")),
        (&["text_regression", "sts", "sentence_similarity", "similarity", "scoring"], Ours("regression", "")),
        (&["ner", "named_entity_recognition", "token_cls", "token_classification", "tagging", "pos", "pos_tagging",
           "chunking", "sequence_labeling", "sequence_labelling", "sequence_tagging",
           "automodelfortokenclassification"],
         Ours("token-classification", "")),
        (&["qa", "question_ans", "question_answering", "squad", "extractive_qa", "reading_comprehension",
           "automodelforquestionanswering"],
         Ours("question-answering", "")),
        (&["multiple_choice", "mcq", "swag", "automodelformultiplechoice"], Ours("multiple-choice", "")),
        (&["fill_mask", "mlm", "masked_lm", "masked_language_modeling", "automodelformaskedlm"],
         Ours("masked-lm", "")),
        (&["nsp", "next_sentence_prediction"], Ours("masked-lm", "with task.next_sentence = true")),
        (&["causal_lm", "clm", "text_generation", "generation", "language_modeling", "causal_language_modeling", "lm",
           "completion", "pretraining", "pretrain", "pt", "automodelforcausallm"],
         Ours("causal-lm", "")),
        (&["sft", "instruct", "instruction", "instruction_tuning", "conversational", "conversation", "dialogue",
           "chat_completion", "chat_template", "chatml", "alpaca", "sharegpt"],
         Ours("chat", "")),
        (&["seq_2_seq_lm", "seq2seq_lm", "seq2seqlm", "sequence_to_sequence", "summarization", "translation",
           "text2text_generation", "text2text", "conditional_generation", "encoder_decoder", "automodelforseq2seqlm"],
         Ours("seq2seq", "")),
        (&["dpo", "ipo", "orpo", "kto", "simpo", "ppo", "grpo", "rloo", "rlhf", "rl", "reward", "reward_modeling", "rm",
           "preference"],
         Missing("\"chat\" trains on answers, without preferences or rewards")),
        (&["embeddings", "feature_extraction", "sentence_embedding", "sentence_transformers", "retrieval", "contrastive"],
         Ours("embedding", "")),
        (&["reranking", "zero_shot_classification"], Missing("")),
        (&["image_classification", "image_to_text", "image_text_to_text", "object_detection", "image_segmentation",
           "audio_classification", "automatic_speech_recognition", "asr", "text_to_audio", "text_to_speech",
           "video_classification", "any_to_any", "visual_question_answering", "document_question_answering",
           "table_question_answering"],
         Missing("models read text only")),
    ]),
    (&["parallel.precision", "parallel.reduce_dtype"], &[
        (&["float32", "float", "full", "single", "f32", "32", "32_true", "fp32_true", "no", "none"], Ours("fp32", "")),
        (&["tf32"], Ours("fp32", "with parallel.tf32 = true")),
        (&["bfloat16", "bfloat", "16_bf", "bf16_mixed", "bf16_true", "bf16_full"], Ours("bf16", "")),
        (&["mixed", "amp", "auto"], Ours("bf16", "or \"fp16\"; master weights are in fp32")),
        (&["float16", "half", "f16", "16", "fp16_mixed", "fp16_true", "16_mixed", "16_true"], Ours("fp16", "")),
        (&["fp64", "float64", "double", "fp8", "float8", "8", "int8", "int4", "4bit", "8bit", "4", "nf4", "fp4",
           "mxfp8", "nvfp4"],
         Missing("")),
    ]),
    (&["train.lr_scheduler_type"], &[
        (&["linear_with_warmup", "linear_schedule_with_warmup", "linear_warmup", "linear_decay", "warmupdecaylr"],
         Ours("linear", "with train.warmup_ratio or train.warmup_steps")),
        (&["cosine_with_warmup", "cosine_schedule_with_warmup", "cosine_warmup", "warmupcosinelr"],
         Ours("cosine", "with train.warmup_ratio or train.warmup_steps")),
        (&["cosine_annealing", "cosineannealinglr", "cosine_decay", "half_cosine"], Ours("cosine", "")),
        (&["none", "fixed", "constantlr", "no"], Ours("constant", "")),
        (&["warmuplr", "constant_warmup", "constant_schedule_with_warmup"], Ours("constant_with_warmup", "")),
        (&["cosine_with_hard_restarts", "cosine_annealing_warm_restarts", "cosineannealingwarmrestarts"],
         Ours("cosine_with_restarts", "with num_cycles in train.lr_scheduler_kwargs")),
        (&["cosine_warmup_with_min_lr"], Missing("\"cosine_with_min_lr\" warms up from 0")),
        (&["wsd", "sqrt_decay"], Ours("warmup_stable_decay", "")),
        (&["reducelronplateau", "plateau"], Ours("reduce_lr_on_plateau", "")),
        (&["exponentiallr", "exponential_decay"], Ours("exponential", "")),
        (&["polynomial_decay", "polynomiallr", "polynomial_decay_with_warmup"], Ours("polynomial", "")),
        (&["inverse_square_root", "rsqrt", "noam"], Ours("inverse_sqrt", "")),
        (&["stlr", "slanted_triangular_schedule"], Ours("slanted_triangular", "")),
        (&["greedy", "one_cycle", "onecycle", "onecyclelr", "step", "steplr", "multistep", "rex", "jagged", "cyclic",
           "sqrt"],
         Missing("")),
    ]),
    (&["train.optim"], &[
        (&["adamw_torch_xla", "adamw_torch_npu_fused", "adamw_anyprecision", "fused_adamw", "fusedadam", "torch_adamw",
           "adamw_fused"],
         Ours("adamw", "")),
        (&["paged_adamw", "paged_adamw_32bit", "cpu_adam", "deepspeedcpuadam"],
         Ours("adamw", "with parallel.offload = \"optimizer\"")),
        (&["paged_lion_32bit", "paged_lion"], Ours("lion", "with parallel.offload = \"optimizer\"")),
        (&["rmsprop_bnb", "rmsprop_bnb_32bit"], Ours("rmsprop", "")),
        (&["momentum", "nesterov"], Ours("sgd", "with train.optim_args")),
        (&["adamw_torch_4bit", "adamw_torch_8bit", "adamw_bnb_8bit", "adamw_8bit", "paged_adamw_8bit",
           "ademamix_8bit", "paged_ademamix_8bit", "lion_8bit", "paged_lion_8bit", "rmsprop_bnb_8bit",
           "galore_adamw_8bit", "galore_adamw_8bit_layerwise"],
         Missing("optimizer state is fp32; parallel.zero_stage = 1 divides it among ranks, parallel.offload = \
                  \"optimizer\" keeps it in host memory, and \"adafactor\" needs little")),
        (&["galore_adamw", "galore_adafactor", "galore_adamw_layerwise", "galore_adafactor_layerwise",
           "apollo_adamw", "apollo_adamw_layerwise"],
         Missing("\"adafactor\" needs little memory for state")),
        (&["ademamix", "paged_ademamix_32bit", "adadelta", "lomo", "adalomo", "grokadamw", "schedule_free_radam",
           "schedule_free_adamw", "schedule_free_sgd", "stable_adamw", "radam", "dion", "lamb", "lars", "sophia",
           "shampoo", "soap", "prodigy", "onebitadam"],
         Missing("")),
    ]),
    (&["train.eval_strategy", "train.save_strategy"], &[
        (&["step", "iteration", "iterations"], Ours("steps", "")),
        (&["epochs", "every_epoch"], Ours("epoch", "")),
        (&["none", "never", "off", "false"], Ours("no", "")),
        (&["best"], Missing("train.load_best_model_at_end = true saves whenever an evaluation is the best so far")),
    ]),
    (&["parallel.zero_stage"], &[
        (&["none", "no", "off", "false", "ddp", "no_shard", "zero0", "zero_0", "stage0", "stage_0"], Ours("0", "")),
        (&["zero1", "zero_1", "stage1", "stage_1", "os", "optimizer"], Ours("1", "")),
        (&["zero2", "zero_2", "stage2", "stage_2", "shard_grad_op"], Ours("2", "")),
        (&["zero3", "zero_3", "stage3", "stage_3", "full_shard", "full_shard_auto_wrap", "fsdp", "fsdp2", "full",
           "true"],
         Ours("3", "")),
        (&["zero2_offload"], Ours("2", "with parallel.offload = \"optimizer\"")),
        (&["zero3_offload", "zero_3_offload", "stage3_offload"], Ours("3", "with parallel.offload = \"optimizer\"")),
        (&["hybrid_shard", "hsdp", "mics"], Ours("3", "with parallel.shard_within = \"host\"")),
        (&["hybrid_shard_zero2"], Ours("2", "with parallel.shard_within = \"host\"")),
        (&["zero++"], Missing("3 with parallel.shard_within = \"host\" gathers weights within each host")),
    ]),
    (&["parallel.shard_within"], &[
        (&["node", "machine", "hybrid_shard", "hsdp"], Ours("host", "")),
        (&["all", "global", "full_shard", "no", "none"], Ours("world", "")),
    ]),
    (&["parallel.offload"], &[
        (&["cpu", "true", "state", "adam", "adamw"], Ours("optimizer", "")),
        (&["no", "off", "false"], Ours("none", "")),
        (&["nvme", "param", "params", "weights", "activations"], Missing("\"optimizer\" is optimizer state only")),
    ]),
    (&["parallel.recompute"], &[
        (&["true", "full", "on", "yes", "unsloth"], Ours("all", "")),
        (&["false", "no", "off"], Ours("none", "")),
        (&["selective", "op", "per_op"], Ours("auto", "as few blocks as necessary")),
    ]),
    (&["comm.backend"], &[
        (&["gloo", "cpu", "openmpi", "ompi"], Ours("mpi", "")),
        (&["cuda", "gpu", "cuda:nccl"], Ours("nccl", "")),
        (&["single", "local"], Ours("solo", "")),
        (&["mps", "xpu", "tpu", "xla", "npu", "hpu", "hccl", "rccl", "rocm", "ccl", "oneccl", "ucc"], Missing("")),
    ]),
    (&["model.init"], &[
        (&["scratch", "from_scratch", "random_init", "config"], Ours("random", "")),
        (&["checkpoint", "from_pretrained", "finetune", "hf", "huggingface"], Ours("pretrained", "")),
    ]),
    (&["data.format"], &[
        (&["json", "ndjson", "json_lines", "jsonlines"], Ours("jsonl", "one JSON object per line")),
        (&["tab"], Ours("tsv", "")),
        (&["conll2003", "bio", "iob", "iob2", "conllu"], Ours("conll", "")),
        (&["txt", "plain", "plain_text", "plaintext", "raw"], Ours("text", "")),
        (&["feather", "ipc"], Ours("arrow", "")),
        (&["datasets", "huggingface", "hf", "xlsx", "excel", "xml", "sql", "webdataset"],
         Missing("write the data as JSONL first, one object per line")),
    ]),
    (&["data.documents"], &[
        (&["line", "line_by_line"], Ours("lines", "")),
        (&["paragraph"], Ours("paragraphs", "")),
    ]),
    (&["data.on_bad_record"], &[
        (&["raise", "fail", "stop", "strict"], Ours("error", "")),
        (&["ignore", "drop", "warn", "continue"], Ours("skip", "")),
    ]),
    (&["train.on_non_finite"], &[
        (&["raise", "fail", "error", "abort"], Ours("stop", "")),
        (&["ignore", "continue", "warn"], Ours("skip", "")),
    ]),
    (&["train.metric_for_best_model"], &[
        (&["acc"], Ours("accuracy", "")),
        (&["macro_f1", "f1_macro"], Ours("f1", "")),
        (&["f1_micro"], Ours("micro_f1", "")),
        (&["mcc", "matthews", "matthews_corrcoef"], Ours("matthews_correlation", "")),
        (&["spearman", "spearmanr_correlation"], Ours("spearmanr", "")),
        (&["pearsonr"], Ours("pearson", "")),
        (&["mean_squared_error"], Ours("mse", "")),
        (&["ppl"], Ours("perplexity", "")),
        (&["em", "exact"], Ours("exact_match", "")),
        (&["overall_f1", "seqeval_f1"], Ours("f1", "")),
        (&["auc", "auroc", "rocauc", "roc"], Ours("roc_auc", "")),
        (&["ap", "auprc", "pr_auc", "map"], Ours("average_precision", "")),
        (&["f1_binary"], Ours("binary_f1", "")),
        (&["rouge", "rouge_l", "rougelsum"], Ours("rougeL", "")),
        (&["sacrebleu"], Ours("bleu", "")),
    ]),
    (&["train.report_to"], &[
        (&["wandb", "weights_and_biases"], 
         Missing("use [\"tensorboard\"], or upload the metrics as in docs/watching.md")),
        (&["mlflow", "comet_ml", "comet", "neptune", "clearml", "trackio", "swanlab", "azure_ml", "codecarbon",
           "dagshub", "dvclive", "flyte", "kubeflow", "tensorboardx"],
         Missing("[\"tensorboard\"] writes event files")),
    ]),
    (&["--device"], &[
        (&["h100", "h100_80gb", "h100_sxm5", "h100_sxm_80gb", "h100_sxm5_80gb", "h100_80gb_hbm3",
           "nvidia_h100_80gb_hbm3", "nvidia_h100"],
         Ours("h100-sxm", "or \"h100-pcie\"")),
        (&["h100_pcie_80gb", "nvidia_h100_pcie"], Ours("h100-pcie", "")),
        (&["h200", "h200_sxm5", "h200_141gb", "nvidia_h200"], Ours("h200-sxm", "")),
        (&["a100", "a100_sxm", "a100_sxm4", "nvidia_a100"], Ours("a100-80gb", "or \"a100-40gb\"")),
        (&["a100_sxm_80gb", "a100_sxm4_80gb", "a100_pcie_80gb", "nvidia_a100_sxm4_80gb"], Ours("a100-80gb", "")),
        (&["a100_sxm_40gb", "a100_sxm4_40gb", "a100_pcie_40gb", "nvidia_a100_sxm4_40gb"], Ours("a100-40gb", "")),
        (&["nvidia_l40s", "l40s_48gb"], Ours("l40s", "")),
        (&["v100", "t4", "p100", "a10", "a10g", "a30", "a40", "a6000", "l4", "l40", "h20", "h800", "a800", "gh200",
           "b100", "b200", "b300", "gb200", "gb300", "rtx3090", "rtx_3090", "rtx4090", "rtx_4090", "rtx5090",
           "rtx_5090", "mi250", "mi300x", "tpu", "cuda", "gpu"],
         Missing("name the most similar one, with --gpu-memory")),
    ]),
    (&["--link"], &[
        (&["nvlink", "nvswitch"], Ours("nvlink4", "of H100 and H200; \"nvlink3\" of A100")),
        (&["pcie"], Ours("pcie5", "or \"pcie4\"")),
        (&["infiniband", "ib", "ndr"], Ours("ib400", "or \"ib200\"")),
        (&["hdr"], Ours("ib200", "")),
        (&["ethernet", "eth", "tcp", "roce"], Ours("eth100", "or \"eth25\"")),
        (&["shm"], Ours("shared-memory", "")),
    ]),
];
