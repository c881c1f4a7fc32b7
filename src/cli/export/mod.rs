//! `trainer export`

mod keys;
mod modelfile;
mod template;

use crate::checkpoint::adapter::{AdapterConfig, CONFIG};
use crate::checkpoint::gguf::encoding::Encoding;
use crate::checkpoint::gguf::{self, Model};
use crate::checkpoint::import;
use crate::checkpoint::tensors::TensorFile;
use crate::checkpoint::weight_files::Folders;
use crate::checkpoint::weight_sets::WeightSet;
use crate::error::{Error, Result};
use crate::generate::Settings;
use crate::hub::{self, Repo};
use crate::models::family::DropoutOverrides;
use crate::models::registry;
use crate::observe::logs::tell;
use crate::observe::memory::human;
use crate::tasks::Head;
use crate::text::chat_template::{self, ChatTemplate, Kwargs};
use crate::text::llama_cpp::LlamaCppTokenizer;
use crate::text::tokenizer::Tokenizer;
use crate::train::model_folder;
use crate::train::model_loading::Declared;
use clap::{Args, ValueEnum};
use modelfile::Modelfile;
use serde_json::Map;
use std::path::{Path, PathBuf};
use tch::Kind;
use template::GoTemplate;

/// `trainer export`
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Folder of a language model: a run's final model or a checkpoint, or any folder in Hugging Face's format; or its
    /// name on the Hugging Face Hub.
    model: PathBuf,
    /// Format to write.
    #[arg(long, value_enum)]
    to: Format,
    /// Type of the weights: f32, f16, bf16 or q8_0 [default: bf16 if the folder's are, else f16].
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// File to create [default: MODEL/model-TYPE.gguf, for a folder].
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// A format of another program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One file for llama.cpp, Ollama and others.
    Gguf,
}

/// Writes a language model as a GGUF file with its tokenizer and chat template, and a `Modelfile` beside it.
///
/// # Errors
/// Exit 2: no language model, an adapter, what the format or llama.cpp does not have (naming the tensor or the setting),
/// or an output that exists.
pub fn run(args: &ExportArgs) -> Result<()> {
    let ExportArgs { model: named, to: Format::Gguf, kind, output } = args;
    if output.is_none() && Repo::of_path(named).is_some() {
        return Err(Error::input(format!("{}: on the Hub: name the file to write: --output FILE", named.display())));
    }
    let folder = &hub::model_folder(named, true)?;
    if AdapterConfig::is_in(folder) {
        let adapter = folder.display();
        return Err(Error::input(format!(
            "{adapter}: an adapter ({CONFIG}); export the full model: trainer merge {adapter} FOLDER, then trainer export \
             FOLDER"
        )));
    }
    let json = registry::read_config(folder)?;
    let head = Head::of_config(folder, &json)?;
    if head != Head::CausalLm {
        return Err(Error::input(format!(
            "{}: not a language model with a causal-lm head, which is what llama.cpp generates with",
            folder.join("config.json").display()
        )));
    }
    let description = registry::llama_cpp(folder, &json)?;
    let encoding = encoding(kind.as_deref(), folder)?;
    let shaped = Declared::read(folder, json, DropoutOverrides::default(), head.role())?.with_head(&head);
    let names = shaped.model.backbone.hf_names();
    import::check(Folders::from(folder.as_path()), &shaped.specs, &names)?;
    let rows = shaped.model.backbone.vocab_size();
    let settings = Settings::read(folder, &Map::new())?;
    let tokenizer = LlamaCppTokenizer::of_folder(folder, rows, &settings.eos)?;
    let templates = chat_template::sources(folder)?;

    let output = output.clone().unwrap_or_else(|| folder.join(format!("model-{}.gguf", encoding.name())));
    if output.exists() {
        return Err(Error::input(format!("{}: exists already: give another --output", output.display())));
    }
    let keys = keys::keys(&model_folder::name_of(named), encoding, &description, &tokenizer, &templates);
    let model = Model { folder, names: &names, keys, tensors: &description.tensors, encoding };
    let written = gguf::write(&output, &model)?;
    let file = output.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let modelfile = Modelfile {
        file: &file,
        template: go_template(folder, &tokenizer)?,
        settings: &settings,
        stops: tokenizer.ends.iter().map(|&id| tokenizer.tokens[id as usize].clone()).collect(),
        context_length: description.context_length,
    };
    let beside = output.with_file_name("Modelfile");
    let is_written = modelfile.write(&beside)?;
    for note in description.notes.iter().chain(&tokenizer.notes) {
        tell(&format!("note: {note}"));
    }
    if let [first, ..] = &written.unused[..] {
        tell(&format!("note: {} tensors are not a part of the model and were left out: {first}", written.unused.len()));
    }
    if !is_written {
        tell(&format!("note: {} is not from trainer export and was kept", beside.display()));
    }
    let (count, size) = (description.tensors.len(), human(written.bytes));
    tell(&format!("exported {count} tensors in {} to {}, {size}", encoding.name(), output.display()));
    Ok(())
}

/// Returns the type of the weights that is asked for, or the default.
fn encoding(wanted: Option<&str>, folder: &Path) -> Result<Encoding> {
    let Some(wanted) = wanted else {
        for path in WeightSet::of(folder)?.files {
            let file = TensorFile::open(&path)?;
            if let Some(name) = file.names().first() {
                let is_bf16 = file.kind(name)? == Kind::BFloat16;
                return Ok(if is_bf16 { Encoding::Bf16 } else { Encoding::F16 });
            }
        }
        return Err(WeightSet::none_in(folder));
    };
    let lower = wanted.to_lowercase();
    let known = Encoding::ALL.into_iter().find(|encoding| encoding.name() == lower);
    known.ok_or_else(|| {
        let names = Encoding::ALL.map(Encoding::name).join(", ");
        // Such as q4_k_m, iq3_xs, tq1_0.
        let is_smaller = ["q", "iq", "tq", "mxfp"]
            .iter()
            .any(|start| lower.strip_prefix(start).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())));
        Error::input(if is_smaller {
            format!(
                "--type {wanted}: {names} are written here; llama.cpp makes smaller types from f16 or bf16: \
                 llama-quantize model-f16.gguf model-{lower}.gguf {}",
                wanted.to_uppercase()
            )
        } else {
            format!("--type {wanted}: expected one of {names}")
        })
    })
}

/// Returns Ollama's template, or why there is none.
fn go_template(folder: &Path, tokenizer: &LlamaCppTokenizer) -> Result<Result<GoTemplate, String>> {
    let own = Tokenizer::from_folder(folder)?;
    let Some(template) = ChatTemplate::of_folder(folder, own.special_texts())? else {
        return Ok(Err("the model has no chat template".into()));
    };
    let bos = tokenizer.special.iter().find(|(key, _)| *key == "bos_token_id");
    let bos = bos.map(|&(_, id)| (tokenizer.tokens[id as usize].as_str(), tokenizer.adds_bos));
    let found = GoTemplate::find(|messages| template.prompt(messages, None, &Kwargs::new()).ok(), bos);
    Ok(found.map_err(|why| format!("the chat template cannot be expressed in Ollama's language: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_smaller_type_leads_to_the_command_of_llama_cpp() {
        let refused = |kind: &str| encoding(Some(kind), Path::new("nowhere")).unwrap_err().to_string();
        let message = refused("Q4_K_M");
        assert!(message.ends_with("llama-quantize model-f16.gguf model-q4_k_m.gguf Q4_K_M"), "{message}");
        assert!(refused("iq3_xs").contains("IQ3_XS"));
        assert_eq!(refused("int8"), "--type int8: expected one of f32, f16, bf16, q8_0");
        assert_eq!(encoding(Some("Q8_0"), Path::new("nowhere")).unwrap(), Encoding::Q8_0);
    }
}
