//! Reads questions on contexts: windows of tokens, each labelled with the part of it that is the answer.

use super::answers::{self, References, Rules};
use crate::data::{Collation, Encode, Encoded, Example, Label};
use crate::error::Result;
use crate::text::questions::{self, Answer, Question, QuestionSource};
use crate::text::windows::{Context, Window};
use crate::text::{Tokenizer, records};
use serde_json::json;
use std::collections::HashMap;
use std::path::Path;

/// The token that stands for "no answer here": the first, which most families have for the whole text.
pub const NO_ANSWER: usize = 0;

/// A file of questions, and how it becomes windows of at most `max_length` tokens, each an example.
#[derive(Debug, Clone)]
pub struct Questions {
    pub source: QuestionSource,
    pub max_length: usize,
    /// The tokens of a context that neighbouring windows share.
    pub doc_stride: usize,
    /// How answers are found for metrics and predictions; none for training.
    pub rules: Option<Rules>,
}

impl Encode for Questions {
    fn files(&self) -> Vec<&Path> {
        vec![&self.source.path]
    }

    fn settings(&self) -> String {
        let Questions { source, max_length, doc_stride, rules } = self;
        // The ending tells how the file is read.
        let reading = (source.path.extension(), source.labelled, source.on_bad_record);
        format!("{:?}", ("questions", max_length, doc_stride, rules, reading))
    }

    /// # Errors
    /// Those of [`questions::read`]; unless bad records are skipped: a question that leaves no room for its context.
    fn encode(&self, tokenizer: &Tokenizer) -> Result<Encoded> {
        let read = questions::read(&self.source)?;
        let (texts, owners) = contexts(&read.records);
        let contexts = tokenizer.contexts(&texts)?;
        // White space before a question is no part of it, as in Hugging Face's run_qa.py.
        let inputs = read.records.iter().zip(&owners).map(|(q, &owner)| (q.question.trim_start(), &contexts[owner]));
        let windows = tokenizer.windows(&inputs.collect::<Vec<_>>(), self.max_length, self.doc_stride);

        let mut skipped = read.skipped;
        let mut good = Vec::with_capacity(windows.len());
        for ((question, owner), windows) in read.records.iter().zip(owners).zip(windows) {
            match windows {
                Ok(windows) => good.push((question, owner, windows)),
                Err(why) => skipped.push((question.line, format!("question {:?}: {why}", question.id))),
            }
        }
        let QuestionSource { path, labelled, on_bad_record } = &self.source;
        records::settle(path, *on_bad_record, *labelled, good.len(), &skipped)?;

        let unanswerable = *labelled && good.iter().any(|(question, ..)| question.answers.is_empty());
        let references = match &self.rules {
            Some(rules) => serde_json::to_value(references(rules, unanswerable, &texts, &contexts, &good))?,
            None => json!({ "unanswerable": unanswerable }),
        };
        let (mut examples, mut counts) = (Vec::new(), Counts { questions: good.len(), ..Counts::default() });
        for (question, owner, windows) in good {
            let answer = question.answers.first();
            let spans: Vec<_> = windows.iter().map(|window| span(answer, window, &contexts[owner].offsets)).collect();
            counts.without += usize::from(answer.is_none());
            counts.lost += usize::from(answer.is_some() && spans.iter().all(Option::is_none));
            counts.windows += windows.len();
            examples.extend(windows.into_iter().zip(spans).map(|(window, span)| {
                let (start, end) = span.unwrap_or((NO_ANSWER, NO_ANSWER));
                let span = Label::Span { start: start as u32, end: end as u32 };
                Example::single(window.ids, window.type_ids, if *labelled { span } else { Label::None })
            }));
        }
        Ok(Encoded {
            examples,
            collation: Collation::Plain,
            hashes: vec![read.bytes_hash],
            labels: None,
            skipped,
            truncated: 0,
            remarks: counts.remarks(*labelled),
            references,
        })
    }
}

/// The contexts, each once, and of each question the index of its own.
fn contexts(questions: &[Question]) -> (Vec<&str>, Vec<usize>) {
    let (mut texts, mut places) = (Vec::new(), HashMap::new());
    let owners = questions.iter().map(|question| {
        let text: &str = &question.context;
        *places.entry(text).or_insert_with(|| {
            texts.push(text);
            texts.len() - 1
        })
    });
    let owners = owners.collect();
    (texts, owners)
}

/// The first and the last token of an answer, counted in the window; `None` when the window does not have all of it.
///
/// They are the last token that does not start after the answer does, and the first that does not end before it does:
/// the tokens that hold it, also where it starts or ends inside one.
fn span(answer: Option<&Answer>, window: &Window, offsets: &[[u32; 2]]) -> Option<(usize, usize)> {
    let answer = answer?;
    let tokens = &offsets[window.first..window.first + window.context.len()];
    let (from, to) = (answer.start as u32, (answer.start + answer.text.len()) as u32);
    if tokens.first()?[0] > from || tokens.last()?[1] < to {
        return None;
    }
    let start = tokens.iter().position(|token| token[0] > from).unwrap_or(tokens.len()) - 1;
    let end = tokens.iter().rposition(|token| token[1] < to).map_or(0, |before| before + 1);
    // Tokens that share a character can change places.
    let place = window.context.start;
    Some((place + start.min(end), place + start.max(end)))
}

/// What metrics and predictions need to know of the questions.
fn references<'a>(
    rules: &Rules,
    unanswerable: bool,
    texts: &[&'a str],
    contexts: &[Context],
    questions: &[(&'a Question, usize, Vec<Window>)],
) -> References<'a> {
    let context = |(text, context): (&&'a str, &Context)| answers::Context {
        text: *text,
        offsets: context.offsets.as_flattened().to_vec(),
    };
    let question = |(question, context, windows): &(&'a Question, usize, Vec<Window>)| answers::Question {
        id: &question.id,
        context: *context,
        golds: question.answers.iter().map(|answer| answer.text.as_str()).collect(),
        windows: windows.iter().map(|w| [w.context.start, w.first, w.context.len()]).collect(),
    };
    References {
        rules: rules.clone(),
        unanswerable,
        contexts: texts.iter().zip(contexts).map(context).collect(),
        questions: questions.iter().map(question).collect(),
    }
}

/// What a file came to.
#[derive(Default)]
struct Counts {
    questions: usize,
    windows: usize,
    /// Questions without an answer.
    without: usize,
    /// Questions whose answer is whole in no window.
    lost: usize,
}

impl Counts {
    fn remarks(&self, labelled: bool) -> Vec<String> {
        let some = |n: usize, what: &str| if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") };
        let mut remarks = vec![format!("{} in {}", some(self.questions, "question"), some(self.windows, "window"))];
        if labelled && self.without > 0 {
            remarks.push(format!("{} without an answer", self.without));
        }
        if self.lost > 0 {
            remarks.push(format!("{} with an answer that is whole in no window", self.lost));
        }
        remarks
    }
}
