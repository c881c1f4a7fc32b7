//! Entities in tagged words: precision, recall and F1, as seqeval counts them.

use super::MatchCounts;

/// How a sequence of tags that breaks its own scheme is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// As CoNLL's `conlleval` and seqeval by default: an `I` or `E` with nothing of its type before it begins an
    /// entity, and an entity may end without an `E`.
    Lenient,
    /// An entity is only what follows the scheme: `B I*`, or `S` and `B I* E` where the tags have `E` or `S`. seqeval's
    /// `mode="strict"` with `IOB2` or `IOBES`.
    Strict,
}

/// An entity: words `start..end` of a sequence are of the type with index `kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The entity's type, an index into [`TagSet::types`].
    pub kind: usize,
    /// The first word.
    pub start: usize,
    /// One past the last word.
    pub end: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Begin,
    Inside,
    End,
    Single,
}

/// A list of tags that mark entities: `O`, and `B-X`, `I-X`, `E-X`, `S-X` for each type X.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagSet {
    types: Vec<String>,
    /// What each tag of the list says; `None` is outside of any entity.
    tags: Vec<Option<(Part, usize)>>,
    /// Whether the scheme marks an entity's last word (IOBES); else it is IOB2.
    marks_end: bool,
}

impl TagSet {
    /// Reads tags like `O`, `B-person`, `I-person`; of `B`, `I`, `E`, `S` alone the type is `_`. `None` if any of them
    /// is not of this form, so that the tags mark no entities (parts of speech, say), or if none but `O` is there.
    pub fn new<S: AsRef<str>>(tags: &[S]) -> Option<TagSet> {
        let parts: Vec<Option<(Part, &str)>> = tags.iter().map(|tag| parse(tag.as_ref())).collect::<Option<_>>()?;
        let mut types: Vec<&str> = parts.iter().flatten().map(|&(_, name)| name).collect();
        types.sort_unstable();
        types.dedup();
        if types.is_empty() {
            return None;
        }
        let index = |(part, name): (Part, &str)| (part, types.partition_point(|&t| t < name));
        Some(TagSet {
            tags: parts.iter().map(|part| part.map(index)).collect(),
            marks_end: parts.iter().flatten().any(|(part, _)| matches!(part, Part::End | Part::Single)),
            types: types.into_iter().map(str::to_owned).collect(),
        })
    }

    /// The types of entities, sorted as strings.
    pub fn types(&self) -> &[String] {
        &self.types
    }

    /// The entities of one sequence of tags, in order; a tag is its index in the list given to [`TagSet::new`].
    ///
    /// # Panics
    /// If an index is not below the number of tags.
    pub fn entities(&self, sequence: &[usize], reading: Reading) -> Vec<Span> {
        let lenient = reading == Reading::Lenient;
        let unfinished_counts = lenient || !self.marks_end;
        let mut entities = Vec::new();
        let mut open: Option<Span> = None;
        for (at, &tag) in sequence.iter().enumerate() {
            let tag = self.tags[tag];
            if let (Some(span), Some((part @ (Part::Inside | Part::End), kind))) = (&mut open, tag)
                && span.kind == kind
            {
                span.end = at + 1;
                if part == Part::End {
                    entities.extend(open.take());
                }
                continue;
            }
            entities.extend(open.take().filter(|_| unfinished_counts));
            let Some((part, kind)) = tag else { continue };
            let span = Span { kind, start: at, end: at + 1 };
            match part {
                Part::Begin => open = Some(span),
                Part::Inside if lenient => open = Some(span),
                Part::Single => entities.push(span),
                Part::End if lenient => entities.push(span),
                Part::Inside | Part::End => {}
            }
        }
        entities.extend(open.filter(|_| unfinished_counts));
        entities
    }
}

fn parse(tag: &str) -> Option<Option<(Part, &str)>> {
    let mut letters = tag.chars();
    let part = match letters.next()? {
        'O' if tag == "O" => return Some(None),
        'B' => Part::Begin,
        'I' => Part::Inside,
        'E' => Part::End,
        'S' => Part::Single,
        _ => return None,
    };
    match letters.as_str().strip_prefix('-') {
        Some("") => None,
        Some(name) => Some(Some((part, name))),
        None => (tag.len() == 1).then_some(Some((part, "_"))),
    }
}

/// How many entities of each type were found, and how many of them rightly: the same words, the same type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entities {
    /// `[types]`, in the order of [`TagSet::types`].
    hits: Vec<MatchCounts>,
}

impl Entities {
    /// No entities yet, of so many types.
    pub fn new(n_types: usize) -> Self {
        Entities { hits: vec![MatchCounts::default(); n_types] }
    }

    /// Those with these counts, in the order of [`Entities::counts`].
    ///
    /// # Panics
    /// If their number is not a multiple of three.
    pub fn from_counts(counts: &[u64]) -> Self {
        let (triples, rest) = counts.as_chunks();
        assert!(rest.is_empty(), "three counts for each type");
        let hits = triples.iter().map(|&[correct, predicted, labelled]| MatchCounts { correct, predicted, labelled });
        Entities { hits: hits.collect() }
    }

    /// Counts one sequence's entities.
    ///
    /// # Panics
    /// If a type is not below the number of types.
    pub fn add(&mut self, labelled: &[Span], predicted: &[Span]) {
        labelled.iter().for_each(|span| self.hits[span.kind].labelled += 1);
        for span in predicted {
            self.hits[span.kind].predicted += 1;
            self.hits[span.kind].correct += u64::from(labelled.contains(span));
        }
    }

    /// `[types * 3]`: right, predicted and labelled entities of each type; what ranks add up.
    pub fn counts(&self) -> Vec<u64> {
        self.hits.iter().flat_map(|h| [h.correct, h.predicted, h.labelled]).collect()
    }

    /// The entities of each type, in the order of [`TagSet::types`]. seqeval's scores with `average=None` are of those
    /// types that occur in truth or prediction.
    pub fn types(&self) -> &[MatchCounts] {
        &self.hits
    }

    /// The entities of all types together: seqeval's scores with `average="micro"`, its default.
    pub fn micro(&self) -> MatchCounts {
        self.hits.iter().copied().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::{close, list, numbers, text, texts};
    use super::*;
    use serde_json::Value;

    const FILE: &str = include_str!("../../tests/reference/metrics/entities.json");
    const READINGS: [(&str, Reading); 2] = [("default", Reading::Lenient), ("strict", Reading::Strict)];

    fn indices(tags: &[&str], sequence: &str) -> Vec<usize> {
        sequence.split(' ').map(|tag| tags.iter().position(|t| *t == tag).unwrap()).collect()
    }

    #[test]
    fn scores_are_those_of_seqeval() {
        for case in list(FILE, "cases") {
            let tags = texts(&case["tags"]);
            let set = TagSet::new(&tags).unwrap();
            for (name, reading) in READINGS {
                let mut found = Entities::new(set.types().len());
                for (gold, predicted) in texts(&case["gold"]).iter().zip(texts(&case["found"])) {
                    let spans = |sequence| set.entities(&indices(&tags, sequence), reading);
                    found.add(&spans(gold), &spans(predicted));
                }
                let check = |hits: &MatchCounts, expected: &Value| {
                    let expected = numbers(expected);
                    let found = [hits.precision(), hits.recall(), hits.f1(), hits.labelled as f64];
                    found.iter().zip(&expected).for_each(|(&f, &e)| close(f, e, &case));
                };
                check(&found.micro(), &case[name]["micro"]);
                for (kind, hits) in set.types().iter().zip(found.types()) {
                    match case[name]["types"].get(kind) {
                        Some(expected) => check(hits, expected),
                        None => assert_eq!(*hits, MatchCounts::default(), "{kind} does not occur in {case}"),
                    }
                }
                assert_eq!(Entities::from_counts(&found.counts()), found);
            }
        }
    }

    #[test]
    fn malformed_sequences_are_read_as_seqeval_reads_them() {
        for reading in list(FILE, "readings") {
            let tags: Vec<&str> = text(&reading["tags"]).split(' ').collect();
            let set = TagSet::new(&tags).unwrap();
            for (name, how) in READINGS {
                let expected: Vec<(String, usize, usize)> = serde_json::from_value(reading[name].clone()).unwrap();
                let found = set.entities(&indices(&tags, text(&reading["sequence"])), how);
                let found: Vec<_> = found.iter().map(|s| (set.types()[s.kind].clone(), s.start, s.end)).collect();
                assert_eq!(found, expected, "{name}: {reading}");
            }
        }
    }

    #[test]
    fn tags_that_mark_no_entities_are_told_apart() {
        for tags in
            [&["NN", "VB"][..], &["O", "B-"], &["O", "Bx"], &["O", "B-x", "o"], &["O"], &[], &["O", ""], &["O-x"]]
        {
            assert_eq!(TagSet::new(tags), None, "{tags:?}");
        }
        assert_eq!(TagSet::new(&["I-b", "O", "B-a-b", "S"]).unwrap().types(), ["_", "a-b", "b"]);
    }
}
