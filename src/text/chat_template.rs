//! Chat templates of Hugging Face folders: rendering a conversation to text and locating the assistant's answers.

use super::jinja;
use super::special_tokens::json_of;
use crate::error::{Error, Result};
use minijinja::value::{Serde, Value as Jinja};
use minijinja::{Environment, context};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The name of the only template in its environment.
const NAME: &str = "chat";
/// The folder of templates beside the default one.
const ADDITIONAL: &str = "additional_chat_templates";
/// Markers around an answer during rendering: Unicode noncharacters, reserved for internal use.
const OPEN: char = '\u{fdd0}';
const CLOSE: char = '\u{fdd1}';

/// The templates that render conversations.
pub struct ChatTemplate {
    plain: Template,
    /// The template `tool_use` for conversations with tools, if the folder has one.
    with_tools: Option<Template>,
    /// The special tokens available to templates, by name.
    special: Map<String, Value>,
}

struct Template {
    environment: Environment<'static>,
    /// Source file and key, for messages.
    place: String,
    /// Whether it has `{% generation %}` blocks.
    marks_answers: bool,
}

/// Variables of a template by name, beside those that every conversation has (`chat_template_kwargs`).
pub type Kwargs = Map<String, Value>;

/// A rendered conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    pub text: String,
    /// Byte range of each answer, in order.
    pub answers: Vec<Range<usize>>,
    /// Whether `{% generation %}` blocks determine the answers, including where they end.
    pub is_marked: bool,
}

/// The source of a template in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateSource {
    /// `default` unless the folder has several.
    pub name: String,
    pub text: String,
    /// Source file and key, for messages.
    pub place: String,
}

/// Returns the templates of a folder: those of `chat_template.jinja` and `additional_chat_templates/NAME.jinja`, or
/// else those of `chat_template` in `tokenizer_config.json`.
///
/// # Errors
/// Exit 2: an unreadable file; several templates, none of which is the default one.
pub fn sources(dir: &Path) -> Result<Vec<TemplateSource>> {
    let files = files(dir)?;
    if !files.is_empty() {
        return Ok(files);
    }
    let default = |text: String, place: String| vec![TemplateSource { name: "default".into(), text, place }];
    let path = dir.join("tokenizer_config.json");
    let config = json_of(&path)?;
    let place = |what: &str| format!("{} ({what})", path.display());
    let named = |entry: &Value| {
        let (name, text) = (entry.get("name")?.as_str()?, entry.get("template")?.as_str()?);
        let place = place(&format!("chat_template {name:?}"));
        Some(TemplateSource { name: name.to_owned(), text: text.to_owned(), place })
    };
    Ok(match config.get("chat_template") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(text)) => default(text.clone(), place("chat_template")),
        Some(list) => {
            let found: Vec<TemplateSource> = list.as_array().into_iter().flatten().filter_map(named).collect();
            if !found.iter().any(|found| found.name == "default") {
                let what = place("chat_template");
                return Err(Error::input(format!("{what}: no template is named \"default\"")));
            }
            found
        }
    })
}

/// Returns the templates that have files of their own.
fn files(dir: &Path) -> Result<Vec<TemplateSource>> {
    let wrong = |path: &Path, why: &dyn std::fmt::Display| Error::input(format!("{}: {why}", path.display()));
    let (default, folder) = (dir.join("chat_template.jinja"), dir.join(ADDITIONAL));
    let mut paths = Vec::new();
    if folder.is_dir() {
        for entry in std::fs::read_dir(&folder).map_err(|e| wrong(&folder, &e))? {
            let path = entry.map_err(|e| wrong(&folder, &e))?.path();
            if path.extension().is_some_and(|extension| extension == "jinja") {
                let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                paths.push((name, path));
            }
        }
        paths.sort();
    }
    if default.exists() {
        paths.insert(0, ("default".to_owned(), default));
    } else if let Some((_, path)) = paths.first() {
        return Err(wrong(
            path,
            &"the template \"default\" is missing, which is chat_template.jinja beside its folder",
        ));
    }
    let read = |(name, path): (String, PathBuf)| {
        let text = std::fs::read_to_string(&path).map_err(|e| wrong(&path, &e))?;
        Ok(TemplateSource { name, text, place: path.display().to_string() })
    };
    paths.into_iter().map(read).collect()
}

impl TemplateSource {
    /// Returns the text without the tags `{% generation %}` and `{% endgeneration %}`, which only matter for training.
    pub fn without_marks(&self) -> String {
        let tag = |opens: bool, left: &str, right: &str| {
            if opens { format!("{{%{left} if true {right}%}}") } else { format!("{{%{left} endif {right}%}}") }
        };
        replace_marks(&self.text, tag).0
    }
}

impl ChatTemplate {
    /// Reads the templates `default` and `tool_use` of the folder's [`sources`]. Returns `None` if there is none.
    /// `special` maps names to tokens.
    ///
    /// # Errors
    /// Those of [`sources`]. Exit 2: a template with a syntax error, with its file and line.
    pub fn of_folder(dir: &Path, special: Vec<(String, String)>) -> Result<Option<Self>> {
        let special = special.into_iter().map(|(name, token)| (name, Value::from(token))).collect();
        let sources = sources(dir)?;
        let named = |name: &str| {
            let found = sources.iter().find(|found| found.name == name)?;
            Some(Template::new(&found.text, found.place.clone()))
        };
        let Some(plain) = named("default").transpose()? else { return Ok(None) };
        Ok(Some(ChatTemplate { plain, with_tools: named("tool_use").transpose()?, special }))
    }

    /// Renders a whole conversation. The answers are the assistant's turns, including the text that ends each turn.
    /// `kwargs` are further variables of the template.
    ///
    /// # Errors
    /// An exception that the template raises; an answer that cannot be located in the text.
    pub fn render(&self, messages: &[Value], tools: Option<&Value>, kwargs: &Kwargs) -> Result<Rendered, String> {
        let (template, variables) = (self.template(tools), self.variables(kwargs));
        let write = |messages: &[Value], prompts: bool| template.write(messages, tools, prompts, &variables);
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
                let way_out = if messages.iter().filter(|message| is_answer(message)).count() > 1 {
                    "set task.split_turns = true to train on each answer with the messages before it, or "
                } else {
                    ""
                };
                return Err(format!(
                    "{}: cannot locate the answer of message {} in the rendered text, because the template renders the \
                     messages up to it differently in the whole conversation (templates of reasoning models leave out \
                     earlier reasoning); {way_out}put {{% generation %}} and {{% endgeneration %}} around the \
                     assistant's content",
                    template.place,
                    turn + 1
                ));
            }
            answers.push(before.len()..with.len());
        }
        Ok(Rendered { text: whole, answers, is_marked: false })
    }

    /// Renders a conversation once for each of the assistant's answers, up to this answer, which is the only one.
    ///
    /// # Errors
    /// As [`Self::render`].
    pub fn render_turns(
        &self,
        messages: &[Value],
        tools: Option<&Value>,
        kwargs: &Kwargs,
    ) -> Result<Vec<Rendered>, String> {
        let (template, variables) = (self.template(tools), self.variables(kwargs));
        let turn = |turn: usize| {
            let before = take_marks(&template.write(&messages[..turn], tools, true, &variables)?).0;
            let (text, marked) = take_marks(&template.write(&messages[..=turn], tools, false, &variables)?);
            if template.marks_answers {
                let answers = marked.last().cloned().into_iter().collect();
                return Ok(Rendered { text, answers, is_marked: true });
            }
            if !text.starts_with(&before) {
                return Err(format!(
                    "{}: cannot locate the answer of message {}, because the template renders the messages before it \
                     differently without it; put {{% generation %}} and {{% endgeneration %}} around the assistant's \
                     content",
                    template.place,
                    turn + 1
                ));
            }
            let answers = std::iter::once(before.len()..text.len()).collect();
            Ok(Rendered { text, answers, is_marked: false })
        };
        (0..messages.len()).filter(|&turn| is_answer(&messages[turn])).map(turn).collect()
    }

    fn template(&self, tools: Option<&Value>) -> &Template {
        self.with_tools.as_ref().filter(|_| tools.is_some()).unwrap_or(&self.plain)
    }

    /// Returns the special tokens and `kwargs`, which take precedence, as in `transformers`.
    fn variables(&self, kwargs: &Kwargs) -> Cow<'_, Map<String, Value>> {
        if kwargs.is_empty() {
            return Cow::Borrowed(&self.special);
        }
        let mut all = self.special.clone();
        all.extend(kwargs.iter().map(|(name, value)| (name.clone(), value.clone())));
        Cow::Owned(all)
    }

    /// Renders a conversation with the generation prompt, for the model to continue.
    ///
    /// # Errors
    /// An exception that the template raises.
    pub fn prompt(&self, messages: &[Value], tools: Option<&Value>, kwargs: &Kwargs) -> Result<String, String> {
        Ok(take_marks(&self.template(tools).write(messages, tools, true, &self.variables(kwargs))?).0)
    }
}

/// Whether a message is an assistant's, so that training computes a loss for it.
pub fn is_answer(message: &Value) -> bool {
    message.get("role").and_then(Value::as_str) == Some("assistant")
}

impl Template {
    fn new(source: &str, place: String) -> Result<Self> {
        // As in Jinja2, line ends are newlines.
        let (source, marks_answers) = mark_answers(&source.replace("\r\n", "\n").replace('\r', "\n"));
        let mut environment = jinja::environment();
        environment.add_template_owned(NAME, source).map_err(|e| {
            let line = e.line().map(|line| format!(":{line}")).unwrap_or_default();
            let why = e.detail().map_or_else(|| e.kind().to_string(), str::to_owned);
            Error::input(format!("{place}{line}: invalid chat template: {why}"))
        })?;
        Ok(Template { environment, place, marks_answers })
    }

    fn write(
        &self,
        messages: &[Value],
        tools: Option<&Value>,
        add_generation_prompt: bool,
        variables: &Map<String, Value>,
    ) -> Result<String, String> {
        let failed = |e: minijinja::Error| {
            let line = e.line().map(|line| format!(":{line}")).unwrap_or_default();
            let why = e.detail().map_or_else(|| e.kind().to_string(), str::to_owned);
            format!("{}{line}: the chat template rejects the conversation: {why}", self.place)
        };
        let documents = Jinja::from(Serde(variables.get("documents")));
        let (messages, tools, variables) =
            (Jinja::from(Serde(messages)), Jinja::from(Serde(tools)), Jinja::from(Serde(variables)));
        let context = context! { messages, tools, add_generation_prompt, documents, ..variables };
        self.environment.get_template(NAME).and_then(|template| template.render(context)).map_err(failed)
    }
}

/// Replaces `{% generation %}` and `{% endgeneration %}` by markers. Returns the template, and whether it had any.
///
/// Each tag becomes two blocks with the marker between them, so that whitespace control on both sides still applies.
fn mark_answers(source: &str) -> (String, bool) {
    replace_marks(source, |opens, left, right| {
        if opens {
            format!("{{%{left} if true %}}{{{{ '{OPEN}' }}}}{{% if true {right}%}}")
        } else {
            format!("{{%{left} endif %}}{{{{ '{CLOSE}' }}}}{{% endif {right}%}}")
        }
    })
}

/// Replaces the two tags by what `tag` returns for each: whether it is the first, and the whitespace control on both
/// sides. Returns the template, and whether it had any.
fn replace_marks(source: &str, tag: impl Fn(bool, &str, &str) -> String) -> (String, bool) {
    let (mut out, mut rest, mut found) = (String::new(), source, false);
    while let Some((before, block)) = rest.split_once("{%") {
        let Some((inside, after)) = block.split_once("%}") else { break };
        out.push_str(before);
        let left = &inside[..inside.len() - inside.trim_start_matches(['-', '+']).len()];
        let right = &inside[inside.trim_end_matches(['-', '+']).len()..];
        match inside.trim_matches(|c: char| c == '-' || c == '+' || c.is_whitespace()) {
            "generation" => {
                found = true;
                out += &tag(true, left, right);
            }
            "endgeneration" => out += &tag(false, left, right),
            _ => out += &format!("{{%{inside}%}}"),
        }
        rest = after;
    }
    out.push_str(rest);
    (out, found)
}

/// Removes the markers. Returns the text and the byte ranges that were between them.
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

/// Whether a text contains marker characters.
pub fn has_marks(text: &str) -> bool {
    text.contains([OPEN, CLOSE])
}

#[cfg(test)]
mod tests;
