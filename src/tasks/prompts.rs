//! Encodes prompts for generation with causal language models.

use super::record_filter::RecordFilter;
use crate::data::prepare::{Encode, Encoded, Extras};
use crate::data::{Collation, Example, Label};
use crate::error::Result;
use crate::text::chat_template::{ChatTemplate, Kwargs};
use crate::text::files::Files;
use crate::text::parallel::on_all_cores;
use crate::text::prompts::{self, Asked, Prompt, PromptSource};
use crate::text::records;
use crate::text::token_template::TokenTemplate;
use crate::text::tokenizer::Tokenizer;
use serde_json::{Value, json};
use std::borrow::Cow;

/// Encodes a file of prompts of less than `max_length` tokens, which leaves room for an answer.
///
/// A text is encoded with the leading special tokens. A prompt or conversation is rendered by the folder's chat
/// template with the generation prompt. Without a chat template, a prompt is encoded like a text.
#[derive(Debug, Clone)]
pub struct Prompts {
    pub source: PromptSource,
    pub max_length: usize,
}

/// Encodes prompts to tokens.
pub struct Writer<'a> {
    tokenizer: Cow<'a, Tokenizer>,
    template: Option<ChatTemplate>,
    token_template: TokenTemplate,
    max_length: usize,
}

impl<'a> Writer<'a> {
    /// Creates a writer for prompts of less than `max_length` tokens.
    ///
    /// # Errors
    /// As [`ChatTemplate::of_folder`].
    pub fn new(tokenizer: &'a Tokenizer, max_length: usize) -> Result<Self> {
        Self::with(Cow::Borrowed(tokenizer), max_length)
    }

    /// Creates a writer that owns its tokenizer.
    ///
    /// # Errors
    /// As [`Writer::new`].
    pub fn owning(tokenizer: Tokenizer, max_length: usize) -> Result<Writer<'static>> {
        Writer::with(Cow::Owned(tokenizer), max_length)
    }

    fn with(tokenizer: Cow<'a, Tokenizer>, max_length: usize) -> Result<Self> {
        let template = ChatTemplate::of_folder(tokenizer.folder(), tokenizer.special_texts())?;
        let token_template = tokenizer.token_template(false)?;
        Ok(Writer { tokenizer, template, token_template, max_length })
    }

    /// Whether there is a chat template for conversations.
    pub fn has_template(&self) -> bool {
        self.template.is_some()
    }

    /// Encodes a prompt.
    ///
    /// # Errors
    /// A message: no tokens, or too many; a conversation that the template rejects.
    pub fn write(&self, asked: &Asked) -> Result<Vec<u32>, String> {
        self.write_with(asked, &Kwargs::new())
    }

    /// Encodes a prompt with further variables of the chat template.
    fn write_with(&self, asked: &Asked, kwargs: &Kwargs) -> Result<Vec<u32>, String> {
        let of_text = |text: &str| self.tokenizer.ids(text).map_err(|e| e.to_string());
        let ids = match (asked, &self.template) {
            (Asked::Text(text), _) | (Asked::Prompt(text), None) => {
                let ids = of_text(text)?;
                [self.token_template.missing(&ids).0, ids].concat()
            }
            (Asked::Prompt(prompt), Some(template)) => {
                of_text(&template.prompt(&[json!({"role": "user", "content": prompt})], None, kwargs)?)?
            }
            (Asked::Messages { messages, tools }, Some(template)) => {
                of_text(&template.prompt(messages, tools.as_ref(), kwargs)?)?
            }
            (Asked::Messages { .. }, None) => {
                return Err(format!(
                    "messages need a chat template, and {} has none: put the model's chat_template.jinja there, or give \
                     each record a prompt",
                    self.tokenizer.folder().display()
                ));
            }
        };
        match ids.len() {
            0 => Err("the prompt has no tokens".into()),
            n if n >= self.max_length => Err(format!(
                "the prompt has {n} tokens, but prompt and answer have at most {}: shorten it",
                self.max_length
            )),
            _ => Ok(ids),
        }
    }
}

impl Encode for Prompts {
    fn files(&self) -> &Files {
        &self.source.files
    }

    fn settings(&self) -> String {
        let PromptSource { files, format, text, prompt, messages, on_bad_record } = &self.source;
        let formats = records::formats(files, *format);
        format!("{:?}", ("prompts with kwargs", self.max_length, formats, text, prompt, messages, on_bad_record))
    }

    /// # Errors
    /// Those of [`prompts::read`] and [`ChatTemplate::of_folder`]; unless invalid records are skipped: a conversation
    /// that the template rejects, a prompt without tokens or with too many.
    fn encode(&self, tokenizer: &Tokenizer) -> Result<Encoded> {
        let read = prompts::read(&self.source)?;
        let writer = Writer::new(tokenizer, self.max_length)?;
        let write = |prompt: &Prompt| (prompt.line, writer.write_with(&prompt.asked, &prompt.kwargs));
        let written = on_all_cores(&read.records, write);
        let mut filter = RecordFilter::new(&self.source.files, self.source.on_bad_record, false, read.skipped);
        let prompts = filter.keep(written.into_iter())?;
        let example = |ids: Vec<u32>| {
            let segments = vec![0; ids.len()];
            Example::single(ids, segments, Label::None)
        };
        Ok(Encoded {
            examples: prompts.into_iter().map(example).collect(),
            collation: Collation::NextToken,
            hashes: read.hashes,
            labels: None,
            skipped: filter.bad,
            truncated: 0,
            remarks: read.remarks,
            references: Value::Null,
            extras: Extras::default(),
        })
    }
}
