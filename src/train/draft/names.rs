//! Usual names of columns in public data sets, in lowercase; the first that a file has is taken.

/// Texts, and the second texts of pairs.
pub(super) const TEXTS: &[&str] = &[
    "text",
    "sentence",
    "content",
    "review",
    "body",
    "message",
    "comment",
    "tweet",
    "headline",
    "title",
    "article",
    "document",
    "description",
    "sentence1",
    "premise",
    "question1",
    "query",
    "question",
    "s1",
];
pub(super) const PAIRS: &[&str] =
    &["text_pair", "sentence2", "hypothesis", "question2", "passage", "s2", "answer_text", "text2", "sentence_2"];
pub(super) const LABELS: &[&str] = &[
    "label",
    "labels",
    "class",
    "category",
    "target",
    "sentiment",
    "topic",
    "intent",
    "emotion",
    "rating",
    "stars",
    "score",
    "similarity",
    "similarity_score",
    "gold_label",
    "label_text",
    "y",
];
pub(super) const PROMPTS: &[(&str, &str)] = &[
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("query", "response"),
    ("question", "answer"),
    ("question", "response"),
    ("prompt", "chosen"),
];
pub(super) const TRANSLATIONS: &[(&str, &str)] = &[
    ("source", "target"),
    ("src", "tgt"),
    ("input", "target"),
    ("document", "summary"),
    ("article", "highlights"),
    ("article", "summary"),
    ("dialogue", "summary"),
    ("text", "summary"),
    ("input", "output"),
    ("en", "de"),
    ("en", "fr"),
];
/// Returns the usual names of columns, in lowercase.
pub(super) fn usual_names() -> Vec<&'static str> {
    let pairs = [PROMPTS, TRANSLATIONS].concat();
    let mut names = [TEXTS, PAIRS, LABELS].concat();
    names.extend(pairs.iter().flat_map(|(first, second)| [*first, *second]));
    names
}
