//! Compares rendered conversations with those of jinja2, as `transformers` configures it.

use super::*;
use crate::text::tokenizer::Tokenizer;

/// The time of the reference values: 2024-07-06 13:04:05.
const NOW: u64 = 1_720_271_045;

/// Templates that jinja2 refuses: to iterate over none, and to compare a text with a number.
const ONLY_HERE: &[&str] = &["{% for x in none_ %}{{ x }}{% endfor %}", "{{ 'a' < 1 }}"];
/// Templates that are refused here, with an error: rare in chat templates.
const ONLY_IN_JINJA2: &[&str] = &[
    "{{ '%s is %d' % ('a', 3) }}",
    "{{ 'x' | int }}",
    "{{ 'abc'.index('c') }}",
    "{{ 'a b' | wordcount }}",
    "{% block a %}x{% endblock %}",
];

fn reference(name: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference/chat").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn template(source: &str, name: &str) -> Result<Template, String> {
    let mut template = Template::new(source, name.to_owned()).map_err(|e| e.to_string())?;
    template.environment.add_function("strftime_now", |format: String| jinja::strftime(&format, NOW));
    Ok(template)
}

impl Template {
    fn text(&self, case: &Value, prompts: bool, special: &Value) -> Result<String, String> {
        let tools = case.get("tools").filter(|tools| !tools.is_null());
        let (messages, special) = (case["messages"].as_array().unwrap(), special.as_object().unwrap());
        Ok(take_marks(&self.write(messages, tools, prompts, special)?).0)
    }
}

/// Each construct of the language that chat templates use.
#[test]
fn small_templates_render_as_in_jinja2() {
    let reference = reference("semantics.json");
    let (mut wrong, mut count) = (Vec::new(), 0);
    for (suite, cases) in reference["suites"].as_object().unwrap() {
        for case in cases.as_array().unwrap() {
            let source = case["template"].as_str().unwrap();
            let rendered = template(source, suite);
            let rendered = rendered.and_then(|template| template.text(&reference, false, &reference["variables"]));
            let is_same = match (&rendered, case["text"].as_str()) {
                (Ok(text), Some(wanted)) => text == wanted,
                (Err(why), None) => why.contains(case["message"].as_str().unwrap_or_default()),
                (Ok(_), None) => ONLY_HERE.contains(&source),
                (Err(_), Some(_)) => ONLY_IN_JINJA2.contains(&source),
            };
            count += 1;
            if !is_same {
                wrong.push(format!("{suite}: {source:?}\n  {rendered:?}\n  not {case}"));
            }
        }
    }
    assert!(count > 120 && wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
}

/// Special tokens and templates in the files of a folder.
#[test]
fn folders_are_read_as_in_transformers() {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference/chat/tokenizer.json");
    let cases = reference("folders.json");
    for case in cases.as_array().unwrap() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(&file, dir.path().join("tokenizer.json")).unwrap();
        for (name, content) in case["files"].as_object().unwrap() {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content.as_str().map_or_else(|| content.to_string(), str::to_owned)).unwrap();
        }
        let tokenizer = Tokenizer::from_folder(dir.path()).unwrap();
        let template = ChatTemplate::of_folder(dir.path(), tokenizer.special_texts()).unwrap().unwrap();
        let kwargs = case["kwargs"].as_object().cloned().unwrap_or_default();
        let text = template.render(&[], case.get("tools"), &kwargs).unwrap().text;
        assert_eq!(text, case["text"].as_str().unwrap(), "{case}");
    }
    assert!(cases.as_array().unwrap().len() > 15);
}

#[test]
fn files_of_templates_belong_to_the_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("vocab.txt", "a\n");
    std::fs::create_dir(dir.path().join(ADDITIONAL)).unwrap();
    assert!(sources(dir.path()).unwrap().is_empty());
    let before = Tokenizer::fingerprint_of(dir.path()).unwrap();
    write("additional_chat_templates/tool_use.jinja", "x");
    write("additional_chat_templates/README.md", "no template");
    assert_ne!(Tokenizer::fingerprint_of(dir.path()).unwrap(), before);
    let message = sources(dir.path()).unwrap_err().to_string();
    assert!(message.contains("tool_use.jinja: the template \"default\" is missing"), "{message}");
    write("chat_template.jinja", "y");
    let found: Vec<_> = sources(dir.path()).unwrap().into_iter().map(|source| (source.name, source.text)).collect();
    assert_eq!(found, [("default", "y"), ("tool_use", "x")].map(|(name, text)| (name.to_owned(), text.to_owned())));
}

/// Returns the SHA-256 of bytes (FIPS 180-4), hexadecimal.
fn sha256(bytes: &[u8]) -> String {
    let primes: Vec<u32> = (2..312).filter(|n| (2..*n).take_while(|d| d * d <= *n).all(|d| n % d != 0)).collect();
    // The first 32 bits of the fractional parts of the roots of the first primes.
    let fraction = |root: f64| ((root - root.floor()) * 4_294_967_296.0) as u32;
    let constants: Vec<u32> = primes.iter().map(|prime| fraction(f64::from(*prime).cbrt())).collect();
    let mut hash: Vec<u32> = primes.iter().take(8).map(|prime| fraction(f64::from(*prime).sqrt())).collect();
    let mut padded = [bytes, &[0x80]].concat();
    padded.resize((padded.len() + 8).next_multiple_of(64) - 8, 0);
    padded.extend((8 * bytes.len() as u64).to_be_bytes());
    for block in padded.as_chunks::<64>().0 {
        let mut w: Vec<u32> = block.as_chunks::<4>().0.iter().map(|word| u32::from_be_bytes(*word)).collect();
        for i in 16..64 {
            let s0 = w[i - 15].rotate_right(7) ^ w[i - 15].rotate_right(18) ^ w[i - 15] >> 3;
            let s1 = w[i - 2].rotate_right(17) ^ w[i - 2].rotate_right(19) ^ w[i - 2] >> 10;
            w.push(w[i - 16].wrapping_add(s0).wrapping_add(w[i - 7]).wrapping_add(s1));
        }
        let mut v = hash.clone();
        for (word, constant) in w.iter().zip(&constants) {
            let s1 = v[4].rotate_right(6) ^ v[4].rotate_right(11) ^ v[4].rotate_right(25);
            let chosen = v[4] & v[5] ^ !v[4] & v[6];
            let first = [s1, chosen, *constant, *word].iter().fold(v[7], |sum, term| sum.wrapping_add(*term));
            let s0 = v[0].rotate_right(2) ^ v[0].rotate_right(13) ^ v[0].rotate_right(22);
            let second = s0.wrapping_add(v[0] & v[1] ^ v[0] & v[2] ^ v[1] & v[2]);
            v.rotate_right(1);
            v[4] = v[4].wrapping_add(first);
            v[0] = first.wrapping_add(second);
        }
        hash.iter_mut().zip(v).for_each(|(hash, new)| *hash = hash.wrapping_add(new));
    }
    hash.iter().map(|word| format!("{word:08x}")).collect()
}

/// With `TRAINER_CHAT_TEMPLATES`, the folder of `tests/reference/check_chat_templates.py`: the templates of public
/// repositories render what they do in `transformers`.
#[test]
fn public_templates_render_as_in_transformers() {
    assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(&sha256(&[b'a'; 1000])[..8], "41edece4");
    let reference = reference("public.json");
    let cases = reference["conversations"].as_array().unwrap();
    let sources = reference["sources"].as_object().unwrap();
    let templates = sources.iter().flat_map(|(repository, source)| {
        source["templates"]
            .as_object()
            .unwrap()
            .iter()
            .map(move |(path, entry)| (format!("{repository}/{path}"), entry))
    });
    let templates: Vec<(String, &Value)> = templates.collect();
    assert!(templates.len() > 90 && cases.len() > 10);
    let Some(folder) = std::env::var_os("TRAINER_CHAT_TEMPLATES").map(PathBuf::from) else {
        println!("SKIPPED: TRAINER_CHAT_TEMPLATES is not set; tests/reference/check_chat_templates.py says to what");
        return;
    };
    let (mut wrong, mut count) = (Vec::new(), 0);
    for (path, entry) in templates {
        let Ok(source) = std::fs::read_to_string(folder.join(&path)) else {
            wrong.push(format!("{path}: no such file"));
            continue;
        };
        if sha256(source.as_bytes()) != entry["sha256"].as_str().unwrap() {
            wrong.push(format!("{path}: another version of the file"));
            continue;
        }
        let template = template(&source, &path);
        for (row, prompts) in entry["values"].as_array().unwrap().iter().zip([false, true]) {
            for ((wanted, case), i) in row.as_str().unwrap().split(' ').zip(cases).zip(0..) {
                let rendered = template.as_ref().map_err(Clone::clone);
                let rendered = rendered.and_then(|template| template.text(case, prompts, &reference["special"]));
                let found = rendered.as_ref().map_or_else(|why| format!("!{why}"), |text| sha256(text.as_bytes()));
                count += 1;
                // Python's exceptions have other names.
                if !(found.starts_with(wanted) || found.starts_with('!') && wanted.starts_with('!')) {
                    let found = rendered.unwrap_or(found);
                    wrong.push(format!("{path}, conversation {i}, {prompts}: {wanted}, but here {found}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
    println!("{count} conversations are the same");
}
