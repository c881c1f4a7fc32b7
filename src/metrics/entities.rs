//! Precision, recall and F1 of entities in tagged words, as in seqeval.

use super::MatchCounts;

/// How to decode tag sequences that violate the tagging scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// As CoNLL's `conlleval` and seqeval's default: an `I` or `E` without a preceding tag of its type starts an
    /// entity, and an entity may end without an `E`.
    Lenient,
    /// Only sequences that follow the scheme are entities: `B I*`, or `S` and `B I* E` if the tags include `E` or `S`.
    /// seqeval's `mode="strict"` with `IOB2` or `IOBES`.
    Strict,
}

/// An entity: words `start..end` of a sequence have the type with index `kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The entity's type, an index into [`TagSet::types`].
    pub kind: usize,
    pub start: usize,
    pub end: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Begin,
    Inside,
    End,
    Single,
}

/// A set of entity tags: `O`, and `B-X`, `I-X`, `E-X`, `S-X` for each type X.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagSet {
    types: Vec<String>,
    /// Position in the entity and type of each tag; `None` for `O`.
    tags: Vec<Option<(Part, usize)>>,
    /// Whether the scheme marks the last word of an entity (IOBES); otherwise it is IOB2.
    marks_end: bool,
}

impl TagSet {
    /// Parses tags like `O`, `B-person`, `I-person`; the type of a bare `B`, `I`, `E` or `S` is `_`. Returns `None` if
    /// a tag has another form, as with part-of-speech tags, or if there is only `O`.
    /// Creates zero counts for `n_types` types.
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

    /// Returns the entity types, sorted as strings.
    pub fn types(&self) -> &[String] {
        &self.types
    }

    /// Decodes the entities of a tag sequence, in order; tags are indices in the list given to [`TagSet::new`].
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

/// Counts of predicted and labelled entities per type. An entity is correct if its words and type are equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entities {
    /// `[types]`, in the order of [`TagSet::types`].
    hits: Vec<MatchCounts>,
}

impl Entities {
    pub fn new(n_types: usize) -> Self {
        Entities { hits: vec![MatchCounts::default(); n_types] }
    }

    /// Creates them from counts in the order of [`Entities::counts`].
    ///
    /// # Panics
    /// If the number of counts is not a multiple of three.
    pub fn from_counts(counts: &[u64]) -> Self {
        let (triples, rest) = counts.as_chunks();
        assert!(rest.is_empty(), "three counts for each type");
        let hits = triples.iter().map(|&[correct, predicted, labelled]| MatchCounts { correct, predicted, labelled });
        Entities { hits: hits.collect() }
    }

    /// Counts the entities of a sequence.
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

    /// Returns `[types * 3]`: correct, predicted and labelled entities of each type, to be summed over ranks.
    pub fn counts(&self) -> Vec<u64> {
        self.hits.iter().flat_map(|h| [h.correct, h.predicted, h.labelled]).collect()
    }

    /// Returns the counts of each type, in the order of [`TagSet::types`]. seqeval's scores with `average=None` cover
    /// the types that occur in truth or prediction.
    pub fn types(&self) -> &[MatchCounts] {
        &self.hits
    }

    /// Returns the total counts of all types: seqeval's scores with `average="micro"`, its default.
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
    fn scores_match_seqeval() {
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
