//! What rank 0 writes about a run while it trains: `metrics.jsonl`, event files, the report.

use crate::checkpoint::{RunDir, TrainerState};
use crate::comm::Collective;
use crate::config::{Config, Reporter};
use crate::error::Result;
use crate::machine::host_name;
use crate::observe::metrics_file::MetricsFile;
use crate::observe::tensorboard::{self, TensorBoard};
use crate::observe::whole_file;
use crate::text::Tokenizer;
use crate::train::evaluate::{Details, Evaluation};
use crate::train::page::{self, Evaluated, RunReport};
use serde_json::Value;
use std::path::Path;

/// The files of a run that record it.
pub struct Recorder {
    metrics: MetricsFile,
    tensorboard: Option<TensorBoard>,
    report: Option<RunReport>,
    /// With `train.report_texts`.
    tokenizer: Option<Tokenizer>,
}

impl Recorder {
    /// Marks the folder as this run's, after everything else has succeeded. `from` is the checkpoint that it resumes
    /// from, `tokenizer` the folder of the tokenizer.
    ///
    /// # Errors
    /// The file's name and the error of the system; a tokenizer that cannot be read.
    pub fn begin(
        dir: &RunDir,
        from: Option<&Path>,
        config: &Config,
        state: &TrainerState,
        comm: &dyn Collective,
        tokenizer: &Path,
    ) -> Result<Self> {
        let tokenizer = config.train.report_texts.then(|| Tokenizer::from_folder(tokenizer)).transpose()?;
        dir.begin(from)?;
        whole_file::write(&dir.config(), config.to_toml())?;
        let metrics = MetricsFile::open(&dir.metrics(), &state.log_history)?;
        let wanted = config.train.report_to.has(Reporter::TensorBoard);
        let tensorboard = wanted.then(|| TensorBoard::open(dir.path(), &host_name(), &state.log_history));
        if !wanted && from.is_none() {
            tensorboard::clear(dir.path());
        }
        if !config.train.report {
            page::remove(dir.path())?;
        }
        let report = config.train.report.then(|| RunReport::new(config, page::environment(comm)));
        Ok(Recorder { metrics, tensorboard, report, tokenizer })
    }

    /// Appends a line of metrics.
    pub fn write(&mut self, line: &Value) {
        if let Some(tensorboard) = &mut self.tensorboard {
            tensorboard.write(line);
        }
        self.metrics.write(line);
    }

    /// Returns what the report needs of an evaluation.
    pub fn details(&self) -> Details<'_> {
        if self.report.is_some() { Details::Examples(self.tokenizer.as_ref()) } else { Details::None }
    }

    /// Writes the report after an evaluation.
    pub fn evaluated(&mut self, state: &TrainerState, evaluation: Evaluation) {
        let Some(report) = &mut self.report else { return };
        let Evaluation { report: classes, examples, .. } = evaluation;
        report.evaluated = Evaluated { step: state.global_step, classes, examples };
        report.write(state, None);
    }

    /// Writes the last line of metrics and the report of the finished run.
    pub fn finish(&mut self, state: &TrainerState, summary: &Value) {
        self.write(summary);
        if let Some(report) = &mut self.report {
            report.write(state, Some(summary));
        }
    }
}
