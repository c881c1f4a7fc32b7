//! Splits long contexts into overlapping windows, each preceded by the question, like Hugging Face's fast tokenizers
//! with `truncation="only_second"`, `stride` and `return_overflowing_tokens`: from the start of the context, or from
//! its end with `truncation_side = "left"`.

use super::parallel::on_all_cores;
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use std::ops::Range;
use tokenizers::{Encoding, TruncationDirection};

/// A context, tokenized once for all of its questions.
pub struct Context {
    encoding: Encoding,
    /// Start and end byte of each of its N tokens `[N]`.
    pub offsets: Vec<[u32; 2]>,
}

/// A question with a window of its context, special tokens included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Token ids `[n]`.
    pub ids: Vec<u32>,
    /// Token type id `[n]`: 0 in the question, 1 in the context, if the tokenizer distinguishes them.
    pub type_ids: Vec<u8>,
    /// Range of the context's tokens in this window.
    pub context: Range<usize>,
    /// Index in the whole context of the window's first context token.
    pub first: usize,
}

impl Tokenizer {
    /// Tokenizes contexts on all cores; results are in input order. Offsets exclude surrounding whitespace if the
    /// tokenizer sets `trim_offsets`.
    pub fn contexts(&self, texts: &[&str]) -> Result<Vec<Context>> {
        let trims = self.trims_offsets();
        let context = |text: &&str| -> Result<Context> {
            let encoding = self.inner.encode(*text, false).map_err(|e| Error::other(failed(e)))?;
            let bytes = |&(start, end): &(usize, usize)| {
                let token = text.get(start..end).filter(|_| trims).unwrap_or_default();
                let (before, after) = (token.len() - token.trim_start().len(), token.len() - token.trim_end().len());
                if before == token.len() {
                    [start as u32, end as u32]
                } else {
                    [(start + before) as u32, (end - after) as u32]
                }
            };
            let offsets = encoding.get_offsets().iter().map(bytes).collect();
            Ok(Context { encoding, offsets })
        };
        on_all_cores(texts, context).into_iter().collect()
    }

    /// Returns the windows of each question in order: a single window if question, context and special tokens fit in
    /// `max_length` tokens, otherwise windows of `max_length` tokens that overlap by `stride` context tokens. The last
    /// may be shorter: it is the end of the context, or its start if the tokenizer truncates on the left.
    ///
    /// A question that leaves at most `stride` tokens for its context gives an error message instead.
    pub fn windows(
        &self,
        inputs: &[(&str, &Context)],
        max_length: usize,
        stride: usize,
    ) -> Vec<Result<Vec<Window>, String>> {
        let special = self.special_count(true);
        let windows = |&(question, context): &(&str, &Context)| {
            let question = self.inner.encode_fast(question, false).map_err(failed)?;
            let room = max_length.saturating_sub(special + question.len());
            if special + question.len() + context.offsets.len() > max_length && room <= stride {
                return Err(format!(
                    "the question has {} of max_length = {max_length} tokens, which leaves {room} for its context, but \
                     more than doc_stride = {stride} are needed: raise max_length, or lower doc_stride",
                    question.len()
                ));
            }
            let mut part = context.encoding.clone();
            part.truncate(room, stride, self.side);
            let others = part.take_overflowing();
            let step = room.saturating_sub(stride);
            let first = |i: usize, part: &Encoding| match self.side {
                TruncationDirection::Right => i * step,
                TruncationDirection::Left => context.offsets.len().saturating_sub(i * step + part.len()),
            };
            let parts = [part].into_iter().chain(others).enumerate();
            parts.map(|(i, part)| (first(i, &part), part)).map(|(at, part)| self.window(&question, part, at)).collect()
        };
        on_all_cores(inputs, windows)
    }

    fn window(&self, question: &Encoding, mut part: Encoding, first: usize) -> Result<Window, String> {
        let tokens = part.len();
        part.set_type_ids(vec![1; tokens]);
        let whole = self.post_process(question.clone(), Some(part)).map_err(|e| e.to_string())?;
        let start = whole.get_sequence_ids().iter().position(|text| *text == Some(1)).unwrap_or(whole.len());
        Ok(Window {
            ids: whole.get_ids().to_vec(),
            type_ids: whole.get_type_ids().iter().map(|&t| t as u8).collect(),
            context: start..start + tokens,
            first,
        })
    }
}

fn failed(e: tokenizers::Error) -> String {
    format!("the tokenizer failed: {e}")
}

#[cfg(test)]
mod tests {
    use super::super::tokenizer::tests::folder;
    use super::*;
    use tokenizers::utils::truncation::{TruncationParams, TruncationStrategy};

    fn windows(question: &str, context: &str, max_length: usize, stride: usize) -> Result<Vec<Window>, String> {
        let tokenizer = Tokenizer::from_folder(folder().path()).unwrap();
        let contexts = tokenizer.contexts(&[context]).unwrap();
        tokenizer.windows(&[(question, &contexts[0])], max_length, stride).remove(0)
    }

    /// Compares with the overflowing encodings of the crate.
    #[test]
    fn windows_match_the_tokenizers_crate() {
        for side in [TruncationDirection::Right, TruncationDirection::Left] {
            match_the_tokenizers_crate(side);
        }
    }

    fn match_the_tokenizers_crate(direction: TruncationDirection) {
        let dir = folder();
        let settings = format!("{{\"truncation_side\": {:?}}}", direction.as_ref());
        std::fs::write(dir.path().join("tokenizer_config.json"), settings).unwrap();
        let tokenizer = Tokenizer::from_folder(dir.path()).unwrap();
        let (question, context) = ("a bc?", "D\u{e9}f g hi jk \u{2014} l mno p q rs t u v w x y z ab");
        for (max_length, stride) in (8..32).flat_map(|max| (0..max).map(move |stride| (max, stride))) {
            let contexts = tokenizer.contexts(&[context]).unwrap();
            let found = tokenizer.windows(&[(question, &contexts[0])], max_length, stride).remove(0);
            let Ok(found) = found else {
                assert!(max_length.saturating_sub(3 + 4) <= stride, "{max_length}, {stride}: {found:?}");
                continue;
            };
            let mut theirs = tokenizer.inner.clone();
            theirs.with_post_processor(tokenizer.processor.clone());
            let strategy = TruncationStrategy::OnlySecond;
            let truncation = TruncationParams { direction, max_length, stride, strategy };
            theirs.with_truncation(Some(truncation)).unwrap();
            let mut whole = theirs.encode((question, context), true).unwrap();
            let others = whole.take_overflowing();
            assert_eq!(found.len(), 1 + others.len());
            let offsets = &contexts[0].offsets;
            for (found, theirs) in found.iter().zip([whole].iter().chain(&others)) {
                assert_eq!(found.ids, theirs.get_ids());
                assert!(found.type_ids.iter().map(|&t| u32::from(t)).eq(theirs.get_type_ids().iter().copied()));
                let own = &offsets[found.first..found.first + found.context.len()];
                let wanted = &theirs.get_offsets()[found.context.clone()];
                assert!(own.iter().copied().eq(wanted.iter().map(|&(start, end)| [start as u32, end as u32])));
            }
        }
    }

    #[test]
    fn offsets_are_bytes() {
        let tokenizer = Tokenizer::from_folder(folder().path()).unwrap();
        let context = "\u{e9} \u{2014} b";
        let offsets = tokenizer.contexts(&[context]).unwrap().remove(0).offsets;
        let texts = offsets.iter().map(|&[start, end]| &context[start as usize..end as usize]);
        assert_eq!(texts.collect::<Vec<_>>(), ["\u{e9}", "\u{2014}", "b"]);
    }

    #[test]
    fn a_question_must_leave_room() {
        assert_eq!(windows("a", "b c d e", 6, 1).unwrap().len(), 3);
        let message = windows("a", "b c d e", 6, 2).unwrap_err();
        assert!(message.contains("has 1 of max_length = 6 tokens, which leaves 2 for its context"), "{message}");
        assert_eq!(windows("a", "b c", 6, 128).unwrap().len(), 1, "a single window needs no stride");
        assert!(windows("a b c d", "e", 6, 0).is_err());
        assert!(windows("a b c d", "", 6, 0).is_err(), "the question alone exceeds max_length");
        let empty = windows("a", "", 6, 0).unwrap().remove(0);
        assert_eq!((empty.ids, empty.context), (vec![2, 5, 3, 3], 4..4));
    }

    /// As in RoBERTa's answers, without the space that is part of a word's token.
    #[test]
    fn offsets_can_exclude_spaces() {
        use tokenizers::models::bpe::BPE;
        use tokenizers::pre_tokenizers::byte_level::ByteLevel;
        let vocab = [("a", 0), ("b", 1), ("\u{120}", 2), ("\u{120}b", 3)].map(|(token, id)| (token.to_owned(), id));
        let merges = vec![("\u{120}".to_owned(), "b".to_owned())];
        for (trims, expected) in [(true, [[0, 1], [2, 3]]), (false, [[0, 1], [1, 3]])] {
            let model = BPE::builder().vocab_and_merges(vocab.clone(), merges.clone()).build().unwrap();
            let mut inner = tokenizers::Tokenizer::new(model);
            let bytes = ByteLevel::default().add_prefix_space(false);
            inner.with_pre_tokenizer(Some(bytes));
            inner.with_post_processor(Some(bytes.trim_offsets(trims)));
            let dir = tempfile::tempdir().unwrap();
            inner.save(dir.path().join("tokenizer.json"), false).unwrap();
            let tokenizer = Tokenizer::from_folder(dir.path()).unwrap();
            assert_eq!(tokenizer.contexts(&["a b"]).unwrap()[0].offsets, expected, "{trims}");
        }
    }
}
