//! Encodes records of texts for sentence embeddings: pairs with scores, or texts with matches and negatives.

use super::corpus::many;
use super::record_filter::RecordFilter;
use super::texts::{number, several};
use crate::data::Label;
use crate::data::prepare::{Encode, Encoded};
use crate::error::Result;
use crate::text::files::Files;
use crate::text::records::{self, Record, Source};
use crate::text::tokenizer::Tokenizer;

/// Encodes files of texts; each text is a sequence of at most `max_length` tokens.
#[derive(Debug, Clone)]
pub struct EmbeddingTexts {
    pub source: Source,
    /// Whether only the first text of a record is read, for prediction.
    pub alone: bool,
    pub max_length: usize,
    /// The score of equal texts.
    pub max_score: f64,
}

impl EmbeddingTexts {
    /// Returns the line, the texts and the label of a record, or the message for an invalid one; `scored` says whether
    /// any record has a score.
    fn texts<'a>(&self, record: &'a Record, scored: bool) -> Result<(usize, Vec<&'a str>, Label), String> {
        let mut texts = vec![record.text.as_str()];
        let label = match (&record.text_pair, record.labels.first()) {
            _ if self.alone => Label::None,
            (None, _) => return Err("there is no second text: set text_pair_column".into()),
            (Some(pair), Some(label)) => {
                texts.push(pair);
                let (score, most) = (f64::from(number(label)?) / self.max_score, self.max_score);
                if score.abs() > 1.0 {
                    return Err(format!("the score {} is not from -{most} to {most}: set max_score", label.as_str()));
                }
                Label::Value(score as f32)
            }
            (Some(_), None) if scored => return Err("there is no score, but other records have one".into()),
            (Some(pair), None) => {
                texts.extend([pair].into_iter().chain(&record.negatives).map(String::as_str));
                Label::None
            }
        };
        Ok((record.line, texts, label))
    }
}

impl Encode for EmbeddingTexts {
    fn files(&self) -> &Files {
        &self.source.files
    }

    fn settings(&self) -> String {
        let Source { files, format, columns, header, fields, on_bad_record } = &self.source;
        let reading = (records::formats(files, *format), columns, header, fields, on_bad_record);
        format!("{:?}", ("embedding", self.max_length, self.alone, self.max_score, reading))
    }

    /// # Errors
    /// Those of [`records::read`]; unless invalid records are skipped: a missing second text, an invalid score, scores in
    /// some records only, a text without tokens (up to ten reasons listed with file and lines).
    fn encode(&self, tokenizer: &Tokenizer) -> Result<Encoded> {
        let Source { files, fields, on_bad_record, .. } = &self.source;
        let read = records::read(&self.source)?;
        let mut filter = RecordFilter::new(files, *on_bad_record, fields.label.is_some(), read.skipped);
        let scored = read.records.iter().any(|record| !record.labels.is_empty());
        let records = filter.keep(read.records.iter().map(|record| (record.line, self.texts(record, scored))))?;
        let texts: Vec<(&str, Option<&str>)> =
            records.iter().flat_map(|(_, texts, _)| texts).map(|&text| (text, None)).collect();
        let blank = texts.iter().filter(|(text, _)| text.trim().is_empty()).count();
        let mut encoded = tokenizer.encode_batch(&texts, self.max_length)?.into_iter();
        let mut truncated = 0;
        let examples = records.iter().map(|(line, texts, label)| {
            let own: Vec<_> = encoded.by_ref().take(texts.len()).collect();
            truncated += usize::from(own.iter().any(|text| text.truncated));
            (*line, several(own, label.clone()))
        });
        let examples = filter.keep(examples)?;
        let mut remarks = read.remarks;
        remarks.extend((blank > 0).then(|| format!("{} blank", many(blank, "text"))));
        Ok(Encoded { remarks, ..Encoded::plain(examples, read.hashes, filter.bad, truncated) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::prepare::{Prepared, prepare};
    use crate::tasks::fixtures;
    use crate::text::records::{Fields, OnBad};

    fn read(name: &str, content: &str, fields: Fields, max_score: f64) -> Result<Prepared> {
        let dir = fixtures::folder();
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        let (format, columns, header, on_bad_record) = (None, None, None, OnBad::Error);
        let source = Source { files: path.into(), format, columns, header, fields, on_bad_record };
        prepare(&EmbeddingTexts { source, alone: false, max_length: 9, max_score }, dir.path(), None)
    }

    /// The fields of evaluation data.
    fn optional() -> Fields {
        let (text_pair, negative) = (Some("text_pair".into()), Some("n".into()));
        Fields { text_pair, negative, optional: true, ..Fields::default() }
    }

    #[test]
    fn records_have_scores_or_negatives() {
        let scored = "{\"text\": \"a b\", \"text_pair\": \"c\", \"label\": 4}\n";
        let data = read("a.jsonl", scored, optional(), 5.0).unwrap().dataset;
        // CLS a b SEP, CLS c SEP: each is a text of its own.
        assert_eq!((data.ids(0), data.type_ids(0)), (&[2, 5, 6, 3, 2, 7, 3][..], &[0; 7][..]));
        assert_eq!((data.sequences(0), data.label(0)), (vec![4, 3], Label::Value(0.8)));
        let table = read("a.tsv", "text_pair\ttext\tlabel\nc\ta b\t4\n", optional(), 5.0).unwrap().dataset;
        assert_eq!((table.ids(0), table.label(0)), (data.ids(0), data.label(0)));

        let negatives = r#"{"text": "a", "text_pair": "b", "n": ["x", "y z"]}
            {"text": "a", "text_pair": "b", "n": "x"}
            {"text": "a", "text_pair": "b"}"#;
        let data = read("a.jsonl", negatives, optional(), 1.0).unwrap().dataset;
        let widths: Vec<Vec<u32>> = (0..3).map(|i| data.sequences(i)).collect();
        assert_eq!((widths, data.label(0)), (vec![vec![3, 3, 3, 4], vec![3; 3], vec![3; 2]], Label::None));
        let pairs = read("a.tsv", "a\tb\n", Fields { negative: None, ..optional() }, 1.0).unwrap().dataset;
        assert_eq!((pairs.sequences(0), pairs.label(0)), (vec![3, 3], Label::None));
    }

    #[test]
    fn invalid_records_are_named() {
        let says = |content: &str, fields: Fields| read("a.jsonl", content, fields, 5.0).err().unwrap().to_string();
        let pair = |more: &str| format!(r#"{{"text": "a", "text_pair": "b"{more}}}"#) + "\n";
        let message = says(&(pair(r#", "label": 1"#) + &pair("")), optional());
        assert!(message.contains("a.jsonl:2: there is no score, but other records have one"), "{message}");
        let message = says(&pair(r#", "label": -5.5"#), optional());
        assert!(message.contains("the score -5.5 is not from -5 to 5: set max_score"), "{message}");
        let message = says(&pair(r#", "label": "x""#), optional());
        assert!(message.contains("\"x\" is not a finite number"), "{message}");
        let message = says(&pair(r#", "n": []"#), optional());
        assert!(message.contains("column \"n\" is an empty list"), "{message}");
        let message = says(&pair(""), Fields { optional: false, label: None, ..optional() });
        assert!(message.contains("no column \"n\"") && message.contains("negative_column"), "{message}");
        let message = says("{\"text\": \"a\"}", Fields { text_pair: None, ..optional() });
        assert!(message.contains("there is no second text: set text_pair_column"), "{message}");
    }
}
