//! The merges of BPE, from vocabularies that do not list them: SentencePiece models and tiktoken files.

use std::collections::HashMap;
use tokenizers::models::bpe::Vocab;

/// Longest supported token of a tiktoken file, in bytes; the search for merges is quadratic in it.
const MAX_TOKEN: usize = 1024;
/// Largest number of ids of a tiktoken file without a token.
const MAX_GAPS: usize = 1 << 14;

/// Pairs of tokens, in the order in which they are merged.
pub type Merges = Vec<(String, String)>;

/// Returns all merges of two tokens to a third, by the id of the result, then by the length of the first token: what
/// `transformers` generates for SentencePiece's BPE.
pub fn by_id(vocab: &Vocab) -> Merges {
    let mut results: Vec<(&u32, &String)> = vocab.iter().map(|(text, id)| (id, text)).collect();
    results.sort_unstable();
    let known = |text: &str| vocab.contains_key(text);
    let mut merges = Vec::new();
    for (_, text) in results {
        let splits = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
        let found = splits.filter(|(left, right)| known(left) && known(right));
        merges.extend(found.map(|(left, right)| (left.to_owned(), right.to_owned())));
    }
    merges
}

/// Reads a tiktoken file: on each line a token's bytes in base64 and its rank, which is its id. Returns the vocabulary
/// in GPT-2's byte characters and the merges.
///
/// # Errors
/// The number of a line that is not of this form.
pub fn of_tiktoken(text: &str) -> Result<(Vocab, Merges), String> {
    let mut ranks: Vec<(Vec<u8>, u32)> = Vec::new();
    for (line, number) in text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty()) {
        let entry = line.trim_end().split_once(' ').and_then(|(token, rank)| {
            Some((base64(token).filter(|bytes| (1..=MAX_TOKEN).contains(&bytes.len()))?, rank.parse().ok()?))
        });
        ranks.push(entry.ok_or_else(|| format!("line {number} is not a token in base64 and its rank"))?);
    }
    if ranks.is_empty() {
        return Err("it is empty".into());
    }
    // An id takes memory in a tokenizer, whether it has a token or not.
    if let Some(rank) = ranks.iter().map(|(_, rank)| *rank).max().filter(|rank| *rank as usize > ranks.len() + MAX_GAPS)
    {
        return Err(format!("rank {rank} is far beyond its {} tokens", ranks.len()));
    }
    let by_bytes: HashMap<&[u8], u32> = ranks.iter().map(|(token, rank)| (token.as_slice(), *rank)).collect();
    let letters = byte_letters();
    let written = |bytes: &[u8]| bytes.iter().map(|&byte| letters[usize::from(byte)]).collect::<String>();
    let mut merges: Vec<(u32, u32, u32, (String, String))> = Vec::new();
    for (token, rank) in &ranks {
        let splits = (1..token.len()).map(|at| token.split_at(at));
        let known = splits.filter_map(|(left, right)| Some((left, right, by_bytes.get(left)?, by_bytes.get(right)?)));
        merges.extend(known.map(|(left, right, a, b)| (*rank, *a, *b, (written(left), written(right)))));
    }
    merges.sort_by_key(|(rank, left, right, _)| (*rank, *left, *right));
    let vocab = ranks.iter().map(|(token, rank)| (written(token), *rank)).collect();
    Ok((vocab, merges.into_iter().map(|(.., merge)| merge).collect()))
}

/// Returns the character for each byte in GPT-2's byte-level vocabularies: printable ones stand for themselves.
fn byte_letters() -> [char; 256] {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 0x100;
    std::array::from_fn(|byte| {
        let byte = byte as u8;
        if printable(byte) {
            return char::from(byte);
        }
        next += 1;
        char::from_u32(next - 1).unwrap_or_default()
    })
}

/// Decodes base64 with its padding (RFC 4648, section 4); `None` if it is invalid.
pub fn base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    let (mut bits, mut held) = (0_u32, 0);
    for digit in digits.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        (bits, held) = (bits << 6 | u32::from(value), held + 6);
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    // Bits that are left, and a wrong number of digits or of padding: other decoders refuse them.
    (bits == 0 && text.len().is_multiple_of(4) && text.len() - digits.len() < 3).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_are_ordered_by_their_result() {
        let vocab = ["abc", "a", "b", "c", "bc", "ab", "x"].into_iter().map(String::from).zip(0..).collect();
        let merges = by_id(&vocab);
        let merges: Vec<(&str, &str)> = merges.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(merges, [("a", "bc"), ("ab", "c"), ("b", "c"), ("a", "b")]);
    }

    #[test]
    fn tiktoken_files_are_read() {
        // " ", "a", byte 0xff, " a"
        let (vocab, merges) = of_tiktoken("IA== 0\nYQ== 1\n/w== 2\nIGE= 3\n").unwrap();
        let mut vocab: Vec<_> = vocab.into_iter().map(|(token, id)| (id, token)).collect();
        vocab.sort_unstable();
        assert_eq!(vocab, [(0, "\u{120}"), (1, "a"), (2, "\u{ff}"), (3, "\u{120}a")].map(|(i, t)| (i, t.to_owned())));
        assert_eq!(merges, [("\u{120}".to_owned(), "a".to_owned())]);
        for (text, why) in [
            ("", "empty"),
            ("IA== 0\nIA==\n", "line 2"),
            ("I* 0", "line 1"),
            ("IA== x", "line 1"),
            ("IB== 0", "line 1"),
            ("IA== 42949694", "rank 42949694 is far beyond its 1 tokens"),
            ("IA= 0", "line 1"),
        ] {
            assert!(of_tiktoken(text).unwrap_err().contains(why), "{text:?}");
        }
    }
}
