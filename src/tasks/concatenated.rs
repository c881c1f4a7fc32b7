//! Encodes several sources of one task as one data set, one source after another.

use super::answers::has_unanswerable;
use super::classes;
use crate::data::example::NO_LABEL;
use crate::data::prepare::{Encode, Encoded};
use crate::data::{Collation, Example, Label};
use crate::error::{Error, Result};
use crate::text::files::{Files, number, split};
use crate::text::tokenizer::Tokenizer;

/// Sources of one task. The classes are those of all sources.
pub struct Concatenated {
    parts: Vec<Box<dyn Encode>>,
    files: Files,
    beside: Option<Files>,
}

impl Concatenated {
    pub fn new(parts: Vec<Box<dyn Encode>>) -> Self {
        let files = Files::joined(parts.iter().map(|part| part.files()));
        let beside: Vec<&Files> = parts.iter().filter_map(|part| part.files_beside()).collect();
        let beside = (!beside.is_empty()).then(|| Files::joined(beside));
        Concatenated { parts, files, beside }
    }
}

impl Encode for Concatenated {
    fn files(&self) -> &Files {
        &self.files
    }

    fn files_beside(&self) -> Option<&Files> {
        self.beside.as_ref()
    }

    fn settings(&self) -> String {
        let count = |files: &Files| files.paths().len();
        let parts = self.parts.iter();
        let parts = parts.map(|part| (count(part.files()), part.files_beside().map_or(0, count), part.settings()));
        format!("{:?}", ("sources", parts.collect::<Vec<_>>()))
    }

    /// # Errors
    /// Those of the sources; a source without examples; classes of different sources that are the same number or truth
    /// value in several forms, or numbers in one and names in another (exit 2).
    fn encode(&self, tokenizer: &Tokenizer) -> Result<Encoded> {
        let encoded = self.parts.iter().map(|part| part.encode(tokenizer)).collect::<Result<Vec<_>>>()?;
        let lists: Vec<&[String]> = encoded.iter().filter_map(|encoded| encoded.labels.as_deref()).collect();
        let (names, remark) = classes::union(&lists)?;
        let names = (!lists.is_empty()).then_some(names);
        let has_weights = encoded.iter().any(|encoded| !encoded.extras.weights.is_empty());

        let collation = encoded.first().map_or(Collation::Plain, |first| first.collation.clone());
        let mut all = Encoded { collation, ..Encoded::plain(Vec::new(), Vec::new(), Vec::new(), 0) };
        all.remarks.extend(remark);
        let (mut hashes_beside, mut files_before) = (Vec::new(), 0);
        for (part, mut encoded) in self.parts.iter().zip(encoded) {
            let (files, examples) = (part.files(), encoded.examples.len());
            if examples == 0 {
                return Err(Error::input(format!("{files}: no examples: remove this source")));
            }
            if let (Some(own), Some(names)) = (&encoded.labels, &names)
                && own != names
            {
                relabel(&mut encoded.examples, own, names);
            }
            if has_weights {
                encoded.extras.weights.resize(examples, 1.0);
            }
            all.examples.append(&mut encoded.examples);
            all.extras.words.append(&mut encoded.extras.words);
            all.extras.weights.append(&mut encoded.extras.weights);
            all.extras.sources.push(examples);
            hashes_beside.extend(encoded.hashes.split_off(files.paths().len()));
            all.hashes.append(&mut encoded.hashes);
            all.skipped.extend(encoded.skipped.into_iter().map(|(place, why)| {
                let (file, line) = split(place);
                (number(files_before + file, line), why)
            }));
            all.truncated += encoded.truncated;
            all.remarks.extend(encoded.remarks.into_iter().map(|remark| format!("{files}: {remark}")));
            // The only thing about training data that is needed later.
            if has_unanswerable(&encoded.references) {
                all.references = encoded.references;
            }
            files_before += files.paths().len();
        }
        all.hashes.append(&mut hashes_beside);
        Ok(Encoded { labels: names, ..all })
    }
}

/// Replaces class indices in the list `own` by those in `all`, which has them all.
fn relabel(examples: &mut [Example], own: &[String], all: &[String]) {
    let index = |name: &String| all.iter().position(|other| other == name).expect("a class of all sources");
    let indices: Vec<usize> = own.iter().map(index).collect();
    for example in examples {
        match &mut example.label {
            Label::Class(class) => *class = indices[*class as usize] as u32,
            Label::Flags(flags) => {
                let mut wider = vec![false; all.len()];
                flags.iter().zip(&indices).for_each(|(flag, &at)| wider[at] = *flag);
                *flags = wider;
            }
            Label::Tokens(tags) => {
                let tags = tags.iter_mut().filter(|tag| **tag != NO_LABEL);
                tags.for_each(|tag| *tag = indices[*tag as usize] as i32);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::prepare::{Prepared, prepare};
    use crate::tasks::fixtures;
    use crate::tasks::texts::{Target, Texts};
    use crate::text::records::{Fields, OnBad, Source};
    use std::path::Path;

    /// Sources in `a.jsonl`, `b.jsonl`, ... of a folder, with columns `t` and `y`, and `w` if a source has it.
    fn sources(dir: &Path, contents: &[&str], target: &Target) -> Concatenated {
        let part = |(content, name): (&&str, char)| -> Box<dyn Encode> {
            let path = dir.join(format!("{name}.jsonl"));
            std::fs::write(&path, content).unwrap();
            let weight = content.contains("\"w\"").then(|| "w".to_owned());
            let many_labels = matches!(target, Target::Flags { .. });
            let fields = Fields { text: "t".into(), label: Some("y".into()), weight, many_labels, ..Fields::default() };
            let (columns, header, on_bad_record) = (None, None, OnBad::Skip);
            let source = Source { files: path.into(), format: None, columns, header, fields, on_bad_record };
            Box::new(Texts { source, target: target.clone(), max_length: 8, words: false })
        };
        Concatenated::new(contents.iter().zip('a'..).map(part).collect())
    }

    fn read(contents: &[&str], target: &Target) -> Result<Prepared> {
        let dir = fixtures::folder();
        let cache = dir.path().join("cache");
        let built = prepare(&sources(dir.path(), contents, target), dir.path(), Some(&cache))?;
        let again = prepare(&sources(dir.path(), contents, target), dir.path(), Some(&cache))?;
        assert_eq!((again.cache, again.facts), (crate::data::CacheUse::Hit, built.facts.clone()));
        assert_eq!(again.dataset.sources(), built.dataset.sources());
        Ok(built)
    }

    const FIRST: &str = "{\"t\": \"a\", \"y\": \"x\"}\n{\"t\": \"b\", \"y\": \"z\"}\n";
    const SECOND: &str = "{\"t\": \"c\", \"y\": \"y\", \"w\": 2}\n{}\n{\"t\": \"d\", \"y\": \"x\", \"w\": 3}\n";

    #[test]
    fn the_classes_are_those_of_all_sources() {
        let Prepared { dataset, facts, .. } = read(&[FIRST, SECOND], &Target::Class { labels: None }).unwrap();
        assert_eq!(facts.labels.unwrap(), ["x", "y", "z"]);
        let labels: Vec<Label> = (0..4).map(|i| dataset.label(i)).collect();
        assert_eq!(labels, [0, 2, 1, 0].map(Label::Class));
        assert_eq!((0..4).map(|i| dataset.weight(i)).collect::<Vec<_>>(), [1.0, 1.0, 2.0, 3.0]);
        assert_eq!((dataset.sources(), facts.skipped), (&[2, 2][..], 1));
        let (line, why) = &facts.skipped_reasons[0];
        assert!(*line == 2 && why.ends_with("(b.jsonl)"), "{line}: {why}");

        let many = [r#"{"t": "a", "y": ["z", "x"]}"#, r#"{"t": "b", "y": ["y"]}"#];
        let Prepared { dataset, .. } = read(&many, &Target::Flags { labels: None }).unwrap();
        assert_eq!(dataset.label(0), Label::Flags(vec![true, false, true]));
        assert_eq!(dataset.label(1), Label::Flags(vec![false, true, false]));
        let given = Target::Class { labels: Some(["z", "y", "x"].map(String::from).to_vec()) };
        assert_eq!(read(&[FIRST, SECOND], &given).unwrap().facts.labels.unwrap(), ["z", "y", "x"]);
    }

    #[test]
    fn tags_get_the_indices_of_all_sources() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let tags = Label::Tokens(vec![NO_LABEL, 0, 1, NO_LABEL]);
        let mut examples = [Example::single(vec![1; 4], vec![0; 4], tags)];
        relabel(&mut examples, &names(&["B", "O"]), &names(&["A", "B", "C", "O"]));
        assert_eq!(examples[0].label, Label::Tokens(vec![NO_LABEL, 1, 3, NO_LABEL]));
    }

    #[test]
    fn sources_that_do_not_fit_are_errors() {
        let message = |contents: &[&str]| read(contents, &Target::Class { labels: None }).err().unwrap().to_string();
        let forms = [FIRST.replace('x', "1"), SECOND.replace("\"x\"", "1.0")];
        let found = message(&[&forms[0], &forms[1]]);
        assert!(found.contains("the labels \"1\" and \"1.0\" of different sources differ only in form"), "{found}");
        let found = message(&[FIRST, ""]);
        assert!(found.contains("b.jsonl: the data set is empty"), "{found}");
        let case = read(&[FIRST, &SECOND.replace("\"x\"", "\"X\"")], &Target::Class { labels: None }).unwrap();
        let remark = "the labels \"X\" and \"x\" of different sources differ only in case";
        assert!(case.facts.remarks.iter().any(|found| found == remark), "{:?}", case.facts.remarks);
    }
}
