//! Encodes prompt-completion pairs and conversations, with a loss only on the answers.

use crate::data::example::NO_LABEL;
use crate::data::prepare::{Encode, Encoded, Extras};
use crate::data::{Collation, Example, Label};
use crate::error::{Error, Result};
use crate::text::chat_template::{ChatTemplate, Kwargs, Rendered, is_answer};
use crate::text::conversations::{self, Conversation, ConversationSource, Said};
use crate::text::files::Files;
use crate::text::parallel::on_all_cores;
use crate::text::records;
use crate::text::special_tokens::Special;
use crate::text::token_template::TokenTemplate;
use crate::text::tokenizer::Tokenizer;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::ops::Range;

/// Encodes a file of conversations to examples of at most `max_length` tokens.
#[derive(Debug, Clone)]
pub struct Chat {
    pub source: ConversationSource,
    pub max_length: usize,
    /// Whether each answer of a conversation is an example of its own, with the messages before it.
    pub split_turns: bool,
}

/// Encodes conversations to tokens.
struct Writer<'a> {
    tokenizer: &'a Tokenizer,
    template: Option<ChatTemplate>,
    token_template: TokenTemplate,
    special: HashSet<u32>,
}

/// The tokens of a conversation; the labels are the token ids in answers, [`NO_LABEL`] elsewhere.
#[derive(Debug, PartialEq)]
struct Tokens {
    ids: Vec<u32>,
    labels: Vec<i32>,
}

impl Tokens {
    /// Whether there is a target: an answer token that is not the first token.
    fn has_target(&self) -> bool {
        self.labels.iter().skip(1).any(|&label| label != NO_LABEL)
    }
}

impl<'a> Writer<'a> {
    fn new(tokenizer: &'a Tokenizer) -> Result<Self> {
        let template = ChatTemplate::of_folder(tokenizer.folder(), tokenizer.special_texts())?;
        let (token_template, special) = (tokenizer.token_template(false)?, tokenizer.special_ids());
        Ok(Writer { tokenizer, template, token_template, special })
    }

    /// Returns the tokens of a record; with `split`, of each of its answers.
    fn write(&self, said: &Said, kwargs: &Kwargs, split: bool) -> Result<Vec<Tokens>, String> {
        let template = match (&self.template, said) {
            (Some(template), _) => template,
            (None, Said::Pair { prompt, completion }) => {
                return self.plain(prompt, completion).map(|tokens| vec![tokens]);
            }
            (None, Said::Messages { .. }) => {
                return Err(format!(
                    "messages need a chat template, and {} has none: put the model's chat_template.jinja there, or give \
                     each record a prompt and a completion",
                    self.tokenizer.folder().display()
                ));
            }
        };
        let rendered = match said {
            Said::Pair { prompt, completion } => {
                let said = |role: &str, text: &str| json!({"role": role, "content": text});
                vec![template.render(&[said("user", prompt), said("assistant", completion)], None, kwargs)?]
            }
            Said::Messages { messages, tools, without_loss } if split => {
                let mut turns = template.render_turns(messages, tools.as_ref(), kwargs)?;
                leave_out(&mut turns, messages, without_loss)?;
                turns
            }
            Said::Messages { messages, tools, without_loss } => {
                let mut rendered = template.render(messages, tools.as_ref(), kwargs)?;
                leave_out(&mut rendered.answers, messages, without_loss)?;
                vec![rendered]
            }
        };
        rendered.iter().map(|rendered| self.tokens(rendered)).collect()
    }

    /// Concatenates prompt and completion without a separator and adds the EOS token.
    fn plain(&self, prompt: &str, completion: &str) -> Result<Tokens, String> {
        let text = format!("{prompt}{completion}");
        let answers = std::iter::once(prompt.len()..text.len()).collect();
        let Tokens { ids, mut labels } = self.tokens(&Rendered { text, answers, is_marked: true })?;
        let (before, mut after) = self.token_template.missing(&ids);
        let last = after.last().or(ids.last()).copied();
        after.extend(self.tokenizer.special(Special::Eos).filter(|&eos| last != Some(eos)));
        labels.splice(0..0, before.iter().map(|_| NO_LABEL));
        labels.extend(after.iter().map(|id| id.cast_signed()));
        Ok(Tokens { ids: [before, ids, after].concat(), labels })
    }

    /// Tokenizes a rendered text, which already contains all special tokens.
    fn tokens(&self, rendered: &Rendered) -> Result<Tokens, String> {
        let tokens = self.tokenizer.tokenize(&rendered.text).map_err(|e| e.to_string())?;
        let mut labels = vec![NO_LABEL; tokens.ids.len()];
        for answer in &rendered.answers {
            let mut own = covering(&tokens.offsets, answer);
            if !rendered.is_marked {
                // Text that the template renders after the end-of-turn token is not part of the answer.
                let end = own.clone().rev().find(|&token| self.special.contains(&tokens.ids[token])).map(|end| end + 1);
                let rest = end.map_or("", |end| &rendered.text[tokens.offsets[end - 1].end..answer.end]);
                own.end = end.filter(|_| rest.trim().is_empty()).unwrap_or(own.end);
            }
            for token in own {
                labels[token] = tokens.ids[token].cast_signed();
            }
        }
        Ok(Tokens { ids: tokens.ids, labels })
    }
}

/// Returns the special token with which the folder's chat template ends an answer, if any.
///
/// # Errors
/// Those of [`ChatTemplate::of_folder`].
pub fn answer_end(tokenizer: &Tokenizer) -> Result<Option<u32>> {
    let writer = Writer::new(tokenizer)?;
    let said = Said::Pair { prompt: "a".into(), completion: "b".into() };
    // A template that fails to render this is reported when it is used.
    let tokens = writer.template.as_ref().and_then(|_| writer.write(&said, &Kwargs::new(), false).ok()?.pop());
    let last = tokens.and_then(|tokens| tokens.labels.into_iter().rfind(|&label| label != NO_LABEL));
    Ok(last.map(i32::cast_unsigned).filter(|id| writer.special.contains(id)))
}

/// Returns the range of tokens that overlap the bytes in `range`.
fn covering(bytes: &[Range<usize>], range: &Range<usize>) -> Range<usize> {
    let overlaps = |token: &Range<usize>| token.start < range.end && token.end > range.start;
    let first = bytes.iter().position(overlaps);
    let last = bytes.iter().rposition(overlaps);
    first.zip(last).map_or(0..0, |(first, last)| first..last + 1)
}

/// Removes the answers without loss, by their number, from what a template has rendered for each answer.
fn leave_out<T>(rendered: &mut Vec<T>, messages: &[Value], without_loss: &[usize]) -> Result<(), String> {
    let (all, found) = (messages.iter().filter(|message| is_answer(message)).count(), rendered.len());
    if !without_loss.is_empty() && found != all {
        return Err(format!("the chat template renders {found} of {all} answers: no loss can be left out"));
    }
    let mut numbers = 0..;
    rendered.retain(|_| numbers.next().is_some_and(|n| !without_loss.contains(&n)));
    Ok(())
}

impl Encode for Chat {
    fn files(&self) -> &Files {
        &self.source.files
    }

    fn settings(&self) -> String {
        let ConversationSource { files, format, prompt, completion, messages, on_bad_record } = &self.source;
        let formats = records::formats(files, *format);
        let columns = (prompt, completion, messages);
        let all = format!("{:?}", ("chat with kwargs", self.max_length, formats, columns, on_bad_record));
        if self.split_turns { format!("{all}, each answer") } else { all }
    }

    /// # Errors
    /// Those of [`conversations::read`] and [`ChatTemplate::of_folder`]; unless invalid records are skipped: a
    /// conversation that the template rejects, or whose answers cannot be located; no record with an answer within
    /// `max_length`.
    fn encode(&self, tokenizer: &Tokenizer) -> Result<Encoded> {
        let files = &self.source.files;
        let read = conversations::read(&self.source)?;
        let writer = Writer::new(tokenizer)?;
        let write = |conversation: &Conversation| {
            let tokens = writer.write(&conversation.said, &conversation.kwargs, self.split_turns)?;
            let none = || match tokens.iter().all(|tokens| tokens.labels.iter().all(|&label| label == NO_LABEL)) {
                true => "the chat template renders no answer".to_owned(),
                false => "the answer has no token after the first token of the text".to_owned(),
            };
            if tokens.iter().any(Tokens::has_target) { Ok(tokens) } else { Err(none()) }
        };
        let written = on_all_cores(&read.records, write);
        let (mut bad, mut examples, mut truncated, mut cut_off) = (read.skipped, Vec::new(), 0, Vec::new());
        let (mut good, mut nulls) = (0, 0);
        for (tokens, record) in written.into_iter().zip(&read.records) {
            let tokens = match tokens {
                Ok(tokens) => tokens,
                Err(why) => {
                    bad.push((record.line, why));
                    continue;
                }
            };
            good += 1;
            nulls += usize::from(record.nulls > 0);
            for mut tokens in tokens.into_iter().filter(Tokens::has_target) {
                let is_long = tokens.ids.len() > self.max_length;
                tokens.ids.truncate(self.max_length);
                tokens.labels.truncate(self.max_length);
                if !tokens.has_target() {
                    cut_off.push(record.line);
                    continue;
                }
                truncated += usize::from(is_long);
                let segments = vec![0; tokens.ids.len()];
                examples.push(Example::single(tokens.ids, segments, Label::Tokens(tokens.labels)));
            }
        }
        records::check_bad(files, self.source.on_bad_record, true, good, &bad)?;
        let remark = cut_off.first().map(|line| {
            let what = format!("{} skipped, as max_length = {} truncates all answers", cut_off.len(), self.max_length);
            format!("{what} (first: {})", files.line(*line))
        });
        let removed = (nulls > 0).then(|| {
            format!("null values in tools and tool calls of {nulls} records are left out, as if their keys were absent")
        });
        if examples.is_empty() && !files.are_pieces() {
            let why = remark.unwrap_or_default();
            return Err(Error::input(format!("{files}: no training examples: {why}: raise max_length")));
        }
        Ok(Encoded {
            examples,
            collation: Collation::NextToken,
            hashes: read.hashes,
            labels: None,
            skipped: bad,
            truncated,
            remarks: read.remarks.into_iter().chain(remark).chain(removed).collect(),
            references: Value::Null,
            extras: Extras::default(),
        })
    }
}

#[cfg(test)]
#[path = "chat_tests.rs"]
mod tests;
