//! Adding tokens, and the special tokens around a text, as `TokenizersBackend.__init__` does.

use super::parts::{Step, template};
use super::settings::{Settings, Token};
use crate::text::special_tokens::Special;
use std::collections::HashSet;
use tokenizers::{AddedToken, PostProcessorWrapper, Tokenizer};

/// Adds the added tokens of the files, then the special tokens that the vocabulary has not as added tokens.
pub fn add_tokens(tokenizer: &mut Tokenizer, settings: &Settings) {
    let mut tokens: Vec<AddedToken> = settings.added.values().cloned().collect();
    let held = tokenizer.get_added_tokens_decoder();
    let mut known: HashSet<String> = held.values().chain(&tokens).map(|token| token.content.clone()).collect();
    let named: Vec<&Token> = settings.named.iter().filter_map(|(_, token)| token.as_ref()).collect();
    let extra = settings.extra.iter().flatten();
    for token in named.iter().copied().chain(extra) {
        if known.insert(token.text().to_owned()) {
            tokens.push(token.added());
        }
    }
    for token in &mut tokens {
        token.special |= named.iter().any(|named| named.text() == token.content);
    }
    tokenizer.add_tokens(&tokens);
}

/// Returns BOS and EOS around each text, as `add_bos_token` and `add_eos_token` say.
pub fn around(tokenizer: &Tokenizer, settings: &Settings) -> Result<PostProcessorWrapper, String> {
    let added = |role: Special, key: &str| {
        let token = settings.token(role).map(Token::text).filter(|_| settings.flag(key) == Some(true));
        token.and_then(|token| Some((token, id(tokenizer, settings, token)?)))
    };
    let (bos, eos) = (added(Special::Bos, "add_bos_token"), added(Special::Eos, "add_eos_token"));
    let steps = |text: &'static str, segment: u8| -> Vec<Step> {
        let [before, after] = [bos, eos].map(|token| token.map(|(token, _)| (token, segment)));
        before.into_iter().chain([(text, segment)]).chain(after).collect()
    };
    let single = steps("$A", 0);
    let pair = [single.clone(), steps("$B", 1)].concat();
    template(&single, &pair, &bos.into_iter().chain(eos).collect::<Vec<_>>())
}

/// Returns the id of a token, or that of the unknown token.
pub fn id(tokenizer: &Tokenizer, settings: &Settings, token: &str) -> Option<u32> {
    let unknown = || tokenizer.token_to_id(settings.token(Special::Unk)?.text());
    tokenizer.token_to_id(token).or_else(unknown)
}
