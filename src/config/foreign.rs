//! What other trainers call things: Hugging Face's `TrainingArguments` and example scripts, torchtune, DeepSpeed.
//! Someone who brings one of their keys is told ours, rather than the one that is spelled most like it.

/// Foreign names, in lower case, and what to do instead: the end of a message that begins `unknown key:`.
#[rustfmt::skip]
const ADVICE: &[(&[&str], &str)] = &[
    // Batches
    (&["per_device_train_batch_size", "per_gpu_train_batch_size", "train_micro_batch_size_per_gpu", "train_batch_size",
       "batch_size", "micro_batch_size", "total_batch_size"],
     "use train.global_batch_size = per device x ranks x accumulation steps: it counts the sequences of one optimizer \
      step over all ranks"),
    (&["per_device_eval_batch_size", "per_gpu_eval_batch_size", "eval_batch_size"],
     "evaluation goes by train.micro_batch_tokens and needs no batch size: remove it"),
    (&["auto_find_batch_size"],
     "set train.micro_batch_tokens to what fits into memory: train.global_batch_size and the result stay as they are"),
    (&["gradient_accumulation_steps", "gradient_accumulation", "accumulate_grad_batches"],
     "it follows from train.global_batch_size and train.micro_batch_tokens: remove it"),
    (&["gradient_checkpointing", "gradient_checkpointing_kwargs", "activation_checkpointing",
       "enable_activation_checkpointing", "fsdp_activation_checkpointing", "checkpoint_activations"],
     "use parallel.recompute = \"all\", or N for every N-th stage to keep its activations"),
    // Optimizer and schedule
    (&["lr", "base_lr", "max_lr", "peak_lr"], "use train.learning_rate"),
    (&["epoch", "epochs", "num_epochs", "max_epochs", "n_epochs", "train_epochs"], "use train.num_train_epochs"),
    (&["steps", "num_steps", "train_steps", "num_train_steps", "num_training_steps", "total_steps", "max_iters",
       "num_iterations", "max_steps_per_epoch"],
     "use train.max_steps, the optimizer steps of the whole run"),
    (&["optim", "optimizer", "optim_args", "optimizer_type", "adafactor"],
     "it is AdamW, always: train.learning_rate, train.weight_decay, train.adam_beta1 and so on"),
    (&["wd", "decay", "weight_decay_rate", "l2"], "use train.weight_decay"),
    (&["betas", "beta1", "beta2", "adam_betas"], "use train.adam_beta1 and train.adam_beta2"),
    (&["eps", "epsilon", "adam_eps"], "use train.adam_epsilon"),
    (&["clip_grad_norm", "clip_grad", "grad_clip", "gradient_clipping", "gradient_clip_val", "max_norm"],
     "use train.max_grad_norm"),
    (&["scheduler", "scheduler_type", "schedule", "lr_scheduler", "lr_schedule", "lr_scheduler_kwargs"],
     "use train.lr_scheduler_type"),
    (&["warmup"], "use train.warmup_steps or train.warmup_ratio"),
    (&["num_warmup_steps", "warmup_num_steps"], "use train.warmup_steps"),
    (&["warmup_proportion", "warmup_fraction"], "use train.warmup_ratio"),
    (&["label_smoothing_factor", "label_smoothing"], "not in this version"),
    // Number format, sharding, devices
    (&["fp16", "bf16", "fp16_full_eval", "bf16_full_eval", "fp16_opt_level", "half_precision_backend", "half",
       "mixed_precision", "mixed_precision_policy", "amp", "dtype", "torch_dtype", "param_dtype"],
     "use parallel.precision = \"bf16\", \"fp16\" or \"fp32\""),
    (&["communication_data_type", "gradient_accumulation_dtype", "grad_accum_dtype", "data_types"],
     "use parallel.reduce_dtype: gradients are accumulated and reduced in it"),
    (&["allow_tf32", "enable_tf32", "float32_matmul_precision"], "use parallel.tf32"),
    (&["loss_scale", "initial_scale_power", "init_scale", "initial_loss_scale", "fp16_init_scale", "static_loss_scale"],
     "use parallel.loss_scale_init, the first scale itself and not its exponent; it is dynamic, always"),
    (&["growth_interval", "scale_growth_interval", "loss_scaling_window", "fp16_scale_window", "scale_window"],
     "use parallel.loss_scale_window"),
    (&["min_loss_scale", "max_loss_scale", "hysteresis", "consecutive_hysteresis", "growth_factor", "backoff_factor"],
     "an overflow halves the loss scale, and parallel.loss_scale_window steps without one double it: remove it"),
    (&["deepspeed", "deepspeed_config", "zero", "zero_optimization", "zero_level", "stage", "fsdp", "fsdp_config",
       "fsdp_sharding_strategy", "fsdp_transformer_layer_cls_to_wrap", "sharding", "sharding_strategy",
       "sharded_ddp", "reshard_after_forward"],
     "use parallel.zero_stage: 1 shards the optimizer state over ranks (ShardingStrategy NO_SHARD is 0), 2 gradients \
      too (SHARD_GRAD_OP), 3 weights too (FULL_SHARD), \"auto\" the least that fits"),
    (&["cpu_offload", "offload", "offload_optimizer", "offload_param", "fsdp_offload_params", "fsdp_cpu_offload",
       "optimizer_offload"],
     "nothing is kept in another place than it is computed; parallel.zero_stage = 3 and parallel.recompute need the \
      least memory"),
    (&["overlap_comm", "contiguous_gradients", "reduce_bucket_size", "allgather_bucket_size", "bucket_cap_mb",
       "round_robin_gradients", "reduce_scatter", "allgather_partitions", "stage3_prefetch_bucket_size",
       "stage3_param_persistence_threshold", "stage3_max_live_parameters", "stage3_max_reuse_distance",
       "stage3_gather_16bit_weights_on_model_save", "sub_group_size", "fsdp_forward_prefetch",
       "fsdp_backward_prefetch", "forward_prefetch", "backward_prefetch", "limit_all_gathers", "use_orig_params"],
     "there is nothing to choose: remove it"),
    (&["max_memory", "max_memory_mb", "gpu_memory_limit"],
     "use parallel.memory_per_rank, together with parallel.zero_stage = \"auto\""),
    (&["skip_nan", "skip_non_finite", "skip_nonfinite", "ignore_nan", "stop_on_nan", "terminate_on_nan",
       "detect_anomaly", "skip_grad_norm"],
     "use train.on_non_finite = \"stop\" or \"skip\""),
    (&["use_lora", "lora", "lora_r", "lora_rank", "lora_alpha", "lora_dropout", "peft", "peft_config"],
     "not in this version, which trains the weights themselves, all or without those of model.freeze"),
    (&["local_rank", "world_size", "n_gpu", "num_gpus", "num_processes", "nproc_per_node"],
     "the number of ranks is what mpirun -n says: remove it"),
    (&["no_cuda", "use_cpu", "use_cuda", "device", "ddp_backend"], "use comm.backend: mpi for CPUs, nccl for GPUs"),
    (&["ddp_timeout"], "use comm.timeout_seconds"),
    (&["torch_compile", "compile", "attn_implementation"], "there is nothing to choose: remove it"),
    // Generated texts
    (&["generation_max_length", "max_new_token", "gen_max_length"], "use generation.max_new_tokens"),
    (&["generation_num_beams", "beam_size", "beams", "eval_beams"], "use generation.num_beams"),
    (&["generation_config"],
     "the model folder's own file of that name is read; what is set in the section [generation] goes before it"),
    // Model, task, data
    (&["model_name_or_path", "model_name", "model_id", "model_path", "pretrained_model_name_or_path", "base_model"],
     "use model.path, a local folder: a name on a hub is not fetched"),
    (&["from_scratch", "random_init", "init_from_scratch", "train_from_scratch", "from_config", "init_weights",
       "config_overrides"],
     "use model.init = \"random\": it starts from the config.json in model.path alone"),
    (&["pretrained", "load_weights"], "use model.init = \"pretrained\" or \"random\""),
    (&["freeze_layers", "freeze_modules", "freeze_parameters", "frozen_layers", "frozen", "freeze_embeddings",
       "freeze_encoder", "freeze_base_model", "freeze_backbone", "unfrozen_parameters", "num_frozen_layers",
       "unfreeze"],
     "use model.freeze, a list of patterns over names of tensors such as [\"bert.embeddings.*\"]"),
    (&["trainable", "trainable_layers", "trainable_params", "trainable_parameters", "modules_to_train", "train_only"],
     "all weights are trained but those that model.freeze names"),
    (&["tokenizer", "tokenizer_name", "config_name", "use_fast_tokenizer"],
     "the tokenizer and config.json are those in model.path: remove it"),
    (&["dropout", "hidden_dropout", "attention_dropout"],
     "use model.hidden_dropout_prob, model.attention_probs_dropout_prob or model.classifier_dropout"),
    (&["task_name", "task_type", "problem_type"], "use task.kind"),
    (&["num_labels", "num_classes"], "it follows from the labels in the data, or from task.labels: remove it"),
    (&["group_texts", "sample_packing", "pack_sequences"], "use task.packing"),
    (&["block_size", "context_length"], "use data.max_length"),
    (&["line_by_line"], "use data.documents = \"lines\" and task.packing = false"),
    (&["masked_lm_prob", "mask_prob", "mlm_prob"], "use task.mlm_probability"),
    (&["wwm", "whole_word_masking", "do_whole_word_mask"], "use task.whole_word_mask"),
    (&["mlm"], "use task.kind = \"masked-lm\" or \"causal-lm\""),
    (&["train_on_inputs", "completion_only_loss", "assistant_only_loss", "train_on_responses_only"],
     "task.kind = \"chat\" has its loss on the answers alone: remove it"),
    (&["chat_template"], "it is that of the folder in model.path: remove it"),
    (&["id2label", "label2id", "label_list", "label_names"], "use task.labels, or let them be found in the data"),
    (&["train_file", "train_data", "train_data_file", "train_dataset", "train_path", "training_file", "dataset",
       "dataset_name", "data_files", "data_path"],
     "use data.train, a local JSONL, CSV or TSV file"),
    (&["validation_file", "validation_data", "validation_dataset", "validation", "val_file", "val_data", "dev_file",
       "test", "eval_file", "eval_data", "eval_data_file", "eval_dataset", "test_file"],
     "use data.eval, a local JSONL, CSV or TSV file"),
    (&["max_seq_length", "max_seq_len", "max_sequence_length", "max_len", "seq_len", "seq_length", "model_max_length", "max_source_length"],
     "use data.max_length"),
    (&["val_max_target_length"], "use task.max_target_length"),
    (&["summary_column", "target_text_column"], "use data.target_column"),
    (&["source_text_column"], "use data.source_column"),
    (&["padding", "pad_to_max_length", "group_by_length", "length_column_name"],
     "sequences are never padded: remove it"),
    (&["text_column_name", "sentence1_key"], "use data.text_column"),
    (&["sentence2_key"], "use data.text_pair_column"),
    (&["label_column_name"], "use data.label_column"),
    (&["remove_unused_columns"], "columns that are not asked for are not read: remove it"),
    (&["dataloader_num_workers", "preprocessing_num_workers", "num_workers", "dataloader_pin_memory",
       "dataloader_prefetch_factor", "dataloader_persistent_workers"],
     "batches are made beside the training by themselves: remove it (parallel.num_threads has a rank's CPU threads)"),
    (&["max_train_samples", "max_eval_samples"], "not in this version: shorten the file, or set train.max_steps"),
    (&["data_seed", "random_seed"], "use seed"),
    // Evaluation, checkpoints, reports
    (&["evaluation_strategy", "do_evaluate", "evaluate_during_training"], "use train.eval_strategy"),
    (&["eval_interval", "eval_every", "eval_every_n_steps"], "use train.eval_steps"),
    (&["logging_strategy", "logging_first_step", "log_interval", "log_every", "log_every_n_steps"],
     "use train.logging_steps"),
    (&["save_interval", "save_every", "save_every_n_steps", "checkpoint_interval"], "use train.save_steps"),
    (&["save_best", "save_best_model", "save_best_only"],
     "use train.load_best_model_at_end and train.metric_for_best_model"),
    (&["early_stopping_patience", "patience"],
     "not in this version; train.load_best_model_at_end goes back to the best checkpoint"),
    (&["keep_last", "keep_last_n_checkpoints", "max_checkpoints"], "use train.save_total_limit"),
    (&["save_safetensors", "save_only_model"],
     "weights are always in safetensors, and a checkpoint has all that going on needs: remove it"),
    (&["resume", "resume_from_checkpoint"], "use the command line: --resume auto, or --resume FOLDER"),
    (&["out_dir", "output_path", "save_dir", "checkpoint_dir"], "use output_dir"),
    (&["report_to", "logging_dir", "run_name", "project", "wandb", "wandb_project", "tensorboard"],
     "metrics are in output_dir/metrics.jsonl: remove it"),
    (&["log_level", "log_level_replica", "logging_level", "disable_tqdm"],
     "use the environment's TRAINER_LOG, or the command line's --log-format: remove it"),
    (&["do_train", "do_eval", "do_predict"], "the command says it: trainer train, trainer evaluate or trainer predict"),
    (&["push_to_hub", "hub_model_id", "hub_token", "hub_strategy"], "nothing is uploaded: remove it"),
];

/// What to do instead of a foreign key, in any case and with `-` for `_` as on command lines; `None` for one unknown.
pub fn advice(key: &str) -> Option<&'static str> {
    let key = key.to_lowercase().replace('-', "_");
    ADVICE.iter().find(|(names, _)| names.contains(&key.as_str())).map(|(_, advice)| *advice)
}

#[cfg(test)]
mod tests {
    use super::super::raw::{KEYS, dotted};
    use super::*;

    #[test]
    fn names_are_foreign_and_there_once() {
        let names: Vec<&str> = ADVICE.iter().flat_map(|(names, _)| names.iter().copied()).collect();
        for (i, name) in names.iter().enumerate() {
            assert!(!names[..i].contains(name), "{name} is there twice");
            assert!(!KEYS.iter().any(|(_, keys)| keys.contains(name)), "{name} is a key of ours");
            assert!(!KEYS.iter().any(|(section, _)| section == name), "{name} is a section of ours");
            assert!(advice(name).is_some(), "{name} is never found: it is not in lower case");
        }
    }

    #[test]
    fn advice_names_keys_that_exist() {
        let keys: Vec<String> =
            KEYS.iter().flat_map(|(section, keys)| keys.iter().map(|key| dotted(section, key))).collect();
        let mut named = 0;
        for (names, advice) in ADVICE {
            let is_part = |c: char| c.is_ascii_alphanumeric() || "_.".contains(c);
            for word in advice.split(|c| !is_part(c)).map(|word| word.trim_matches('.')) {
                let section = word.split_once('.').map(|(section, _)| section);
                let is_key_like = word.contains('_') && word.to_lowercase() == word;
                if is_key_like || KEYS.iter().any(|(ours, _)| section == Some(*ours)) {
                    assert!(keys.iter().any(|key| key == word), "{names:?}: {word} is no key");
                    named += 1;
                }
            }
        }
        assert!(named > ADVICE.len() / 2, "only {named} keys were seen");
    }

    #[test]
    fn spelling_is_taken_lightly() {
        assert_eq!(advice("Max-Seq-Length"), Some("use data.max_length"));
        assert_eq!(advice("learning_rat"), None);
    }
}
