//! The settings: each is declared here once. Documentation, messages and `--print-config` follow from the declarations.

mod augment;
mod distill;
mod lora;
mod model;
mod tables;
mod train;

pub use self::augment::AugmentConfig;
pub use self::distill::DistillConfig;
pub use self::lora::{LoraConfig, TargetModules};
pub use self::model::ModelConfig;
pub use self::tables::{GroupConfig, SourceConfig, StageConfig, Unfreeze, columns};
pub use self::train::TrainConfig;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::choice::{
    Backend, Documents, EmbeddingLoss, Format, Offload, OnBadRecord, Pooling, Precision, Sampling, ShardWithin,
    TaskKind, Writers,
};
use super::class_weights::ClassWeights;
use super::data_files::DataFiles;
use super::eval_sets::EvalSets;
use super::eval_split::EvalSplit;
use super::keys::{
    ABOVE_0_BELOW_1, AT_LEAST_1, AT_LEAST_2, AT_LEAST_3, DefaultValue, Entries, FROM_0_TO_1, Key, LOSS_SCALE, POSITIVE,
    SECONDS, Section, parse, section,
};
use super::mixed::{Bytes, EarlyStopping, Recompute, ZeroStage};
use super::problems::Problems;
use super::value::Value;

section! {
    /// A complete and checked configuration. Relative paths start at the working directory.
    Config in "" {
        /// Run folder.
        output_dir: PathBuf;
        /// Replaces an existing run in `output_dir`. Otherwise such a folder is an error, unless the run is resumed.
        overwrite_output_dir: bool = false;
        /// Seed of the data order, dropout, and initialization.
        seed: u64 = 42;
    }
    with {
        model: ModelConfig;
        lora: LoraConfig;
        task: TaskConfig;
        data: DataConfig;
        augment: AugmentConfig;
        train: TrainConfig;
        distill: DistillConfig;
        generation: GenerationConfig;
        parallel: ParallelConfig;
        checkpoint: CheckpointConfig;
        comm: CommConfig;
    }
}

section! {
    /// `[task]`: the task that the model learns.
    TaskConfig in "task" {
        /// Task that the model is fine-tuned for. `sequence-classification` (single-label), `multi-label`,
        /// `regression`, `token-classification` (a tag for each word), `multiple-choice`, `question-answering`
        /// (extractive), `seq2seq` (a target, given its source), `causal-lm`, `masked-lm`, `chat` ([language
        /// models](language-models.md)) or `embedding` ([sentence embeddings](embeddings.md)). [What each reads and
        /// writes](#tasks).
        kind: TaskKind;
        /// Labels or tags, in the order of their ids. Inferred labels are sorted as numbers if all are integers, else
        /// as strings; spaces around them are removed; classes that Parquet and Arrow files name have [their
        /// order](data.md#labels); a folder that was fine-tuned on the same labels keeps its own order. A label in the
        /// data that is not in the list makes its record invalid.
        labels: Option<Vec<String>> => "inferred from the training data";
        /// Weights of the classes in the training loss. For `sequence-classification` and `token-classification`: a
        /// table of labels with their weights, such as `{ spam = 3.0, ham = 1.0 }` (1 for labels that are not in it), or
        /// `"balanced"`: inversely proportional to how often the training data has a label. The mean loss is the
        /// weighted one of `torch.nn.CrossEntropyLoss`; evaluations are not weighted ([more](fine-tuning.md#losses)).
        class_weights: Option<ClassWeights> => "equal weights";
        /// Text prepended to every source, for `seq2seq`. For example T5's `"translate English to German: "`, including
        /// the space.
        source_prefix: Option<String> => "none";
        /// Maximum target length in tokens, for `seq2seq`. Longer targets are truncated; special tokens count.
        /// `data.max_length` is for the sources.
        max_target_length: Option<usize> => "128", AT_LEAST_2;
        /// Generates targets in evaluations, for `seq2seq`. Each evaluation also generates a target for each source,
        /// with the settings of [`[generation]`](#generation), and reports `bleu` and `rougeL` against the references
        /// ([more](generation.md#in-evaluations)).
        predict_with_generate: bool = false;
        /// Packs documents into blocks, for language models. A block has up to `data.max_length` tokens, and its
        /// documents do not attend to each other ([more](language-models.md#documents-and-blocks)). `false`: an example
        /// is one document, truncated.
        packing: Option<bool> => "`true` where possible";
        /// Fraction of tokens to predict, for `masked-lm`. Of these, 80 % are replaced by the mask token, 10 % by a
        /// random token, and 10 % stay as they are ([more](language-models.md#masked-language-models)).
        mlm_probability: Option<f64> => "0.15", ABOVE_0_BELOW_1;
        /// Masks whole words, for `masked-lm`. All tokens of a word are masked together.
        whole_word_mask: Option<bool> => "false";
        /// Adds next-sentence prediction, for `masked-lm`. Examples are pairs of texts, and the model also predicts
        /// whether the second follows the first ([more](language-models.md#next-sentence-prediction)).
        next_sentence: Option<bool> => "false";
        /// Makes an example of each answer, for `chat`. An answer's example has the messages before it; for templates that
        /// leave out the reasoning of earlier answers ([more](language-models.md#one-example-per-answer)).
        split_turns: Option<bool> => "false";
        /// Loss, for `embedding`. `multiple_negatives_ranking`: a text is compared with its match and with all other
        /// matches and negatives of the global batch; `cosine_similarity`: the cosine similarity of a pair should be its
        /// score ([more](embeddings.md#losses)).
        loss: Option<EmbeddingLoss> => "multiple_negatives_ranking";
        /// Factor of similarities in the loss, for `embedding`. The inverse of InfoNCE's temperature. With
        /// `multiple_negatives_ranking`.
        scale: Option<f64> => "20", POSITIVE;
        /// Score of equal texts, for `embedding`. Scores of pairs are divided by it.
        max_score: Option<f64> => "1", POSITIVE;
        /// How the vector of a text is made, for `embedding`. `mean` of all tokens, `cls`: the first token, or
        /// `lasttoken`.
        pooling: Option<Pooling> => "the model folder's, else `mean`";
        /// Divides vectors by their length, for `embedding`.
        normalize: Option<bool> => "the model folder's, else false";
    }
    with {
        /// Set with [`TaskKind::QuestionAnswering`] only.
        #[serde(flatten)]
        answers: Option<AnswerConfig>;
    }
}

impl TaskConfig {
    /// Returns a task with all settings at their defaults.
    pub fn new(kind: TaskKind) -> Self {
        let answers = (kind == TaskKind::QuestionAnswering).then(AnswerConfig::default);
        TaskConfig { kind, answers, ..TaskConfig::default() }
    }
}

section! {
    /// The settings of question answering. Names and defaults are those of Hugging Face's run_qa.py.
    AnswerConfig in "task" {
        /// Overlap of neighboring windows in tokens. For question answering: a context that does not fit into
        /// `max_length` with its question is divided into overlapping windows ([more](question-answering.md)).
        doc_stride: usize = 128;
        /// Number of candidates. For question answering: how many of the best start positions, end positions, and
        /// answers are considered.
        n_best_size: usize = 20, AT_LEAST_1;
        /// Maximum answer length in tokens. For question answering.
        max_answer_length: usize = 30, AT_LEAST_1;
        /// Score difference for "no answer". For question answering: "no answer" is predicted if its score is higher
        /// than the best answer's by more than this.
        null_score_diff_threshold: f64 = 0.0;
        /// Allows "no answer", as in SQuAD 2.0. For question answering. Inferred: allowed if the training
        /// data, or the data that is evaluated, has a question without an answer.
        version_2_with_negative: Option<bool> => "inferred from the data";
    }
}

section! {
    /// `[data]`: the examples.
    DataConfig in "data" {
        /// Training files. A path, a folder, a pattern such as `"data/*.jsonl"`, or a list of these
        /// ([formats](data.md)). Files compressed by gzip or zstd are read as what they contain; the extension before
        /// `.gz` or `.zst` determines the format.
        train: DataFiles;
        /// Targets of the plain-text sources in `train`, for `seq2seq`. Files whose lines are the targets of the lines
        /// of `train`, as many files as there. Records have their targets in `target_column`.
        train_target: Option<DataFiles> => "none";
        /// Training data that is mixed by weight. Tables `[[data.sources]]` in place of `train`, with the [keys
        /// below](#datasources) ([more](data.md#several-sources)).
        sources: Vec<SourceConfig> = Vec::new();
        /// Evaluation files. Named like `train`.
        eval: Option<DataFiles> => "no evaluation";
        /// Targets of the plain-text sources in `eval`, for `seq2seq`.
        eval_target: Option<DataFiles> => "none";
        /// Part of the training data to hold out for evaluation. A fraction, such as `0.1`, or a fold, such as `"2/5"`:
        /// the second of five parts. It follows from `seed`, and keeps the proportions of the classes
        /// ([more](data.md#held-out-data)).
        eval_split: Option<EvalSplit> => "`data.eval`, if set";
        /// Further evaluation sets, by name. Each evaluation includes them, beside `eval` or what is held out, with
        /// metrics such as `eval_NAME_loss` ([more](data.md#several-evaluation-sets)).
        eval_sets: EvalSets = EvalSets::default();
        /// Maximum sequence length in tokens. Longer sequences are truncated; special tokens count. For language models
        /// the length of a block; for question answering the length of a window, by default at most 384.
        max_length: Option<usize> => "the model's limit; for `causal-lm` and `masked-lm` at most 1024", AT_LEAST_3;
        /// Tokens to add to the tokenizer. Those that it has stay as they are. The new rows of the embedding matrix and
        /// of a language-model head are the mean of the others ([more](model-folders.md#new-tokens)).
        add_tokens: Vec<String> = Vec::new();
        /// Column of the text, or of the first text of a pair.
        text_column: String = "text".into();
        /// Column of the second text of a pair.
        text_pair_column: Option<String> => "`text_pair` if present";
        /// Column of the negatives, for `embedding`. Texts that do not match the text: one, or in JSON, Parquet and Arrow
        /// a list.
        negative_column: Option<String> => "none";
        /// Column of the label. For multi-label a list of labels, for regression a number, for multiple choice the
        /// correct choice, for embeddings the score of a pair.
        label_column: String = "label".into();
        /// Column of the weight of each example in the loss. Numbers >= 0. For `sequence-classification`, `multi-label`
        /// and `regression`: the mean training loss is the sum of the weighted losses divided by the sum of the
        /// weights; evaluations are not weighted and do not read it ([more](fine-tuning.md#losses)).
        weight_column: Option<String> => "equal weights";
        /// How the examples of an epoch are drawn. `random`: each once, in random order. `class_balanced`, for
        /// `sequence-classification`: as many, with replacement, so that all classes are equally likely
        /// ([more](fine-tuning.md#class-balanced-sampling)).
        sampling: Sampling = Sampling::Random;
        /// Column of the source, for `seq2seq`.
        source_column: String = "source".into();
        /// Column of the target, for `seq2seq`.
        target_column: String = "target".into();
        /// Column of the list of words. For token classification with records.
        words_column: String = "words".into();
        /// Column of the list of tags. One tag for each word.
        tags_column: String = "tags".into();
        /// Column of the question, for multiple choice.
        question_column: String = "question".into();
        /// Column of the question's context, for multiple choice.
        context_column: Option<String> => "`context` if present";
        /// Column of the list of choices, for multiple choice.
        choices_column: String = "choices".into();
        /// Column of the prompt, for `chat`.
        prompt_column: String = "prompt".into();
        /// Column of the completion, for `chat`.
        completion_column: String = "completion".into();
        /// Column of the conversation, for `chat`. A record has this column, or a prompt and a completion.
        messages_column: String = "messages".into();
        /// Column names of a CSV or TSV file without a header. Left to right.
        columns: Option<Vec<String>> => "text, text pair, label";
        /// Whether the first row of a CSV or TSV file is a header. Case does not matter. Auto-detected: it is a header
        /// if it has both `text_column` and `label_column`, and a record if it has neither; only one of the two is an
        /// error.
        header: Option<bool> => "auto-detected";
        /// What to do with an invalid record. `error`: end the run before training, with the file and line. `skip`:
        /// skip it, count it, and report the count.
        on_bad_record: OnBadRecord = OnBadRecord::Error;
        /// Folder of the token cache. Later runs need not tokenize the same data again.
        cache_dir: Option<PathBuf> => "`trainer/tokens` in the user's cache folder";
        /// Format of the data files. `jsonl` (also a JSON array), `csv`, `tsv`, `parquet` or `arrow`; for token
        /// classification also `conll`, and neither `csv` nor `tsv`, like multiple choice; for language models also `text`
        /// (by extension `.txt`, `.text`, `.md`).
        format: Option<Format> => "by the file's extension";
        /// Documents of a plain-text file, for language models. `file`: the whole file, `lines`: each line,
        /// `paragraphs`: each paragraph, separated by blank lines. In other formats each record is a document.
        documents: Option<Documents> => "the whole file";
        /// Reads the training files while training. For data that does not fit in memory: files are read one after
        /// another, in another order in each pass, and tokenized ahead. Needs `train.max_steps`
        /// ([more](data.md#streaming)).
        streaming: bool = false;
        /// Examples in the shuffle buffer, with `streaming`. 0 or 1: the order of the files.
        shuffle_buffer_size: usize = 1000;
    }
}

impl DataConfig {
    /// Returns a training file with all settings at their defaults.
    pub fn new(train: impl Into<DataFiles>) -> Self {
        DataConfig { train: train.into(), ..DataConfig::default() }
    }

    /// Whether there is data for evaluation.
    pub fn evaluates(&self) -> bool {
        self.eval.is_some() || self.eval_split.is_some()
    }
}

section! {
    /// `[generation]`: text generation with `task.predict_with_generate`.
    GenerationConfig in "generation" {
        /// Maximum number of new tokens.
        max_new_tokens: Option<usize> => "the model folder's, else 20", AT_LEAST_1;
        /// Minimum number of new tokens.
        min_new_tokens: Option<usize> => "the model folder's, else 0";
        /// Samples tokens. Otherwise decoding is greedy.
        do_sample: Option<bool> => "the model folder's, else false";
        /// Sampling temperature. Logits are divided by it.
        temperature: Option<f64> => "the model folder's, else 1", POSITIVE;
        /// Number of most probable tokens to sample from. 0 for all.
        top_k: Option<usize> => "the model folder's, else 50";
        /// Probability mass of nucleus sampling.
        top_p: Option<f64> => "the model folder's, else 1", FROM_0_TO_1;
        /// Penalty for repeated tokens. Above 1, tokens that already occur become less probable.
        repetition_penalty: Option<f64> => "the model folder's, else 1", POSITIVE;
        /// Size of the n-grams that no text repeats. 0 for no limit.
        no_repeat_ngram_size: Option<usize> => "the model folder's, else 0";
        /// Beam width. 1 for no beam search.
        num_beams: Option<usize> => "the model folder's, else 1", AT_LEAST_1;
        /// Length penalty of beam search. A beam's log-probability is divided by its length to this power.
        length_penalty: Option<f64> => "the model folder's, else 1";
        /// When beam search stops after `num_beams` texts. `true`: immediately. `false`: when no running beam can become
        /// better at its current length. `"never"`: when none can become better at any length.
        early_stopping: Option<EarlyStopping> => "the model folder's, else false";
    }
}

section! {
    /// `[parallel]`: sharding, dtypes and memory.
    ParallelConfig in "parallel" {
        /// What ZeRO shards over ranks. `0`: nothing, `1`: the optimizer state, `2`: gradients too, `3`: weights too.
        /// `"auto"`: the lowest stage that fits ([which to choose](large-models.md#what-to-choose)).
        zero_stage: ZeroStage = ZeroStage::Stage(0);
        /// Ranks among which ZeRO shards. `world`: all ranks. `host`: the ranks of each host, so that weights are gathered
        /// within the host and only reduced gradients pass between hosts; it needs the memory of as many ranks as a host
        /// has ([more](large-models.md#sharding-within-each-host)).
        shard_within: ShardWithin = ShardWithin::World;
        /// What is kept in host memory instead of the GPU's. `none`, or `optimizer`: optimizer state and `fp32` master
        /// weights, which the CPU then updates; each step copies gradients to the host and new weights back ([when to use
        /// it](large-models.md#optimizer-state-in-host-memory)). On a CPU it changes nothing but the counts of copies.
        offload: Offload = Offload::None;
        /// Memory that a rank may use, such as `"16GiB"`. With `zero_stage`, `micro_batch_tokens` or `recompute` `"auto"`
        /// only ([without it](large-models.md#automatic-zero-stage)). Units are `KiB`, `MiB`, `GiB`, `TiB` (powers of
        /// 1024) and `kB`, `MB`, `GB`, `TB` (powers of 1000); a bare number counts bytes.
        memory_per_rank: Option<Bytes> => "nine tenths of the available memory";
        /// Dtype of weights, activations, and gradients. [Which to choose](large-models.md#precision).
        precision: Precision = Precision::Fp32;
        /// Dtype of gradient accumulation and reduction. `fp32`, or the same as `precision`.
        reduce_dtype: Precision = Precision::Fp32;
        /// Initial loss scale, with `precision = "fp16"` only.
        loss_scale_init: Option<f64> => "65536 with fp16", LOSS_SCALE;
        /// Steps without overflow before the loss scale doubles. With `precision = "fp16"` only.
        loss_scale_window: Option<u64> => "2000 with fp16", AT_LEAST_1;
        /// Uses TF32 for fp32 matmuls in training. Several times faster on GPUs from Ampere on, with 11 bits of
        /// precision instead of 24. Evaluation, `trainer evaluate` and `trainer predict` never use it. No effect on
        /// older GPUs and on the CPU; `true` is an error with another `precision`.
        tf32: Option<bool> => "`true` with `fp32` on a GPU";
        /// Activation checkpointing. Blocks of the model (embeddings, each layer) that drop their activations after
        /// forward and recompute them in backward: `none`, `all`, N for all except every N-th (the first keeps its
        /// activations), `first-N` for the first N, or `auto` for as few of the first as fit into the memory of a rank.
        /// The head always keeps its activations ([what it costs](large-models.md#activation-checkpointing)).
        recompute: Recompute = Recompute::None;
        /// CPU threads per rank.
        num_threads: Option<usize> => "`OMP_NUM_THREADS`, else a part of the cores", AT_LEAST_1;
    }
}

section! {
    /// `[checkpoint]`: how checkpoints and the final model are written.
    CheckpointConfig in "checkpoint" {
        /// Which ranks write checkpoints and the final model. `rank0`: rank 0, each file as one. `all`: every rank
        /// writes a part of the tensors, in parallel, into files of its own with an index, which `transformers` loads
        /// like one file. All hosts must then share `output_dir`
        /// ([more](large-models.md#writing-checkpoints-on-all-ranks)).
        writers: Writers = Writers::Rank0;
    }
}

section! {
    /// `[comm]`: communication between ranks.
    CommConfig in "comm" {
        /// Communication backend. `solo` (one rank), `mpi` (CPU), `nccl` (GPU), or `auto`: determined by the hardware
        /// and the launcher. A backend that is set and not available is an error.
        backend: Backend = Backend::Auto;
        /// Timeout of a collective in seconds. A collective that waits longer for a rank ends the run. What one rank
        /// does while the others wait must fit into it: tokenization with a cold cache, writing a checkpoint.
        timeout_seconds: f64 = 600.0, SECONDS;
    }
}
