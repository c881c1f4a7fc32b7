//! Encodes extractive QA data: windows of tokens, each labelled with the answer span.

use super::answers::{self, NO_ANSWER, References, Rules};
use crate::data::prepare::Extras;
use crate::data::{Collation, Encode, Encoded, Example, Label};
use crate::error::{Error, Result};
use crate::text::files::Files;
use crate::text::questions::{self, Answer, Question, QuestionSource};
use crate::text::windows::{Context, Window};
use crate::text::{Tokenizer, records};
use serde_json::{Value, json};
use std::collections::HashMap;

/// Encodes a file of questions to windows of at most `max_length` tokens, each an example.
#[derive(Debug, Clone)]
pub struct Questions {
    pub source: QuestionSource,
    pub max_length: usize,
    /// Number of context tokens by which consecutive windows overlap.
    pub doc_stride: usize,
    /// Settings of answer selection for metrics and predictions; `None` for training.
    pub rules: Option<Rules>,
}

impl Encode for Questions {
    fn files(&self) -> &Files {
        &self.source.files
    }

    fn settings(&self) -> String {
        let Questions { source, max_length, doc_stride, rules } = self;
        // The extension determines the format.
        let formats: Vec<_> = source.files.iter().map(questions::format).collect();
        let reading = (formats, source.labelled, source.on_bad_record);
        // With windows from the end of a context, if the tokenizer truncates on the left.
        format!("{:?}", ("questions by side", max_length, doc_stride, rules, reading))
    }

    /// # Errors
    /// Those of [`questions::read`]; unless invalid records are skipped: a question that leaves no room for a context.
    fn encode(&self, tokenizer: &Tokenizer) -> Result<Encoded> {
        let read = questions::read(&self.source)?;
        let (texts, owners) = contexts(&read.records);
        let contexts = tokenizer.contexts(&texts)?;
        // Leading whitespace is removed from questions, as in Hugging Face's run_qa.py.
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
        let QuestionSource { files, labelled, on_bad_record } = &self.source;
        records::check_bad(files, *on_bad_record, *labelled, good.len(), &skipped)?;

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
            hashes: read.hashes,
            labels: None,
            skipped,
            truncated: 0,
            remarks: read.remarks.into_iter().chain(counts.remarks(*labelled)).collect(),
            references,
            extras: Extras::default(),
        })
    }
}

/// Encodes one question about a context, as if it were a record: its windows, and the references that its answer needs.
///
/// # Errors
/// Exit 2: a question that leaves no room for its context.
pub fn one(
    tokenizer: &Tokenizer,
    rules: &Rules,
    (max_length, doc_stride): (usize, usize),
    question: Question,
) -> Result<(Vec<Example>, Value)> {
    let text: &str = &question.context;
    let contexts = tokenizer.contexts(&[text])?;
    let windows = tokenizer.windows(&[(question.question.trim_start(), &contexts[0])], max_length, doc_stride);
    let windows = windows.into_iter().next().unwrap_or_else(|| Ok(Vec::new())).map_err(Error::input)?;
    let example = |window: &Window| Example::single(window.ids.clone(), window.type_ids.clone(), Label::None);
    let examples = windows.iter().map(example).collect();
    let references = references(rules, false, &[text], &contexts, &[(&question, 0, windows)]);
    Ok((examples, serde_json::to_value(references)?))
}

/// Returns the distinct contexts, and the index of each question's context.
fn contexts(questions: &[Question]) -> (Vec<&str>, Vec<usize>) {
    let (mut texts, mut indices) = (Vec::new(), HashMap::new());
    let owners = questions.iter().map(|question| {
        let text: &str = &question.context;
        *indices.entry(text).or_insert_with(|| {
            texts.push(text);
            texts.len() - 1
        })
    });
    let owners = owners.collect();
    (texts, owners)
}

/// Returns the positions of an answer's first and last token in the window; `None` if the window does not contain the
/// whole answer.
///
/// These are the last token that starts at or before the start of the answer, and the first that ends at or after its
/// end, so that they cover an answer that starts or ends inside a token.
fn span(answer: Option<&Answer>, window: &Window, offsets: &[[u32; 2]]) -> Option<(usize, usize)> {
    let answer = answer?;
    let tokens = &offsets[window.first..window.first + window.context.len()];
    let (from, to) = (answer.start as u32, (answer.start + answer.text.len()) as u32);
    if tokens.first()?[0] > from || tokens.last()?[1] < to {
        return None;
    }
    let start = tokens.iter().position(|token| token[0] > from).unwrap_or(tokens.len()) - 1;
    let end = tokens.iter().rposition(|token| token[1] < to).map_or(0, |before| before + 1);
    // For tokens that share a character, start can exceed end.
    let first = window.context.start;
    Some((first + start.min(end), first + start.max(end)))
}

/// Collects the data that metrics and predictions need.
fn references<'a>(
    rules: &Rules,
    unanswerable: bool,
    texts: &[&'a str],
    contexts: &[Context],
    questions: &[(&'a Question, usize, Vec<Window>)],
) -> References<'a> {
    let context = |(text, context): (&&'a str, &Context)| answers::Context {
        text,
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

/// Statistics of a file.
#[derive(Default)]
struct Counts {
    questions: usize,
    windows: usize,
    /// Questions without an answer.
    without: usize,
    /// Questions whose answer is not completely inside any window.
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
            remarks.push(format!("{} with an answer that no window contains completely", self.lost));
        }
        remarks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Dataset, Facts, prepare};
    use crate::error::Kind;
    use crate::text::records::OnBad;
    use crate::text::tokenizer::tests::folder;
    use serde::Deserialize;

    const RULES: Rules =
        Rules { n_best_size: 20, max_answer_length: 30, null_score_diff_threshold: 0.0, version_2_with_negative: None };

    /// A folder with a BERT vocabulary of letters and `##` continuations, and a file of questions.
    struct Case {
        dir: tempfile::TempDir,
        questions: Questions,
    }

    impl Case {
        fn new(lines: &[Value]) -> Self {
            let dir = folder();
            let path = dir.path().join("a.jsonl");
            std::fs::write(&path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
            let source = QuestionSource { files: path.into(), labelled: true, on_bad_record: OnBad::Error };
            Case { dir, questions: Questions { source, max_length: 8, doc_stride: 1, rules: None } }
        }

        fn prepare(&self) -> Result<(Dataset, Facts)> {
            let cache = self.dir.path().join("cache");
            prepare(&self.questions, self.dir.path(), Some(&cache)).map(|prepared| (prepared.dataset, prepared.facts))
        }

        fn spans(&self) -> Vec<(u32, u32)> {
            let data = self.prepare().unwrap().0;
            let span = |i| match data.label(i) {
                Label::Span { start, end } => (start, end),
                other => panic!("{other:?}"),
            };
            (0..data.len()).map(span).collect()
        }
    }

    fn line(question: &str, context: &str, answer: Option<(&str, usize)>) -> Value {
        let answers: Vec<Value> =
            answer.into_iter().map(|(text, start)| json!({"text": text, "answer_start": start})).collect();
        json!({"context": context, "question": question, "answers": answers})
    }

    /// `[CLS] q [SEP] . . . . [SEP]`: windows of four context tokens that overlap by one.
    #[test]
    fn an_answer_is_labelled_in_windows_that_contain_it() {
        let context = "a b c d e f g h";
        let case = Case::new(&[
            line(" q", context, Some(("d", 6))),
            line("q", context, Some(("d e", 6))),
            line("q", context, Some(("c d e", 4))),
            line("q", "a", None),
        ]);
        // The windows are a b c d, d e f g, g h.
        assert_eq!(case.spans(), [(6, 6), (3, 3), (0, 0), (0, 0), (3, 4), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0)]);
        let (data, facts) = case.prepare().unwrap();
        assert_eq!(
            (data.ids(1), data.type_ids(1)),
            (&[2, 37, 3, 11, 13, 15, 17, 3][..], &[0, 0, 0, 1, 1, 1, 1, 1][..])
        );
        let remarks =
            ["4 questions in 10 windows", "1 without an answer", "1 with an answer that no window contains completely"];
        assert_eq!((facts.remarks, facts.truncated), (remarks.map(String::from).to_vec(), 0));
        assert_eq!(facts.references, json!({"unanswerable": true}));
    }

    /// Tokens of "ab" and "cd" are two each: a, ##b.
    #[test]
    fn an_answer_may_start_and_end_inside_a_word_and_after_wide_letters() {
        let mut case = Case::new(&[
            line("q", "ab cd", Some(("b c", 1))),
            line("q", "\u{e9} \u{2014} ab", Some(("ab", 4))),
            line("q", "ab cd", Some((" ", 2))),
        ]);
        case.questions.max_length = 20;
        // Whitespace between two tokens; both cover it.
        assert_eq!(case.spans(), [(4, 5), (5, 6), (4, 5)]);
    }

    #[test]
    fn references_contain_texts_and_offsets() {
        let mut case = Case::new(&[
            line("q", "a b c d e", Some(("e", 8))),
            json!({"id": "x", "context": "a b c d e", "question": "q r", "answers": []}),
        ]);
        case.questions.rules = Some(RULES);
        let (data, facts) = case.prepare().unwrap();
        let references = References::deserialize(&facts.references).unwrap();
        assert!(references.unanswerable && references.rules == RULES);
        assert_eq!((references.contexts.len(), references.contexts[0].text), (1, "a b c d e"));
        assert_eq!(references.contexts[0].offsets, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        let [first, second] = &references.questions[..] else { panic!() };
        assert_eq!((first.id, &first.golds, &first.windows), ("1", &vec!["e"], &vec![[3, 0, 4], [3, 3, 2]]));
        assert_eq!((second.id, second.golds.len(), &second.windows), ("x", 0, &vec![[4, 0, 3], [4, 2, 3]]));
        assert_eq!(data.len(), 4);

        // For prediction there are no answers.
        case.questions.source.labelled = false;
        let (data, facts) = case.prepare().unwrap();
        assert_eq!((data.label(0), &facts.references["unanswerable"]), (Label::None, &json!(false)));
        assert_eq!((&facts.references["questions"][0]["golds"], facts.remarks.len()), (&json!([]), 1));
    }

    #[test]
    fn a_question_that_is_too_long_is_an_error() {
        let long = json!({"id": "long", "context": "a b c", "question": "q r s t", "answers": []});
        let mut case = Case::new(&[line("q", "a", None), long]);
        let error = case.prepare().err().unwrap();
        assert_eq!(error.kind(), Kind::Input);
        let message = error.to_string();
        assert!(message.contains("a.jsonl:2: question \"long\": the question has 4 of max_length = 8"), "{message}");
        case.questions.source.on_bad_record = OnBad::Skip;
        let (data, facts) = case.prepare().unwrap();
        assert_eq!((data.len(), facts.skipped), (1, 1));
    }

    #[test]
    fn every_setting_is_part_of_the_cache_key() {
        let case = Case::new(&[]);
        let mut all = vec![case.questions.clone(); 6];
        all[1].max_length = 9;
        all[2].doc_stride = 2;
        all[3].rules = Some(RULES);
        all[4].source.labelled = false;
        all[5].source.files = "a.json".into();
        let settings: std::collections::BTreeSet<String> = all.iter().map(Encode::settings).collect();
        assert_eq!(settings.len(), all.len());
    }
}
