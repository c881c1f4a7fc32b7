"""Chat templates of public repositories: what `transformers` renders, for comparison with this program. Run by hand.

    python tests/reference/check_chat_templates.py FOLDER           # are the values those of chat/public.json?
    python tests/reference/check_chat_templates.py FOLDER --write   # rewrites chat/public.json
    TRAINER_CHAT_TEMPLATES=FOLDER cargo test --release --lib chat_template::tests   # are this program's?

The templates themselves are not in this repository, because their licenses differ: FOLDER/OWNER/NAME is a clone of
github.com/OWNER/NAME, at the commit in SOURCES (files of another content are reported, by their SHA-256).

    for repo in huggingface/trl axolotl-ai-cloud/axolotl chujiezheng/chat_templates; do
        git clone https://github.com/$repo FOLDER/$repo && git -C FOLDER/$repo checkout COMMIT
    done

`chat/public.json` has the conversations, as templates get them: without null keys, reasoning under both names. For each
template it has the SHA-256 of the file, and for each conversation, without and with the generation prompt, the first 16
hexadecimal digits of the SHA-256 of the rendered text, or the class of Python's exception after an exclamation mark. The
committed file: transformers 5.24.0, jinja2 3.1.6. The time is that of NOW.
"""

import datetime
import hashlib
import json
import sys
from pathlib import Path

from transformers.utils import chat_template_utils as utils

PUBLIC = Path(__file__).resolve().parent / "chat" / "public.json"
SOURCES = {
    "huggingface/trl": ("f2cd57710ae345ea6428ae95363267fcf38a3dc8", "trl/chat_templates/*.jinja"),
    "axolotl-ai-cloud/axolotl": (
        "067b021c8b87a9e5e380b9173c704cf7340e30f5",
        "src/axolotl/utils/chat_templates/templates/*.jinja",
    ),
    "chujiezheng/chat_templates": ("11c495621569969f264ee70b5c8bb49ba7a1a410", "chat_templates/*.jinja"),
}
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
NOW = datetime.datetime(2024, 7, 6, 13, 4, 5)
DIGITS = 16


class Now(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


utils.datetime = Now


def turns(*pairs):
    return [{"role": role, "content": content} for role, content in pairs]


def calls(*functions):
    return [
        {"id": f"call0000{i}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for i, (name, arguments) in enumerate(functions)
    ]


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Says where it's <cold> & wet, in \"°C\"",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "The city"},
                "days": {"type": ["integer", "null"], "enum": [1, 3, 7], "default": None},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                "limits": {"type": "array", "items": {"type": "number", "minimum": -0.5, "exclusiveMaximum": 1e22}},
            },
            "required": ["city"],
            "additionalProperties": False,
        },
        "return": {"type": "object", "properties": {}},
    },
}
TIME = {"type": "function", "function": {"name": "time", "description": "", "parameters": {"type": "object", "properties": {}}}}
ARGUMENTS = {"city": "Zürich", "days": 3, "limits": [1, 2.5, 1e-7, True, None], "more": {"b": "x'y", "a": []}}
PARTS = [{"type": "text", "text": " One, "}, {"type": "text", "text": "two. "}]
CONVERSATIONS = [
    {"messages": turns(("user", "What is 2 + 2?"), ("assistant", "It is 4."))},
    {"messages": turns(("user", " Hi\n"))},
    {
        "messages": turns(
            ("system", " Be short.\n"),
            ("user", "Hi 👋"),
            ("assistant", " Hello!\n"),
            ("user", "ひらがな\n\n<b>&'\""),
            ("assistant", "Bye"),
            ("user", "x"),
        )
    },
    {"messages": turns(("developer", "Answer in German."), ("user", "Hi"), ("assistant", "Hallo"))},
    {"messages": turns(("assistant", "Hi"), ("user", "a"), ("user", "b"), ("assistant", "c"), ("assistant", "d"))},
    {"messages": []},
    {"messages": turns(("system", "Use tools."), ("user", "Cold?")), "tools": [WEATHER, TIME]},
    {
        "messages": turns(("user", "Cold?"))
        + [{"role": "assistant", "content": "I look.", "tool_calls": calls(("weather", ARGUMENTS), ("time", {}))}]
        + [
            {"role": "tool", "content": '{"degrees": -3.5}', "name": "weather", "tool_call_id": "call00000"},
            {"role": "tool", "content": "12:00", "name": "time", "tool_call_id": "call00001"},
        ]
        + turns(("assistant", "Yes."), ("user", "Thanks")),
        "tools": [WEATHER, TIME],
    },
    {
        "messages": turns(("user", "Cold?"))
        + [{"role": "assistant", "content": None, "tool_calls": calls(("weather", json.dumps(ARGUMENTS)))}]
        + [{"role": "tool", "content": "rain", "name": "weather", "tool_call_id": "call00000"}],
        "tools": [WEATHER],
    },
    {
        "messages": turns(("user", "Cold?"))
        + [{"role": "assistant", "content": "", "tool_calls": calls(("weather", ARGUMENTS))}]
    },
    {
        "messages": [
            {"role": "system", "content": PARTS},
            {"role": "user", "content": PARTS},
            {"role": "assistant", "content": [{"type": "text", "text": "three"}]},
        ]
    },
    {"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]},
    {
        "messages": turns(("user", "2 + 2?"))
        + [{"role": "assistant", "reasoning_content": "It is\neasy.", "content": "4"}]
        + turns(("user", "3 + 3?"), ("assistant", "<think>\nEasy\n</think>\n\n6"), ("user", "4 + 4?"))
        + [{"role": "assistant", "reasoning": "Hm.", "content": "8", "name": None}]
    },
]


def as_given(case):
    """A conversation as `apply_chat_template` gives it to templates."""
    messages = utils._alias_reasoning_fields(utils._normalize_chat_messages(case["messages"]))
    return {"messages": messages, "tools": case.get("tools")}


def value(template, case, prompt):
    """The digits of what a template renders, or the class of the exception."""
    try:
        rendered, _ = utils.render_jinja_template(
            [case["messages"]], tools=case["tools"], chat_template=template, add_generation_prompt=prompt, **SPECIAL
        )
    except Exception as error:
        return f"!{type(error).__name__}"
    return hashlib.sha256(rendered[0].encode()).hexdigest()[:DIGITS]


def entry(path, cases):
    content = path.read_bytes()
    values = [[value(content.decode(), case, prompt) for case in cases] for prompt in (False, True)]
    return {"sha256": hashlib.sha256(content).hexdigest(), "values": [" ".join(row) for row in values]}


def main():
    folder, write = Path(sys.argv[1]), "--write" in sys.argv[2:]
    cases = [as_given(case) for case in CONVERSATIONS]
    if write:
        sources = {}
        for repository, (commit, pattern) in SOURCES.items():
            base = folder / repository
            found = sorted(path.relative_to(base).as_posix() for path in base.glob(pattern))
            sources[repository] = {"commit": commit, "templates": {path: entry(base / path, cases) for path in found}}
        out = {"special": SPECIAL, "now": NOW.strftime("%Y-%m-%d %H:%M:%S"), "conversations": cases, "sources": sources}
        PUBLIC.write_text(json.dumps(out, ensure_ascii=False, indent=1) + "\n")
        print(sum(len(source["templates"]) for source in sources.values()), "templates")
        return
    public = json.loads(PUBLIC.read_text())
    wrong = [] if public["conversations"] == json.loads(json.dumps(cases)) else ["the conversations differ"]
    count = 0
    for repository, source in public["sources"].items():
        for path, expected in source["templates"].items():
            file = folder / repository / path
            if not file.exists():
                wrong.append(f"{repository}/{path}: missing")
                continue
            found = entry(file, cases)
            count += found == expected
            wrong += [f"{repository}/{path}: {key} differs" for key in found if found[key] != expected[key]]
    print(*wrong, f"{count} templates render as in {PUBLIC.name}", sep="\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
