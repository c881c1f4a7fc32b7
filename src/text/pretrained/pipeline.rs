//! The pipeline of each tokenizer class of `transformers` 5 (`models/*/tokenization_*.py`).

use super::adding::{add_tokens, around, id};
use super::class::Class;
use super::merges::Merges;
use super::parts::{assemble, byte_level, metaspace, part, parts, replace, sequence, split_bytes, template, words};
use super::sentencepiece::{PieceKind, SentencePiece};
use super::settings::{Settings, Token};
use super::source::{Source, Vocabulary};
use crate::text::special_tokens::Special::{self, Bos, Cls, Eos, Mask, Sep, Unk};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::models::unigram::Unigram;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::{AddedToken, NormalizerWrapper, PostProcessorWrapper, Tokenizer};

/// The regular expression of Qwen2.
pub const QWEN2_SPLIT: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// A tokenizer, the default roles whose tokens its vocabulary has, and the settings.
pub type Built = (Tokenizer, Vec<(Special, String)>, Settings);

/// Builds the tokenizer of a class.
///
/// # Errors
/// A vocabulary without the tokens that the class needs; an invalid part.
pub fn build(class: Class, source: Source, mut settings: Settings) -> Result<Built, String> {
    let defaults = class.defaults();
    let given: HashSet<String> = settings.named.iter().map(|(key, _)| key.clone()).collect();
    settings.with_defaults(&defaults);
    if matches!(class, Class::XlNet | Class::Camembert) {
        takes_blank(&mut settings, !given.contains(Mask.key()));
    }
    let Source { vocabulary, post_processor, rules, unknown, is_json } = source;
    let mut tokenizer = match vocabulary {
        Vocabulary::Ready(tokenizer) => *tokenizer,
        Vocabulary::Model(model) => of_model(*model, rules, &mut settings)?,
        Vocabulary::Ids(vocab, merges) => of_ids(class, vocab, merges, &settings)?,
        Vocabulary::Scores(scores) => of_scores(class, scores, rules, unknown, &settings)?,
    };
    if settings.extra.is_none() && settings.json.get("extra_special_tokens").is_none() {
        settings.extra = class.additional(&settings);
    }
    let held = |(role, token): &(Special, AddedToken)| {
        let known = tokenizer.token_to_id(&token.content).is_some()
            || settings.added.values().any(|added| added.content == token.content);
        (!given.contains(role.key()) && known).then(|| (*role, token.content.clone()))
    };
    let held = defaults.iter().filter_map(held).collect();
    if post_processor.is_some() {
        tokenizer.with_post_processor(post_processor);
    }
    let explicit = ["add_bos_token", "add_eos_token"].iter().any(|key| settings.json.get(*key).is_some());
    let replaced = explicit && !is_json || tokenizer.get_post_processor().is_none();
    add_tokens(&mut tokenizer, &settings);
    if replaced || class == Class::GptNeoX {
        let silent = Settings { json: Value::Null, ..settings.clone() };
        let around = around(&tokenizer, if is_json { &silent } else { &settings })?;
        tokenizer.with_post_processor(Some(around));
    }
    if let Some(own) = own_post_processor(class, &tokenizer, &settings)? {
        tokenizer.with_post_processor(Some(own));
    }
    if class == Class::Qwen2 {
        let all = settings.named.iter().filter_map(|(_, token)| token.as_ref()).chain(settings.extra.iter().flatten());
        let mut all: Vec<&str> = all.map(Token::text).collect();
        let mut seen = HashSet::new();
        all.retain(|token| seen.insert(*token));
        tokenizer.add_tokens(&all.into_iter().map(|token| AddedToken::from(token, true)).collect::<Vec<_>>());
    }
    tokenizer.set_encode_special_tokens(settings.flag("split_special_tokens") == Some(true));
    Ok((tokenizer, held, settings))
}

/// Lets a mask token without properties include the space before it.
fn takes_blank(settings: &mut Settings, is_default: bool) {
    for (_, token) in settings.named.iter_mut().filter(|(key, _)| key == Mask.key()) {
        if let Some(mask) = token.as_ref().filter(|mask| is_default || matches!(mask, Token::Plain(_))) {
            *token = Some(Token::Full(AddedToken::from(mask.text(), true).lstrip(true)));
        }
    }
}

/// Builds the pipeline of a class from tokens with ids: WordPiece and BPE.
fn of_ids(class: Class, vocab: Vocab, merges: Merges, settings: &Settings) -> Result<Tokenizer, String> {
    let prefix = settings.flag("add_prefix_space");
    let failed = |e: tokenizers::Error| e.to_string();
    if class == Class::Bert {
        let unknown = settings.token(Unk).map_or("[UNK]", Token::text);
        let model = WordPiece::builder().vocab(vocab).unk_token(unknown.to_owned()).build().map_err(failed)?;
        let mut tokenizer = Tokenizer::new(model);
        assemble(
            &mut tokenizer,
            &json!({"type": "BertPreTokenizer"}),
            &json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
        )?;
        let flag = |key: &str| settings.flag(key).unwrap_or(true);
        let normalizer = json!({
            "type": "BertNormalizer",
            "clean_text": true,
            "handle_chinese_chars": flag("tokenize_chinese_chars"),
            "strip_accents": settings.flag("strip_accents"),
            "lowercase": flag("do_lower_case"),
        });
        tokenizer.with_normalizer(Some(part::<NormalizerWrapper>(&normalizer)?));
        return Ok(tokenizer);
    }
    let bpe = BPE::builder().vocab_and_merges(vocab, merges);
    let bytes = byte_level(true, true);
    let (model, normalizer, pre_tokenizer, decoder) = match class {
        Class::Llama => {
            let prefix = prefix.unwrap_or(true);
            let first = if settings.flag("legacy") == Some(true) { "always" } else { "first" };
            let mut steps = vec![replace("▁", false, " "), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
            steps.extend(prefix.then(|| json!({"type": "Strip", "content": " ", "start": 1, "stop": 0})));
            let model = bpe.fuse_unk(true).byte_fallback(true);
            let scheme = if prefix { first } else { "never" };
            (model, Value::Null, metaspace(scheme, false), json!({"type": "Sequence", "decoders": steps}))
        }
        Class::Qwen2 => (bpe, json!({"type": "NFC"}), split_bytes(QWEN2_SPLIT, prefix.unwrap_or(false)), bytes),
        Class::GptNeoX => (bpe, json!({"type": "NFC"}), byte_level(prefix.unwrap_or(false), true), bytes),
        _ => (bpe, Value::Null, byte_level(prefix.unwrap_or(false), true), bytes),
    };
    let mut tokenizer = Tokenizer::new(model.build().map_err(failed)?);
    assemble(&mut tokenizer, &pre_tokenizer, &decoder)?;
    tokenizer.with_normalizer(part::<Option<NormalizerWrapper>>(&normalizer)?);
    Ok(tokenizer)
}

/// Builds the pipeline of a class from pieces with scores: Unigram.
fn of_scores(
    class: Class,
    scores: Vec<(String, f64)>,
    rules: Option<NormalizerWrapper>,
    unknown: Option<usize>,
    settings: &Settings,
) -> Result<Tokenizer, String> {
    let flag = |key: &str, default: bool| settings.flag(key).unwrap_or(default);
    let token = settings.token(Unk).map_or("<unk>", Token::text);
    let unknown = match class {
        Class::T5 => 2,
        Class::Albert => 1,
        Class::XlmRoberta => 3,
        Class::Camembert => scores.iter().position(|(piece, _)| piece == token).unwrap_or(0),
        Class::DebertaV2 => {
            let found = scores.iter().position(|(piece, score)| piece == token && *score == 0.0);
            found.or(unknown).or(settings.number("unk_id")).unwrap_or(1)
        }
        _ => settings.number("unk_id").or(unknown).unwrap_or(0),
    };
    let model = Unigram::from(scores, Some(unknown), false).map_err(|e| e.to_string())?;
    let mut tokenizer = Tokenizer::new(model);
    if class == Class::DebertaV2 {
        deberta(&mut tokenizer, settings)?;
        return Ok(tokenizer);
    }
    let scheme = match class {
        Class::T5 | Class::XlNet => "always",
        _ if flag("add_prefix_space", true) => "always",
        _ => "never",
    };
    assemble(&mut tokenizer, &words(scheme), &metaspace(scheme, true))?;
    if !matches!(class, Class::Albert | Class::XlNet) {
        tokenizer.with_normalizer(rules);
        return Ok(tokenizer);
    }
    let mut steps = vec![replace("``", false, "\""), replace("''", false, "\"")];
    if class == Class::XlNet || !flag("keep_accents", false) {
        steps.extend([json!({"type": "NFKD"}), json!({"type": "StripAccents"})]);
    }
    if flag("do_lower_case", class == Class::Albert) {
        steps.push(json!({"type": "Lowercase"}));
    }
    tokenizer.with_normalizer(Some(sequence(parts(&steps)?.into_iter().chain(rules).collect())));
    if class == Class::Albert {
        let id = |role: Special| {
            let token = settings.token(role).map_or("", Token::text);
            let missing = || format!("the vocabulary has no token {token:?}, which is the folder's {}", role.key());
            tokenizer.token_to_id(token).ok_or_else(missing)
        };
        let own = bert_template(&[("[CLS]", id(Cls)?), ("[SEP]", id(Sep)?)])?;
        tokenizer.with_post_processor(Some(own));
    }
    Ok(tokenizer)
}

/// Sets the parts of DeBERTa's pipeline, which has no normalization rules of SentencePiece.
fn deberta(tokenizer: &mut Tokenizer, settings: &Settings) -> Result<(), String> {
    let flag = |key: &str| settings.flag(key) == Some(true);
    let scheme = if settings.flag("add_prefix_space").unwrap_or(true) { "always" } else { "first" };
    let punctuation = flag("split_by_punct").then(|| json!({"type": "Punctuation", "behavior": "Isolated"}));
    let splits: Vec<Value> = punctuation.into_iter().chain([metaspace(scheme, true)]).collect();
    assemble(tokenizer, &json!({"type": "Sequence", "pretokenizers": splits}), &metaspace(scheme, true))?;
    let lowercase = flag("do_lower_case").then(|| json!({"type": "Lowercase"}));
    let blanks = [
        replace(r"\s{2,}|[\n\r\t]", true, " "),
        json!({"type": "NFC"}),
        json!({"type": "Strip", "strip_left": false, "strip_right": true}),
    ];
    let steps: Vec<Value> = lowercase.into_iter().chain(blanks).collect();
    tokenizer.with_normalizer(Some(sequence(parts(&steps)?)));
    Ok(())
}

fn bert_template(ids: &[(&str, u32); 2]) -> Result<PostProcessorWrapper, String> {
    let [(cls, _), (sep, _)] = *ids;
    let single = [(cls, 0), ("$A", 0), (sep, 0)];
    template(&single, &[&single[..], &[("$B", 1), (sep, 1)]].concat(), ids)
}

/// Returns the post-processor with which a class replaces any other.
fn own_post_processor(
    class: Class,
    tokenizer: &Tokenizer,
    settings: &Settings,
) -> Result<Option<PostProcessorWrapper>, String> {
    let of = |role: Special| {
        let missing = || format!("tokenizer_config.json sets {} to null, but the class needs it", role.key());
        let token = settings.token(role).map(Token::text).ok_or_else(missing)?;
        let id = id(tokenizer, settings, token).ok_or_else(|| format!("the vocabulary has no token {token:?}"))?;
        Ok::<_, String>((token, id))
    };
    let joined = |first: (&str, u32), last: (&str, u32)| {
        let single = [(first.0, 0), ("$A", 0), (last.0, 0)];
        template(&single, &[&single[..], &[(last.0, 0), ("$B", 0), (last.0, 0)]].concat(), &[first, last])
    };
    let own = match class {
        Class::Bert | Class::DebertaV2 => bert_template(&[of(Cls)?, of(Sep)?])?,
        Class::Roberta => part(&json!({
            "type": "RobertaProcessing",
            "sep": of(Sep)?,
            "cls": of(Cls)?,
            "trim_offsets": settings.flag("trim_offsets").unwrap_or(true),
            "add_prefix_space": settings.flag("add_prefix_space").unwrap_or(false),
        }))?,
        Class::XlmRoberta | Class::Camembert => joined(of(Bos)?, of(Eos)?)?,
        Class::T5 => {
            let end = [("</s>", of(Eos)?.1)];
            let single = [("$A", 0), ("</s>", 0)];
            template(&single, &[&single[..], &[("$B", 0), ("</s>", 0)]].concat(), &end)?
        }
        Class::XlNet => {
            let ((sep, _), (cls, _)) = (of(Sep)?, of(Cls)?);
            let [single, pair] = [vec![], vec![("$B", 1), (sep, 1)]]
                .map(|second| [vec![("$A", 0), (sep, 0)], second, vec![(cls, 2)]].concat());
            template(&single, &pair, &[of(Sep)?, of(Cls)?])?
        }
        _ => return Ok(None),
    };
    Ok(Some(own))
}

/// Builds the pipeline that encodes like SentencePiece itself, for folders without a class
/// (`SpmConverter.build_tokenizer_from_spm_proto`).
fn of_model(
    model: SentencePiece,
    rules: Option<NormalizerWrapper>,
    settings: &mut Settings,
) -> Result<Tokenizer, String> {
    let failed = |e: tokenizers::Error| e.to_string();
    let legacy = settings.json.get("legacy").is_none_or(|legacy| legacy.as_bool() == Some(true));
    let mut model = model;
    if !model.is_unigram {
        rename(&mut model, settings);
    }
    let own = model.pieces.iter().filter(|piece| piece.kind == PieceKind::UserDefined);
    let mut own: Vec<&str> = own.map(|piece| piece.text.as_str()).collect();
    if let Some(additional) = &mut settings.additional {
        additional.retain(|token| !own.contains(&token.text()));
    }
    if model.add_dummy_prefix {
        settings.added.values_mut().for_each(|token| token.normalized = false);
    }
    let mut tokenizer = if model.is_unigram {
        let unknown = model.ids[0].try_into().ok();
        Tokenizer::new(Unigram::from(model.scores(), unknown, model.byte_fallback).map_err(failed)?)
    } else {
        let bpe = BPE::builder().vocab_and_merges(model.vocab(), model.merges_by_score());
        let bpe = bpe.unk_token(model.special[0].clone()).fuse_unk(true).byte_fallback(model.byte_fallback);
        Tokenizer::new(bpe.ignore_merges(!own.is_empty()).build().map_err(failed)?)
    };
    let mut steps = Vec::new();
    if model.remove_extra_whitespaces {
        steps.extend([replace(r"\A +| +\z", true, ""), replace(" {2,}", true, " ")]);
    }
    if model.escape_whitespaces {
        steps.push(replace(" ", false, "▁"));
    }
    if model.add_dummy_prefix && legacy {
        steps.push(replace(r"\A▁", true, "▁▁"));
    }
    tokenizer.with_normalizer(Some(sequence(rules.into_iter().chain(parts(&steps)?).collect())));
    let mut splits = Vec::new();
    if model.add_dummy_prefix {
        splits.push(metaspace(if legacy { "always" } else { "first" }, false));
    }
    if !own.is_empty() {
        own.sort_by_key(|piece| std::cmp::Reverse(piece.chars().count()));
        let pattern = own.iter().map(|piece| escaped(piece)).collect::<Vec<_>>().join("|");
        splits.push(json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false}));
    }
    let splits = if splits.is_empty() { Value::Null } else { json!({"type": "Sequence", "pretokenizers": splits}) };
    let mut decoders = vec![replace("▁", false, " ")];
    decoders.extend(model.byte_fallback.then(|| json!({"type": "ByteFallback"})));
    decoders.extend((model.byte_fallback || model.add_dummy_prefix).then(|| json!({"type": "Fuse"})));
    decoders.extend(model.add_dummy_prefix.then(|| json!({"type": "Strip", "content": " ", "start": 1, "stop": 0})));
    assemble(&mut tokenizer, &splits, &json!({"type": "Sequence", "decoders": decoders}))?;
    let roles = [Unk, Bos, Eos].into_iter().zip(model.special).zip(model.ids).filter(|(_, id)| *id >= 0);
    let roles: Vec<_> = roles.map(|((role, piece), _)| (role, AddedToken::from(piece, true))).collect();
    settings.with_defaults(&roles);
    Ok(tokenizer)
}

/// Gives pieces the names that `added_tokens_decoder` has for their ids.
fn rename(model: &mut SentencePiece, settings: &Settings) {
    let names: HashMap<usize, String> =
        settings.added.iter().map(|(id, token)| (*id as usize, token.content.clone())).collect();
    let kept = model.pieces.iter().enumerate().filter(|(id, _)| !names.contains_key(id));
    let kept: HashSet<String> = kept.map(|(_, piece)| piece.text.clone()).collect();
    for (id, piece) in model.pieces.iter_mut().enumerate() {
        if let Some(name) = names.get(&id).filter(|name| !kept.contains(*name)) {
            piece.text.clone_from(name);
        }
    }
}

/// Escapes a literal for a regular expression.
fn escaped(text: &str) -> String {
    let special = |c: char| r"()[]{}?*+-|^$\.&~#".contains(c) || c.is_ascii_whitespace();
    text.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}
