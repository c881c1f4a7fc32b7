//! Ollama's `TEMPLATE`, in Go's language of templates, from a chat template in Jinja.
//!
//! A Jinja template is a program; most of them write each message between two texts that depend on its role. These texts
//! are found by rendering conversations. What other conversations become must agree, or there is no `TEMPLATE`.

use serde_json::{Value, json};

/// A chat template that writes each message between two texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoTemplate {
    /// The BOS token, if the template begins with it and llama.cpp does not add it.
    bos: String,
    /// The text before the first message.
    begin: String,
    /// The texts around a message of the system, if the template has any.
    system: Option<[String; 2]>,
    user: [String; 2],
    assistant: [String; 2],
    /// The text that the model continues.
    end: String,
    /// What the system says in a conversation without a message of the system.
    pub default_system: Option<String>,
}

/// Texts of messages that no template contains.
const TEXTS: [&str; 5] = ["Xsystem0X", "Xuser1X", "Xanswer2X", "Xuser3X", "Xanswer4X"];

fn message(role: &str, text: &str) -> Value {
    json!({"role": role, "content": text})
}

/// A conversation of up to three turns, with a message of the system or without.
fn conversation(system: bool, turns: usize) -> Vec<Value> {
    let [first, user, answer, again, last] = TEXTS;
    let said = [("user", user), ("assistant", answer), ("user", again), ("assistant", last), ("user", user)];
    let said = said.into_iter().take(2 * turns - 1).map(|(role, text)| message(role, text));
    system.then(|| message("system", first)).into_iter().chain(said).collect()
}

impl GoTemplate {
    /// Finds the texts around messages. `render` returns a conversation with the prompt for an answer, `None` if the
    /// template rejects it. `bos` is the text of the BOS token, and whether llama.cpp adds it.
    ///
    /// # Errors
    /// Why there is none.
    pub fn find(render: impl Fn(&[Value]) -> Option<String>, bos: Option<(&str, bool)>) -> Result<Self, &'static str> {
        const DIFFERS: &str = "it does more than to write each message between two texts of its role";
        let [system, user, answer, again, _] = TEXTS;
        let render_raw = render;
        let render = |system, turns| -> Result<Option<String>, &'static str> {
            let Some(text) = render_raw(&conversation(system, turns)) else { return Ok(None) };
            match bos.map(|(bos, is_added)| (text.strip_prefix(bos), is_added)) {
                Some((None, true)) => Err("it does not begin with the BOS token, which Ollama adds"),
                Some((Some(rest), _)) => Ok(Some(rest.to_owned())),
                _ => Ok(Some(text)),
            }
        };
        let has_system = render(true, 2)?.filter(|text| text.contains(system)).is_some();
        let whole = render(has_system, 2)?.ok_or("it rejects a conversation of two turns")?;
        let (head, rest) = whole.split_once(user).ok_or(DIFFERS)?;
        let (after_user, rest) = rest.split_once(answer).ok_or(DIFFERS)?;
        let (after_answer, tail) = rest.split_once(again).ok_or(DIFFERS)?;
        let (begin, before_user) = if has_system { head.split_once(system).ok_or(DIFFERS)? } else { ("", head) };
        let alone = render(false, 1)?;
        let opening = alone.as_ref().and_then(|text| Some(text.split_once(user)?.0)).filter(|_| has_system);
        let mut before = common_end(before_user, after_answer);
        if let Some(opening) = opening {
            // A message of the system ends where a conversation without one does not begin.
            before = common_end(before, opening);
            if opening.len() > before.len() {
                let same = common_start(before, after_user);
                before = &before[same.rfind('\n').map_or(0, |end| end + 1)..];
            }
        }
        let after = common_start(after_user, tail);
        let system = has_system.then(|| [begin.to_owned(), before_user[..before_user.len() - before.len()].to_owned()]);
        let begin = if has_system { "" } else { &before_user[..before_user.len() - before.len()] };
        let mut found = GoTemplate {
            bos: String::new(),
            begin: begin.to_owned(),
            system,
            user: [before.to_owned(), after.to_owned()],
            assistant: [
                after_user[after.len()..].to_owned(),
                after_answer[..after_answer.len() - before.len()].to_owned(),
            ],
            end: tail[after.len()..].to_owned(),
            default_system: None,
        };
        if let (Some(text), Some([open, close])) = (&alone, &found.system)
            && *text != found.render(&conversation(false, 1))
        {
            let rest = found.render(&conversation(false, 1));
            let said = text.strip_prefix(open.as_str()).and_then(|text| text.strip_suffix(rest.as_str()));
            found.default_system = said.and_then(|said| said.strip_suffix(close.as_str())).map(str::to_owned);
        }
        for (with_system, turns) in [(false, 1), (false, 2), (false, 3), (true, 1), (true, 3)] {
            if with_system && !has_system {
                continue;
            }
            if render(with_system, turns)? != Some(found.render(&conversation(with_system, turns))) {
                return Err(DIFFERS);
            }
        }
        if let Some((bos, false)) = bos
            && render_raw(&conversation(false, 1)).is_some_and(|text| text.starts_with(bos))
        {
            bos.clone_into(&mut found.bos);
        }
        let signs = ["{{", "}}", "\"\"\""];
        if found.texts().any(|text| signs.iter().any(|sign| text.contains(sign))) {
            return Err("it contains text that Ollama's templates cannot contain");
        }
        Ok(found)
    }

    /// All texts that are written as they are.
    fn texts(&self) -> impl Iterator<Item = &String> {
        let around = [&self.user, &self.assistant].into_iter().chain(&self.system).flatten();
        around.chain([&self.bos, &self.begin, &self.end]).chain(&self.default_system)
    }

    fn render(&self, messages: &[Value]) -> String {
        let mut out = self.begin.clone();
        let is_system = |message: &Value| message["role"] == "system";
        let default = self.default_system.as_ref().filter(|_| !messages.iter().any(is_system));
        let default = default.map(|text| message("system", text));
        for message in default.iter().chain(messages) {
            let [before, after] = match message["role"].as_str() {
                Some("system") => self.system.as_ref().unwrap_or(&self.user),
                Some("assistant") => &self.assistant,
                _ => &self.user,
            };
            out += before;
            out += message["content"].as_str().unwrap_or_default();
            out += after;
        }
        out + &self.end
    }

    /// Returns the template in Go's language.
    pub fn text(&self) -> String {
        let turn = |[before, after]: &[String; 2]| format!("{before}{{{{ .Content }}}}{after}");
        let mut out = format!("{}{}{{{{ range .Messages }}}}", self.bos, self.begin);
        if let Some(system) = &self.system {
            out += &format!("{{{{ if eq .Role \"system\" }}}}{}{{{{ else if", turn(system));
        } else {
            out += "{{ if";
        }
        out += &format!(" eq .Role \"user\" }}}}{}", turn(&self.user));
        out += &format!("{{{{ else if eq .Role \"assistant\" }}}}{}", turn(&self.assistant));
        out += &format!("{{{{ end }}}}{{{{ end }}}}{}", self.end);
        out
    }
}

/// Returns what both texts begin with.
fn common_start<'a>(a: &'a str, b: &str) -> &'a str {
    let same = a.chars().zip(b.chars()).take_while(|(a, b)| a == b);
    &a[..same.map(|(c, _)| c.len_utf8()).sum()]
}

/// Returns what both texts end with.
fn common_end<'a>(a: &'a str, b: &str) -> &'a str {
    let same = a.chars().rev().zip(b.chars().rev()).take_while(|(a, b)| a == b);
    &a[a.len() - same.map(|(c, _)| c.len_utf8()).sum::<usize>()..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chatml(default: Option<&str>) -> impl Fn(&[Value]) -> Option<String> {
        move |messages| {
            let turn = |role: &str, text: &str| format!("<|im_start|>{role}\n{text}<|im_end|>\n");
            let default = default.filter(|_| messages[0]["role"] != "system");
            let mut out = default.map_or_else(String::new, |text| turn("system", text));
            for message in messages {
                out += &turn(message["role"].as_str()?, message["content"].as_str()?);
            }
            Some(out + "<|im_start|>assistant\n")
        }
    }

    #[test]
    fn texts_around_messages_are_found() {
        let found = GoTemplate::find(chatml(None), None).unwrap();
        assert_eq!(found.default_system, None);
        let text = found.text();
        let turn = |role: &str| format!("<|im_start|>{role}\n{{{{ .Content }}}}<|im_end|>\n");
        let wanted = format!(
            "{{{{ range .Messages }}}}{{{{ if eq .Role \"system\" }}}}{}{{{{ else if eq .Role \"user\" }}}}{}\
             <|im_start|>assistant\n{{{{ else if eq .Role \"assistant\" }}}}{{{{ .Content }}}}<|im_end|>\n{{{{ end }}}}{{{{ end }}}}",
            turn("system"),
            turn("user"),
        );
        assert_eq!(text, wanted);
        let with = GoTemplate::find(chatml(Some("You help.")), None).unwrap();
        assert_eq!((with.default_system.as_deref(), with.text()), (Some("You help."), text));
    }

    #[test]
    fn the_bos_token_is_left_to_ollama() {
        let with_bos = |messages: &[Value]| Some(format!("<s>{}", chatml(None)(messages)?));
        let (added, plain) = (Some(("<s>", true)), GoTemplate::find(chatml(None), None).unwrap());
        assert_eq!(GoTemplate::find(with_bos, added).unwrap(), plain);
        let why = GoTemplate::find(chatml(None), added).unwrap_err();
        assert!(why.contains("BOS"), "{why}");
        // A token that llama.cpp does not add stays a part of the template.
        let kept = GoTemplate::find(with_bos, Some(("<s>", false))).unwrap().text();
        assert_eq!(kept, format!("<s>{}", plain.text()));
    }

    #[test]
    fn a_template_may_have_no_system() {
        let plain = |messages: &[Value]| {
            let turns = messages.iter().map(|message| match message["role"].as_str()? {
                "user" => Some(format!("Q: {}\nA:", message["content"].as_str()?)),
                "assistant" => Some(format!(" {}</s>", message["content"].as_str()?)),
                _ => None,
            });
            turns.collect::<Option<String>>()
        };
        let text = GoTemplate::find(plain, None).unwrap().text();
        assert_eq!(
            text,
            "{{ range .Messages }}{{ if eq .Role \"user\" }}Q: {{ .Content }}\nA:{{ else if eq .Role \"assistant\" }} \
             {{ .Content }}</s>{{ end }}{{ end }}"
        );
    }

    #[test]
    fn a_template_that_does_more_is_not_expressed() {
        let counts = |messages: &[Value]| Some(format!("{}{}", chatml(None)(messages)?, messages.len()));
        assert!(GoTemplate::find(counts, None).is_err());
        let braces = |messages: &[Value]| Some(chatml(None)(messages)?.replace("<|im_end|>", "}}"));
        assert!(GoTemplate::find(braces, None).unwrap_err().contains("cannot contain"));
        assert!(GoTemplate::find(|_| None, None).unwrap_err().contains("rejects"));
    }
}
