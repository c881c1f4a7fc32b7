//! Configurations of the tasks that `super::full` is not of.

use super::with;
use crate::config::Config;

/// With the settings that no other task knows.
pub fn all() -> [Config; 4] {
    let generation = [
        "do_sample=true",
        "early_stopping=true",
        "length_penalty=0.5",
        "max_new_tokens=9",
        "min_new_tokens=2",
        "num_beams=3",
        "repetition_penalty=1.5",
        "temperature=0.7",
        "top_k=5",
        "top_p=0.9",
    ];
    [
        with(&["kind=question-answering", "version_2_with_negative=true", "doc_stride=64"]).unwrap(),
        with(&[&["kind=seq2seq", "predict_with_generate=true"][..], &generation].concat()).unwrap(),
        with(&["kind=masked-lm", "next_sentence=true", "mlm_probability=0.3", "whole_word_mask=true"]).unwrap(),
        with(&["kind=causal-lm", "packing=false", "format=text", "documents=lines"]).unwrap(),
    ]
}
