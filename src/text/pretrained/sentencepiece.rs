//! SentencePiece models: the fields of `sentencepiece_model.proto` that tokenization depends on, and the merges of BPE.
//!
//! [The format](https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto).

use super::merges::Merges;
use super::protobuf::{Field, fields};
use std::collections::HashMap;
use tokenizers::models::bpe::Vocab;

/// Longest supported piece, in bytes; the search for merges is quadratic in it.
const MAX_PIECE: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PieceKind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Other,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    pub text: String,
    pub score: f32,
    pub kind: PieceKind,
}

/// A SentencePiece model.
#[derive(Debug, Clone, PartialEq)]
pub struct SentencePiece {
    /// In order of their ids.
    pub pieces: Vec<Piece>,
    /// Whether the pieces are those of a unigram language model; else of BPE.
    pub is_unigram: bool,
    pub byte_fallback: bool,
    /// Ids of unknown pieces, BOS and EOS; negative if there is none.
    pub ids: [i64; 3],
    /// The pieces of unknown pieces, BOS and EOS.
    pub special: [String; 3],
    /// Normalization rules; empty if there are none.
    pub charsmap: Vec<u8>,
    pub add_dummy_prefix: bool,
    pub remove_extra_whitespaces: bool,
    pub escape_whitespaces: bool,
}

impl SentencePiece {
    /// Parses a model.
    ///
    /// # Errors
    /// Why it is not a SentencePiece model.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut model = SentencePiece {
            pieces: Vec::new(),
            is_unigram: true,
            byte_fallback: false,
            ids: [0, 1, 2],
            special: ["<unk>", "<s>", "</s>"].map(String::from),
            charsmap: Vec::new(),
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
            escape_whitespaces: true,
        };
        for field in fields(bytes) {
            match field? {
                (1, Field::Bytes(piece)) => model.pieces.push(self::piece(piece)?),
                (2, Field::Bytes(trainer)) => model.read_trainer(trainer)?,
                (3, Field::Bytes(normalizer)) => model.read_normalizer(normalizer)?,
                _ => {}
            }
        }
        let of_text = model.pieces.iter().any(|piece| matches!(piece.kind, PieceKind::Normal | PieceKind::UserDefined));
        if of_text { Ok(model) } else { Err("it has no pieces of text: was the download complete?".into()) }
    }

    fn read_trainer(&mut self, bytes: &[u8]) -> Result<(), String> {
        for field in fields(bytes) {
            match field? {
                (3, Field::Number(kind)) => self.is_unigram = kind == 1,
                (35, Field::Number(flag)) => self.byte_fallback = flag != 0,
                (number @ 40..=42, Field::Number(id)) => self.ids[number as usize - 40] = id.cast_signed(),
                (number @ 45..=47, Field::Bytes(piece)) => self.special[number as usize - 45] = text(piece)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn read_normalizer(&mut self, bytes: &[u8]) -> Result<(), String> {
        for field in fields(bytes) {
            match field? {
                (2, Field::Bytes(rules)) => self.charsmap = rules.to_vec(),
                (3, Field::Number(flag)) => self.add_dummy_prefix = flag != 0,
                (4, Field::Number(flag)) => self.remove_extra_whitespaces = flag != 0,
                (5, Field::Number(flag)) => self.escape_whitespaces = flag != 0,
                _ => {}
            }
        }
        Ok(())
    }

    /// Returns the pieces and their scores.
    pub fn scores(&self) -> Vec<(String, f64)> {
        self.pieces.iter().map(|piece| (piece.text.clone(), f64::from(piece.score))).collect()
    }

    /// Returns the pieces and their ids; of equal pieces the last.
    pub fn vocab(&self) -> Vocab {
        self.pieces.iter().zip(0..).map(|(piece, id)| (piece.text.clone(), id)).collect()
    }

    /// Returns the merges ranked by the scores of their results, among normal pieces only, as SentencePiece merges.
    pub fn merges_by_score(&self) -> Merges {
        let normal = self.pieces.iter().enumerate().filter(|(_, piece)| piece.kind == PieceKind::Normal);
        let normal: HashMap<&str, (f32, usize)> =
            normal.map(|(id, piece)| (piece.text.as_str(), (piece.score, id))).collect();
        let mut ranked: Vec<(f32, usize, &str, &str)> = Vec::new();
        for (text, &(score, id)) in &normal {
            let splits = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
            let known = splits.filter(|(left, right)| normal.contains_key(left) && normal.contains_key(right));
            ranked.extend(known.map(|(left, right)| (0.0 - score, id, left, right)));
        }
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| (a.1, a.2, a.3).cmp(&(b.1, b.2, b.3))));
        ranked.into_iter().map(|(_, _, left, right)| (left.to_owned(), right.to_owned())).collect()
    }
}

fn piece(bytes: &[u8]) -> Result<Piece, String> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: PieceKind::Normal };
    for field in fields(bytes) {
        match field? {
            (1, Field::Bytes(bytes)) => piece.text = text(bytes)?,
            (2, Field::Fixed32(bits)) => piece.score = f32::from_bits(bits),
            (3, Field::Number(kind)) => {
                piece.kind = match kind {
                    1 => PieceKind::Normal,
                    2 => PieceKind::Unknown,
                    3 => PieceKind::Control,
                    4 => PieceKind::UserDefined,
                    _ => PieceKind::Other,
                }
            }
            _ => {}
        }
    }
    if piece.score.is_nan() { Err("a piece has the score NaN".into()) } else { Ok(piece) }
}

fn text(bytes: &[u8]) -> Result<String, String> {
    if bytes.len() > MAX_PIECE {
        return Err(format!("a piece has {} bytes; at most {MAX_PIECE} are supported", bytes.len()));
    }
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|e| format!("a piece is not UTF-8: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(number: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, content.len() as u8], content].concat()
    }

    fn piece(text: &str, score: f32, kind: u8) -> Vec<u8> {
        let content = [message(1, text.as_bytes()), [&[0x15][..], &score.to_le_bytes(), &[0x18, kind]].concat()];
        message(1, &content.concat())
    }

    #[test]
    fn fields_and_defaults_are_read() {
        // BPE with byte fallback (field 35: two bytes of tag), no dummy prefix.
        let trainer = message(2, &[0x18, 2, 0x98, 0x02, 1]);
        let file = [piece("<unk>", 0.0, 2), piece("a", -1.5, 1), trainer, message(3, &[0x18, 0])].concat();
        let model = SentencePiece::parse(&file).unwrap();
        assert_eq!(model.scores(), [("<unk>".to_owned(), 0.0), ("a".to_owned(), -1.5)]);
        assert_eq!((model.is_unigram, model.byte_fallback, model.add_dummy_prefix), (false, true, false));
        assert!(model.remove_extra_whitespaces && model.pieces[0].kind == PieceKind::Unknown);
        let unigram = SentencePiece::parse(&piece("a", 0.0, 1)).unwrap();
        assert_eq!((unigram.is_unigram, unigram.ids, unigram.special[1].as_str()), (true, [0, 1, 2], "<s>"));
    }

    #[test]
    fn merges_follow_the_scores() {
        let pieces = [("ab", -3.0), ("a", 0.0), ("b", 0.0), ("abb", -1.0), ("bb", -2.0)];
        let file = pieces.map(|(text, score)| piece(text, score, 1)).concat();
        let merges = SentencePiece::parse(&file).unwrap().merges_by_score();
        let merges: Vec<(&str, &str)> = merges.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(merges, [("a", "bb"), ("ab", "b"), ("b", "b"), ("a", "b")]);
    }

    #[test]
    fn damaged_files_are_errors() {
        let good = [piece("ab", 1.0, 1), piece("c", 1.0, 1)].concat();
        assert!(SentencePiece::parse(&good).is_ok());
        let cut = (1..good.len()).filter(|&end| SentencePiece::parse(&good[..end]).is_ok()).collect::<Vec<_>>();
        assert_eq!(cut, [piece("ab", 1.0, 1).len()], "only whole pieces are accepted");
        for (file, why) in [
            (&b""[..], "no pieces"),
            (b"version https://git-lfs", "field"),
            (&message(1, &message(1, &[0xff])), "UTF-8"),
            (&piece("a", f32::NAN, 1), "NaN"),
        ] {
            let message = SentencePiece::parse(file).unwrap_err();
            assert!(message.contains(why), "{message}");
        }
    }
}
