//! The training loop.

use crate::checkpoint::TrainerState;
use crate::comm::{Collective, Op, between_hosts, traffic};
use crate::config::{Config, IntervalStrategy, MAX_TARGET_LENGTH, TaskKind, Writers};
use crate::error::Result;
use crate::observe::progress::Progress;
use crate::observe::{logs, memory, progress};
use crate::optim::Plateau;
use crate::train::checkpoints::{Checkpoints, Saved};
use crate::train::clock::Clock;
use crate::train::due::Due;
use crate::train::generation::Generation;
use crate::train::memory_report::{Bytes, MemoryReport};
use crate::train::model_card::Facts;
use crate::train::model_loading::Loaded;
use crate::train::profiling::Profiling;
use crate::train::recorder::Recorder;
use crate::train::resumed::{Resumed, Start};
use crate::train::session::Session;
use crate::train::step::{StepOutcome, Stepper};
use crate::train::training_data::{TrainingData, record};
use crate::train::utilization::Utilization;
use crate::train::warnings::Warnings;
use crate::train::{
    best, memory_report, optimizer_files, optimizers, report, schedule, settings, shared_folder, summary,
};
use serde_json::{Value, json};
use std::sync::Arc;

mod evaluations;

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Ended {
    /// All steps were taken.
    Finished,
    /// A stop was requested; the checkpoint of this step was written.
    Stopped { step: u64 },
}

/// A training run.
pub struct Trainer {
    config: Config,
    comm: Arc<dyn Collective>,
    data: TrainingData,
    stepper: Stepper,
    checkpoints: Checkpoints,
    generation: Option<Generation>,
    recorder: Option<Recorder>,
    progress: Progress,
    state: TrainerState,
    steps_per_epoch: u64,
    micro_batch_tokens: usize,
    utilization: Option<Utilization>,
    clock: Clock,
    warnings: Warnings,
    /// With `reduce_lr_on_plateau` only.
    plateau: Option<Plateau>,
    /// Bytes allocated by tensors after the last step.
    held: Option<Bytes>,
    /// Step of the latest checkpoint in the folder.
    saved: Option<u64>,
    start: Start,
}

impl Trainer {
    /// Opens the run's folder, finds the checkpoint to resume from, and prepares the first step. All ranks call it.
    ///
    /// # Errors
    /// Exit 2 for an invalid configuration, folder or dataset; the same error on every rank.
    pub fn open(config: Config, comm: Arc<dyn Collective>, start: Start) -> Result<Self> {
        let (dir, resumed) = Resumed::find(&config, comm.as_ref(), &start)?;
        let session = Session::open(config, Arc::clone(&comm), resumed.as_ref())?;
        let fingerprint = session.data.train.dataset.fingerprint().map(|byte| format!("{byte:02x}")).concat();
        let allowed = start.allow_new_data_order;
        let stream = session.data.stream.clone();
        let check = resumed.as_ref().map(|r| r.check(&session.config, (&fingerprint, stream.as_deref()), allowed));
        let check = check.transpose();
        let changed = comm.agree(check, "comparing settings")?.unwrap_or_default();
        let sampler = session.sampler()?;
        let utilization = Utilization::of(&session, &sampler);
        let steps_per_epoch = sampler.steps_per_epoch();
        let max_steps = settings::total_steps(&session.config, steps_per_epoch);
        let mut schedule = schedule::schedule(&session.config, max_steps, steps_per_epoch);
        report::header(&session, resumed.as_ref(), (&schedule, steps_per_epoch), &changed);
        let Session {
            config,
            groups,
            folder,
            loaded,
            teacher,
            data,
            micro_batch_tokens,
            recompute,
            generation: generation_file,
            max_length,
            ..
        } = session;
        let Loaded { model, params, weights, names, adapter, .. } = loaded;

        let scaler = settings::scaler(&config, resumed.as_ref().and_then(|r| r.state.loss_scale.as_ref()));
        let plateau = schedule::plateau(&config, resumed.as_ref().and_then(|r| r.state.plateau.as_ref()));
        schedule.learning_rate = plateau.map_or(schedule.learning_rate, |plateau| plateau.learning_rate);
        let mut stepper = Stepper::new(&config, groups, (model, params, weights), &names, schedule, scaler)?;
        stepper.config.recompute = settings::checkpointing(recompute);
        stepper.teacher = teacher;
        memory_report::record_kept(comm.device(), stepper.kept());
        let from = resumed.as_ref().map(|r| r.from.clone());
        let saved = resumed.as_ref().filter(|r| r.own).map(|r| r.state.global_step);
        let thaws = resumed.as_ref().map_or(Ok(false), |r| r.thaws(&config))?;
        let same =
            resumed.as_ref().map_or(Ok(()), |r| r.check_optimizer(&optimizers::record(&stepper.optimizer.rule())));
        comm.agree(same, "comparing optimizers")?;
        let line = resumed.as_ref().map(|r| r.line(comm.world(), &changed));
        let mut state = TrainerState {
            format: TrainerState::format(),
            max_steps,
            optimizer: optimizers::record(&stepper.optimizer.rule()),
            world: comm.world(),
            micro_batch_tokens: Some(micro_batch_tokens),
            threads: Some(tch::get_num_threads() as usize),
            data: fingerprint,
            teacher: stepper.teacher.as_ref().map(|teacher| teacher.fingerprint.clone()),
            labels: data.train.facts.labels.clone(),
            settings: config.to_toml(),
            ..resumed.map(|r| r.state).unwrap_or_default()
        };
        state.log_history.extend(line);
        state.stream = stream.map(|shards| shards.begin(&state.data, state.stream.take()));
        if let Some(from) = &from {
            let read = optimizer_files::read(&mut stepper, from, &state, thaws);
            comm.agree(read, "reading the optimizer state")?;
        }
        let open = || Generation::open(folder.generation(), &config.generation, config.seed);
        let samples = config.train.report_texts.then_some(config.task.kind);
        let generation = match samples {
            _ if config.task.predict_with_generate => {
                let longest = config.task.target_length().unwrap_or(MAX_TARGET_LENGTH);
                Some(open().map(|generation| generation.or_at_most(longest)))
            }
            Some(TaskKind::Chat) => Some(open().and_then(Generation::ending_as_answers)),
            Some(TaskKind::CausalLm) => Some(open()),
            _ => None,
        };
        let generation = comm.agree(generation.transpose(), "reading the generation settings")?;
        if config.checkpoint.writers == Writers::All && comm.world() > 1 {
            shared_folder::check(comm.as_ref(), &config.output_dir)?;
        }
        let begin = |dir| Recorder::begin(dir, from.as_deref(), &config, &state, comm.as_ref(), folder.tokenizer());
        let recorder = comm.agree(dir.as_ref().map(begin).transpose(), "opening metrics.jsonl")?;
        let progress = Progress::new(max_steps, state.global_step, comm.is_main());
        let checkpoints = Checkpoints {
            dir,
            output_dir: config.output_dir.clone(),
            writers: config.checkpoint.writers,
            comm: Arc::clone(&comm),
            names,
            settings: state.settings.clone(),
            origin: folder.tokenizer().to_owned(),
            adapter,
            generation: generation_file,
            more: stepper.model.task.folder_files(max_length),
            limit: config.train.save_total_limit,
            keeps_best: config.train.load_best_model_at_end,
            pending: None,
        };
        let data = TrainingData::new(data, sampler, &stepper.model, micro_batch_tokens);
        Ok(Trainer {
            config,
            comm,
            data,
            stepper,
            checkpoints,
            generation,
            recorder,
            progress,
            state,
            steps_per_epoch,
            micro_batch_tokens,
            utilization,
            clock: Clock::new(),
            warnings: Warnings::new(),
            plateau,
            held: None,
            saved,
            start,
        })
    }

    /// Trains until the last step or until a stop is requested.
    ///
    /// # Errors
    /// Those of a step, of evaluation and of saving. A checkpoint that is being written is completed first.
    pub fn run(&mut self) -> Result<Ended> {
        self.train().inspect_err(|_| {
            let saved = self.checkpoints.rescue();
            self.report_saved(saved);
        })
    }

    fn train(&mut self) -> Result<Ended> {
        let (first, last) = (self.state.global_step + 1, self.state.max_steps);
        let device = self.comm.device();
        let mut feed = self.data.feed(self.config.seed, self.comm.as_ref(), &self.state)?.peekable();
        // Filling the buffer of a stream is preparation, as tokenizing is without one.
        feed.peek();
        let mut profiling = Profiling::new(&self.config, self.comm.as_ref(), first - 1, last)?;
        (self.clock, self.warnings) = (Clock::new(), Warnings::new());
        memory_report::reset(device)?;
        if first > last {
            self.progress.event(&format!("nothing left to train: {} of {last} steps are done", first - 1));
        }
        if first == 1 && self.config.train.eval_on_start {
            self.evaluate()?;
        }
        for input in feed {
            if let Some(reason) = best::reason_to_stop(&self.state, &self.config.train) {
                self.progress.event(&format!("{}  {reason}", self.state.place()));
                if self.config.train.save_strategy != IntervalStrategy::No {
                    self.save(true)?;
                }
                break;
            }
            let mut input = input?;
            let (step, streamed) = (input.step, input.streamed.take());
            self.clock.pause(|| profiling.before(step))?;
            let (tokens, before) = (input.tokens, [traffic(), between_hosts()]);
            let stop = self.start.stop.raised() || self.checkpoints.has_failed();
            let Some(outcome) = self.stepper.step(input, stop)? else {
                self.save(true)?;
                self.progress.finish();
                return Ok(Ended::Stopped { step: self.state.global_step });
            };
            if let Some(path) = self.clock.pause(|| profiling.after(step, self.comm.as_ref()))? {
                self.progress.event(&format!("wrote {}", path.display()));
            }
            self.clock.tokens += tokens;
            self.clock.communicated += traffic() - before[0];
            self.clock.between_hosts += between_hosts() - before[1];
            self.clock.steps += 1;
            self.clock.first_step.get_or_insert_with(|| self.start.began.elapsed().as_secs_f64());
            self.state.global_step = step;
            self.state.skipped_steps += u64::from(outcome.skipped);
            self.state.add_loss(outcome.loss);
            self.state.epoch = step as f64 / self.steps_per_epoch as f64;
            let notes = streamed.map(|streamed| record(streamed, &mut self.state)).unwrap_or_default();
            notes.iter().for_each(|note| self.progress.event(&format!("data      {note}")));
            self.held = (step == last).then(|| Bytes::held(device, self.stepper.kept()));
            self.after_step(&outcome, step == last)?;
        }
        self.finish()
    }

    /// Logs, evaluates and saves if the configuration asks for it after this step.
    fn after_step(&mut self, outcome: &StepOutcome, last: bool) -> Result<()> {
        let step = self.state.global_step;
        let due = Due::after(step, last, &self.config.train, self.steps_per_epoch);
        if outcome.skipped {
            let StepOutcome { loss, grad_norm, .. } = outcome;
            let scale = self.stepper.scaler.as_ref();
            let scale = scale.map_or_else(String::new, |scaler| format!("; the loss scale is {} now", scaler.scale()));
            let at = self.state.place();
            self.progress.event(&format!("{at}  skipped: loss {loss}, grad_norm {grad_norm}{scale}"));
        }
        self.progress.step(step, self.state.mean_loss(), self.clock.rate());
        if due.log {
            self.log_step(outcome);
        } else if self.progress.is_silent() {
            self.print_step(outcome);
        }
        for warning in self.warnings.after_step(outcome.loss) {
            self.progress.event(&format!("warning   {warning}"));
        }
        let written = self.checkpoints.poll();
        self.report_saved(written);
        let best = due.evaluation && self.evaluate()?;
        if due.checkpoint || (best && self.config.train.load_best_model_at_end) {
            self.save(last)?;
        }
        Ok(())
    }

    fn print_step(&self, outcome: &StepOutcome) {
        let StepOutcome { grad_norm, learning_rate, .. } = *outcome;
        let (at, loss, rate) = (self.state.place(), self.state.mean_loss(), self.clock.rate());
        let left = self.clock.left(self.state.max_steps - self.state.global_step);
        let left = left.map_or_else(String::new, |seconds| format!("  {} left", progress::clock(seconds)));
        let mfu = self.utilization.map(|utilization| 100.0 * utilization.mfu(rate));
        let mfu = mfu.map_or_else(String::new, |percent| format!("  MFU {percent:.1} %"));
        let numbers =
            format!("loss {loss:.4}  norm {grad_norm:.2}  lr {learning_rate:.1e}  {rate:.0} tok/s{mfu}{left}");
        self.progress.line(&format!("{at}  {numbers}"));
    }

    fn log_step(&mut self, outcome: &StepOutcome) {
        self.print_step(outcome);
        let memory = Bytes::peak(self.comm.device(), self.stepper.kept());
        let rate = self.clock.rate();
        let mut line = summary::step_line(&self.state, outcome, &mut self.stepper, (rate, memory.total));
        if let Some(utilization) = self.utilization {
            line["mfu"] = json!(utilization.mfu(rate));
        }
        (self.state.loss_sum, self.state.loss_steps) = (0.0, 0);
        self.clock.lap();
        self.record(line);
    }

    /// Writes the checkpoint of this step unless it exists already; `waits` until it is complete.
    fn save(&mut self, waits: bool) -> Result<()> {
        let Stepper { params, optimizer, begun, .. } = &self.stepper;
        self.state.moments_began = begun.updates_before(params, optimizer);
        self.state.loss_scale = self.stepper.scaler.as_ref().map(settings::loss_scale);
        self.state.plateau = self.plateau.as_ref().map(|plateau| schedule::plateau_state(&self.config, plateau));
        let (checkpoints, stepper, state) = (&mut self.checkpoints, &mut self.stepper, &self.state);
        let saved = self.clock.pause(|| match self.saved == Some(state.global_step) {
            true if waits => checkpoints.settle().map(Vec::from_iter),
            true => Ok(Vec::new()),
            false => checkpoints.save(stepper, state, waits),
        })?;
        self.saved = Some(self.state.global_step);
        self.report_saved(saved);
        Ok(())
    }

    fn report_saved(&mut self, saved: impl IntoIterator<Item = Saved>) {
        for saved in saved {
            let path = self.config.output_dir.join(format!("checkpoint-{}", saved.step));
            self.progress.event(&format!("{}  {}", self.state.place(), saved.text(&path)));
            logs::tell_metrics(&saved.line());
            if let Some(recorder) = &mut self.recorder {
                recorder.write(&saved.line());
            }
        }
    }

    /// Appends a line to `metrics.jsonl` and to the history stored in checkpoints.
    fn record(&mut self, line: Value) {
        if self.comm.is_main() {
            logs::tell_metrics(&line);
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.write(&line);
        }
        self.state.log_history.push(line);
    }

    fn finish(&mut self) -> Result<Ended> {
        let saved = self.checkpoints.settle()?;
        self.report_saved(saved);
        self.clock.lap();
        self.progress.finish();
        let best = self.state.best_global_step.filter(|_| self.config.train.load_best_model_at_end);
        let facts = Facts::new(&self.config, &self.state, self.data.examples(), best);
        self.checkpoints.finish(&mut self.stepper, facts)?;
        let mut peaks = vec![0.0; self.comm.world()];
        peaks[self.comm.rank()] = memory::peak_rss_bytes() as f64;
        self.comm.all_reduce_f64(&mut peaks, Op::Sum, "peak memory")?;
        let peaks: Vec<u64> = peaks.into_iter().map(|p| p as u64).collect();
        let (device, kept) = (self.comm.device(), self.stepper.kept());
        let held = self.held.unwrap_or_else(|| Bytes::held(device, kept));
        let memory = MemoryReport::gather(self.comm.as_ref(), Bytes::peak(device, kept), held)?;
        if let Some(recorder) = &mut self.recorder {
            let peaks = (peaks.as_slice(), &memory);
            let summary = summary::line(&self.state, &self.clock, &self.stepper.params, &self.start, peaks);
            logs::tell_metrics(&summary);
            recorder.finish(&self.state, &summary);
        }
        if self.comm.is_main() {
            let peak = peaks.iter().copied().max().unwrap_or_default();
            report::closing(&self.state, &self.clock, peak, &memory, &self.config, best);
        }
        Ok(Ended::Finished)
    }
}
