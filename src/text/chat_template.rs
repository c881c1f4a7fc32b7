//! The chat template of a Hugging Face folder: how a conversation is written as one text, and which parts of it are answers.

use super::jinja;
use super::special_tokens::json_of;
use crate::error::{Error, Result};
use minijinja::value::{Serde, Value as Jinja};
use minijinja::{Environment, context};
use serde_json::{Map, Value};
use std::ops::Range;
use std::path::Path;

/// The name of the only template in its environment.
const NAME: &str = "chat";
/// What stands around an answer while it is rendered: characters that Unicode keeps for a program's own use.
const OPEN: char = '\u{fdd0}';
const CLOSE: char = '\u{fdd1}';

/// Templates that write conversations.
pub struct ChatTemplate {
    plain: Template,
    /// For conversations with tools, where the folder has one of its own for them.
    with_tools: Option<Template>,
    /// The special tokens that templates know by their names.
    special: Map<String, Value>,
}

/// One template.
struct Template {
    environment: Environment<'static>,
    /// Where it was read, for messages.
    place: String,
    /// Whether it says by itself what the answers are.
    marks_answers: bool,
}

/// A conversation as a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    pub text: String,
    /// The bytes of each answer, in order.
    pub answers: Vec<Range<usize>>,
    /// Whether the template itself says what an answer is, and so where it ends.
    pub is_marked: bool,
}

impl ChatTemplate {
    /// Reads `chat_template.jinja`, or else `chat_template` of `tokenizer_config.json`, which is a template or a list of
    /// named ones (`default`, `tool_use`); `None` where there is neither. `special` are the special tokens by their names.
    ///
    /// # Errors
    /// Exit 2: a template that is broken, with its file and line; a list without `default`.
    pub fn of_folder(dir: &Path, special: Vec<(&'static str, String)>) -> Result<Option<Self>> {
        let special = special.into_iter().map(|(name, token)| (name.to_owned(), Value::from(token))).collect();
        let path = dir.join("chat_template.jinja");
        if path.exists() {
            let source = std::fs::read_to_string(&path);
            let source = source.map_err(|e| Error::input(format!("{}: {e}", path.display())))?;
            let plain = Template::new(&source, path.display().to_string())?;
            return Ok(Some(ChatTemplate { plain, with_tools: None, special }));
        }
        let path = dir.join("tokenizer_config.json");
        let config = json_of(&path)?;
        let place = |what: &str| format!("{} ({what})", path.display());
        let named = |name: &str| {
            let is = |entry: &&Value| entry.get("name").and_then(Value::as_str) == Some(name);
            let entry = config.get("chat_template")?.as_array()?.iter().find(is)?;
            let source = entry.get("template")?.as_str()?;
            Some(Template::new(source, place(&format!("chat_template {name:?}"))))
        };
        match config.get("chat_template") {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(source)) => {
                let plain = Template::new(source, place("chat_template"))?;
                Ok(Some(ChatTemplate { plain, with_tools: None, special }))
            }
            Some(_) => {
                let none = || Error::input(format!("{}: no template is called \"default\"", place("chat_template")));
                let plain = named("default").ok_or_else(none)??;
                Ok(Some(ChatTemplate { plain, with_tools: named("tool_use").transpose()?, special }))
            }
        }
    }

    /// Writes a conversation, all of it; the answers are what the assistant says, with what ends its turn.
    ///
    /// # Errors
    /// A complaint: what the template says against the conversation; an answer that cannot be told from the rest.
    pub fn render(&self, messages: &[Value], tools: Option<&Value>) -> Result<Rendered, String> {
        let template = self.with_tools.as_ref().filter(|_| tools.is_some()).unwrap_or(&self.plain);
        let write = |messages: &[Value], prompts: bool| template.write(messages, tools, prompts, &self.special);
        let whole = write(messages, false)?;
        if template.marks_answers {
            let (text, answers) = take_marks(&whole);
            return Ok(Rendered { text, answers, is_marked: true });
        }
        let mut answers = Vec::new();
        for turn in (0..messages.len()).filter(|&turn| is_answer(&messages[turn])) {
            let before = write(&messages[..turn], true)?;
            let with = write(&messages[..=turn], false)?;
            if !(with.starts_with(&before) && whole.starts_with(&with)) {
                return Err(format!(
                    "{}: cannot tell what of the text is the answer of message {}: the template writes the messages before \
                     it in another way without it; put {{% generation %}} and {{% endgeneration %}} around what an assistant \
                     says",
                    template.place,
                    turn + 1
                ));
            }
            answers.push(before.len()..with.len());
        }
        Ok(Rendered { text: whole, answers, is_marked: false })
    }

    /// Writes what a model is to continue: the conversation so far and the beginning of an answer.
    ///
    /// # Errors
    /// A complaint: what the template says against the conversation.
    pub fn prompt(&self, messages: &[Value], tools: Option<&Value>) -> Result<String, String> {
        let template = self.with_tools.as_ref().filter(|_| tools.is_some()).unwrap_or(&self.plain);
        Ok(take_marks(&template.write(messages, tools, true, &self.special)?).0)
    }
}

/// Whether a message is to be learnt.
pub fn is_answer(message: &Value) -> bool {
    message.get("role").and_then(Value::as_str) == Some("assistant")
}

impl Template {
    fn new(source: &str, place: String) -> Result<Self> {
        let (source, marks_answers) = mark_answers(source);
        let mut environment = jinja::environment();
        environment.add_template_owned(NAME, source).map_err(|e| {
            let line = e.line().map(|line| format!(":{line}")).unwrap_or_default();
            let why = e.detail().map_or_else(|| e.kind().to_string(), str::to_owned);
            Error::input(format!("{place}{line}: the chat template is broken: {why}"))
        })?;
        Ok(Template { environment, place, marks_answers })
    }

    fn write(
        &self,
        messages: &[Value],
        tools: Option<&Value>,
        add_generation_prompt: bool,
        special: &Map<String, Value>,
    ) -> Result<String, String> {
        let told = |e: minijinja::Error| {
            let line = e.line().map(|line| format!(":{line}")).unwrap_or_default();
            let why = e.detail().map_or_else(|| e.kind().to_string(), str::to_owned);
            format!("{}{line}: the chat template refuses the conversation: {why}", self.place)
        };
        let (messages, tools, special) =
            (Jinja::from(Serde(messages)), Jinja::from(Serde(tools)), Jinja::from(Serde(special)));
        let context = context! { messages, tools, add_generation_prompt, documents => (), ..special };
        self.environment.get_template(NAME).and_then(|template| template.render(context)).map_err(told)
    }
}

/// Gives what stands between `{% generation %}` and `{% endgeneration %}` its marks; whether there is any.
///
/// Two blocks stand where one stood, the mark between them, so that what trims the text before and after it still does.
fn mark_answers(source: &str) -> (String, bool) {
    let (mut out, mut rest, mut found) = (String::new(), source, false);
    while let Some((before, tag)) = rest.split_once("{%") {
        let Some((inside, after)) = tag.split_once("%}") else { break };
        out.push_str(before);
        let left = &inside[..inside.len() - inside.trim_start_matches(['-', '+']).len()];
        let right = &inside[inside.trim_end_matches(['-', '+']).len()..];
        match inside.trim_matches(|c: char| c == '-' || c == '+' || c.is_whitespace()) {
            "generation" => {
                found = true;
                out += &format!("{{%{left} if true %}}{{{{ '{OPEN}' }}}}{{% if true {right}%}}");
            }
            "endgeneration" => out += &format!("{{%{left} endif %}}{{{{ '{CLOSE}' }}}}{{% endif {right}%}}"),
            _ => out += &format!("{{%{inside}%}}"),
        }
        rest = after;
    }
    out.push_str(rest);
    (out, found)
}

/// The text without marks, and what stood between them.
fn take_marks(marked: &str) -> (String, Vec<Range<usize>>) {
    let (mut text, mut answers, mut open) = (String::new(), Vec::new(), 0);
    for c in marked.chars() {
        match c {
            OPEN => open = text.len(),
            CLOSE => answers.push(open..text.len()),
            c => text.push(c),
        }
    }
    (text, answers)
}

/// Whether a text has characters that stand for the borders of answers.
pub fn has_marks(text: &str) -> bool {
    text.contains([OPEN, CLOSE])
}
