//! Settings of schedules and optimizers.

use super::*;

#[test]
fn schedules_without_warm_up_refuse_it() {
    refused(&["lr_scheduler_type=constant", "warmup_ratio=0.1"], "constant_with_warmup");
    refused(&["lr_scheduler_type=constant", "warmup_steps=5"], "constant_with_warmup");
    refused(&["lr_scheduler_type=slanted_triangular", "warmup_steps=5"], "cut_frac");
    with(&["lr_scheduler_type=constant_with_warmup", "warmup_steps=5"]).unwrap();
}

#[test]
fn warm_up_is_a_number_of_steps_or_a_fraction() {
    for steps in ["0", "0.25", "1", "300"] {
        with(&[&format!("warmup_steps={steps}")]).unwrap();
    }
    for steps in ["-1", "1.5", "inf"] {
        refused(&[&format!("warmup_steps={steps}")], "expected a number in [0, 1) or integer >= 1");
    }
}

#[test]
fn arguments_of_schedules() {
    let restarts = "lr_scheduler_type=cosine_with_restarts";
    for written in ["{ num_cycles = 3 }", "{\"num_cycles\": 3}", "num_cycles=3"] {
        let config = with(&[restarts, &format!("lr_scheduler_kwargs={written}")]).unwrap();
        assert_eq!(config.train.lr_scheduler_kwargs.count("num_cycles"), Some(3), "{written}");
    }
    let in_file = format!("{MINIMAL}[train]\nlr_scheduler_type = 'polynomial'\nlr_scheduler_kwargs.power = 2.5\n");
    let config = Config::parse(&in_file, "run.toml", &[]).unwrap();
    assert_eq!(config.train.lr_scheduler_kwargs.number("power"), Some(2.5));

    let key = "train.lr_scheduler_kwargs: ";
    refused(
        &[restarts, "lr_scheduler_kwargs={ num_cycle = 3 }"],
        &format!(
            "{key}num_cycle: cosine_with_restarts does not know this argument; it takes num_cycles (did you mean num_cycles?)"
        ),
    );
    refused(
        &["lr_scheduler_kwargs={ power = 2 }"],
        &format!("{key}power: linear does not know this argument, it is for polynomial; it takes no arguments"),
    );
    refused(&[restarts, "lr_scheduler_kwargs={ num_cycles = 0 }"], "num_cycles: found 0, expected an integer >= 1");
    refused(&[restarts, "lr_scheduler_kwargs={ num_cycles = 1.5 }"], "num_cycles: found 1.5, expected an integer >= 1");
    refused(&[restarts, "lr_scheduler_kwargs={ num_cycles = [1] }"], "num_cycles: found a list, expected a number");
    refused(&[restarts, "lr_scheduler_kwargs=3"], "found the integer 3, expected a table of arguments such as");
    let stable = "lr_scheduler_type=warmup_stable_decay";
    refused(
        &[stable, "lr_scheduler_kwargs={ decay_type = 'sqrt' }"],
        "expected \"linear\" or \"cosine\" or \"1-sqrt\"",
    );
}

#[test]
fn schedules_that_need_more() {
    let floor = "lr_scheduler_type=cosine_with_min_lr";
    refused(&[floor], "train.lr_scheduler_type: cosine_with_min_lr needs min_lr or min_lr_rate");
    refused(&[floor, "lr_scheduler_kwargs={ min_lr = 0, min_lr_rate = 0 }"], "and not both");
    with(&[floor, "lr_scheduler_kwargs={ min_lr_rate = 0.1 }"]).unwrap();
    let polynomial = ["lr_scheduler_type=polynomial", "lr_scheduler_kwargs={ lr_end = 1e-3 }"];
    refused(&polynomial, "lr_end (1e-7 by default) must be smaller than train.learning_rate");
    refused(&["eval=e", "lr_scheduler_type=reduce_lr_on_plateau"], "needs evaluations: set train.eval_strategy");
    with(&["eval=e", "eval_steps=5", "lr_scheduler_type=reduce_lr_on_plateau"]).unwrap();
}

#[test]
fn optimizers_and_their_aliases() {
    for (word, optim) in [
        ("adamw", Optim::AdamW),
        ("adamw_torch", Optim::AdamW),
        ("adamw_torch_fused", Optim::AdamW),
        ("adamw_hf", Optim::AdamW),
        ("lion_32bit", Optim::Lion),
        ("rmsprop", Optim::RmsProp),
    ] {
        assert_eq!(with(&[&format!("optim={word}")]).unwrap().train.optim, optim);
    }
    assert!(with(&["optim=adamw_torch"]).unwrap().to_toml().contains("\noptim = \"adamw\"\n"));
    refused(&["optim=adamw_bnb_8bit"], "train.optim: \"adamw_bnb_8bit\" is not supported in this version: ");
    refused(&["optim=paged_adamw_32bit"], "found \"paged_adamw_32bit\": use \"adamw\" (with parallel.offload");
    refused(&["optim=adamv"], "expected \"adamw\", \"adam\", ");
}

#[test]
fn arguments_of_optimizers() {
    let config = with(&["optim=sgd", "optim_args=momentum=0.9, nesterov=True"]).unwrap();
    let args = &config.train.optim_args;
    assert_eq!((args.number("momentum"), args.flag("nesterov")), (Some(0.9), Some(true)));
    with(&["optim=muon", "optim_args={ adjust_lr_fn = 'match_rms_adamw', ns_steps = 6 }"]).unwrap();
    refused(&["optim=sgd", "optim_args={ nesterov = true }"], "train.optim_args: nesterov needs momentum");
    refused(&["optim=sgd", "optim_args={ momentum = 1 }"], "momentum: found 1, expected a number in [0, 1)");
    refused(
        &["optim_args={ momentum = 0.9 }"],
        "momentum: adamw does not know this argument, it is for sgd, rmsprop, muon; it takes no arguments",
    );
    refused(&["optim=sgd", "adam_beta1=0.8"], "train.adam_beta1: sgd does not use it: remove it");
    refused(&["optim=rmsprop", "adam_epsilon=1e-6"], "train.adam_epsilon: rmsprop does not use it: set eps in");
    refused(&["optim=lion", "adam_epsilon=1e-6"], "train.adam_epsilon: lion does not use it: remove it");
    with(&["optim=lion", "adam_beta2=0.99"]).unwrap();
}
