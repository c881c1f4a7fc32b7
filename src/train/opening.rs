//! Opens a run: reads the data, loads the model, and compares what the ranks have read.

use crate::comm::Collective;
use crate::config::{Config, ModelInit, TaskKind};
use crate::error::{Context, Error, Result};
use crate::ffi::device::allow_tf32;
use crate::text::tokenizer::Tokenizer;
use crate::train::downloads::{self, Wanted};
use crate::train::generation::ending_answers;
use crate::train::lora::Lora;
use crate::train::memory_fit::{self, MemoryPlan};
use crate::train::model_folder::ModelFolder;
use crate::train::model_loading::{Declared, LoadOptions, Source};
use crate::train::resumed::Resumed;
use crate::train::session::{Session, agree_on_files, declare, one_per_host_first, read_data};
use crate::train::teacher::{self, Teacher};
use crate::train::{dry_run, rank_consistency, settings};
use serde_json::Value;
use std::sync::Arc;
use tch::Device;

/// Describes what a model's `config.json` says that is not true of the trained model, which does not say it.
fn untrue(config: &Value) -> Vec<String> {
    let remarks = [
        (
            "auto_map",
            "config.json names the model's own Python code (auto_map), which is not run: this is the model of \
                      transformers, and the trained model names no code",
        ),
        (
            "quantization_config",
            "config.json has quantization_config, but the weights are full: the trained model does \
                                 not have it",
        ),
    ];
    remarks.iter().filter(|(key, _)| config.get(key).is_some()).map(|(_, remark)| (*remark).to_owned()).collect()
}

impl Session {
    /// Reads the model and the data. A checkpoint to resume from replaces `model.path` as the source of the weights,
    /// and fixes the order of the labels. All ranks call it; a failure on one rank is an error on all.
    ///
    /// # Errors
    /// Exit 2 for an invalid model folder or invalid data.
    pub fn open(config: Config, comm: Arc<dyn Collective>, resumed: Option<&Resumed>) -> Result<Self> {
        allow_tf32(settings::tf32(&config, comm.device()))?;
        downloads::fetch(comm.as_ref(), Wanted::of_run(&config))?;
        let known_labels = resumed.and_then(|resumed| resumed.state.labels.clone());
        let open = || -> Result<(Declared, usize, ModelFolder, Option<Lora>)> {
            resumed.map_or(Ok(()), |resumed| resumed.check_layers(&config))?;
            let (declared, max_length) = declare(&config)?;
            let folder = ModelFolder::of(&config)?;
            let lora = Lora::of_run(&config.lora, &folder, resumed.map(|resumed| resumed.from.as_path()))?;
            if lora.is_some() && config.model.init == ModelInit::Random {
                let path = config.model.path.display();
                return Err(Error::input(format!("model.init = \"random\": {path} is an adapter: remove the setting")));
            }
            // Report a missing tokenizer as an error of the model folder, not of the data.
            Tokenizer::fingerprint_of(folder.tokenizer())?;
            Ok((declared, max_length, folder, lora))
        };
        let (mut declared, max_length, folder, lora) =
            agree_on_files(comm.as_ref(), open(), true, "reading the model configuration")?;
        let mut data = one_per_host_first(comm.as_ref(), "preparing the data", || {
            let data = read_data(&config, max_length, known_labels.clone())?;
            declared.check_vocabulary(&data.train)?;
            data.evaluations().try_for_each(|(_, eval)| declared.check_vocabulary(eval))?;
            Ok(data)
        })?;
        data.train.facts.remarks.extend(untrue(&folder.read_config()?));
        if folder.extended.is_some() {
            let (needed, rows) = (data.train.facts.vocab_size, declared.vocab_size());
            data.train
                .facts
                .remarks
                .push(format!("tokenizer with data.add_tokens: {needed} tokens, {rows} embeddings"));
        }
        let ends = (config.task.kind == TaskKind::Chat).then(|| ending_answers(folder.generation())).transpose();
        let ends = comm.agree(ends, "reading the chat template")?.flatten();
        let generation = ends.map(|(file, end)| {
            data.train.facts.remarks.push(format!(
                "token {end} ends an answer in the chat template: added to eos_token_id in generation_config.json of \
                 the trained model"
            ));
            file
        });
        if let Some(resumed) = resumed.filter(|_| lora.is_none()) {
            declared.continues(&resumed.from);
        }
        let shaped = declared.with_head(&data.head).with_adapters(lora.as_ref());
        let shaped = shaped.and_then(|shaped| shaped.for_training(&config, data.train.dataset.len()));
        let mut shaped = comm.agree(shaped, "choosing what is trained")?;
        let teacher = agree_on_files(comm.as_ref(), teacher::declare(&config, &data, &folder, false), true, "teacher")?;
        shaped.teacher = teacher.map(Box::new);
        let before = resumed.map(|resumed| resumed.micro_batch_tokens(comm.world())).transpose();
        let before = comm.agree(before, "reading the checkpoint's settings")?.flatten();
        let chosen = memory_fit::choose(&config, &shaped, &data, comm.as_ref(), before);
        let MemoryPlan { zero, micro_batch_tokens, recompute } =
            comm.agree(chosen, "choosing settings that fit in memory")?;
        let options = LoadOptions {
            kind: settings::kind(config.parallel.precision),
            zero,
            trains: settings::masters(&config, comm.device()),
            seed: config.seed,
            from: match (resumed, config.model.init) {
                (Some(_), _) => Source::Checkpoint,
                (None, ModelInit::Random) => Source::Random,
                (None, ModelInit::Pretrained) => Source::Folder,
            },
        };
        comm.agree(memory_fit::check_host(&config, &shaped, comm.as_ref(), zero), "checking the host's memory")?;
        let groups = settings::groups(&config, Arc::clone(&comm))?;
        let teacher = shaped.teacher.take();
        let loaded = comm.agree(shaped.load(&groups.shard, &options), "loading the model")?;
        let teacher =
            teacher.map(|teacher| Teacher::load(*teacher, &config, &data.head, &groups.shard, &options)).transpose();
        let teacher = comm.agree(teacher.context("distill.teacher"), "loading the teacher")?;
        let same = resumed.map(|r| r.check_teacher(&config, teacher.as_ref().map(|teacher| &*teacher.fingerprint)));
        comm.agree(same.transpose(), "comparing the teachers")?;
        let starts_at_random = options.from == Source::Random;
        let mut session = Session {
            config,
            comm,
            groups,
            folder,
            loaded,
            teacher,
            data,
            max_length,
            micro_batch_tokens,
            recompute,
            starts_at_random,
            generation,
        };
        rank_consistency::check(&session, resumed.map_or(0, |resumed| resumed.state.global_step))?;
        let fixed = session.config.train.micro_batch_tokens.given().or(before).is_some();
        if session.comm.device() != Device::Cpu && !fixed {
            session.micro_batch_tokens = dry_run::max_tokens(&session)?;
        }
        Ok(session)
    }
}
