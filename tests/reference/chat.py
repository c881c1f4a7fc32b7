"""Makes what the tests of chat templates compare with. Run by hand, never by a test.

    pip install transformers==5.23.0
    python tests/reference/chat.py            # rewrites templates.json, tokenizer.json and folders.json in chat/
    python tests/reference/chat.py folders    # rewrites chat/folders.json only; committed: transformers 5.24.0

Templates in the manner of four families, each as it is and with {% generation %} around the answers, and what
`apply_chat_template` makes of some conversations: the text, the tokens, which of them are the assistant's, and the prompt.
`folders.json` has folders with their settings and templates in several files, and the text that they give.
"""

import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

HERE = Path(__file__).resolve().parent / "chat"

LLAMA = """{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Today Date: " + (date_string if date_string is defined else "26 Jul 2024") + "\\n\\n" }}
{%- if tools is not none %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
        {%- generation %}
        {{- message['content'] | trim + '<|eot_id|>' }}
        {%- endgeneration %}
    {%- else %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

QWEN = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- "# Tools\\n\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(last=messages|length - 1, seen=false) %}
{%- for message in messages[::-1] %}
    {%- if not ns.seen and message.role == "user" and message.content is string %}
        {%- set ns.seen = true %}
        {%- set ns.last = (messages|length - 1) - loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set content = message.content %}
        {%- if '</think>' in content and loop.index0 > ns.last %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>' + message.role + '\\n' }}
        {%- generation %}
            {{- content }}
            {%- if message.tool_calls %}
                {%- for call in message.tool_calls %}
                    {{- '\\n<tool_call>\\n{"name": "' + call.name + '", "arguments": ' + (call.arguments | tojson) + '}\\n</tool_call>' }}
                {%- endfor %}
            {%- endif %}
            {{- '<|im_end|>' }}
        {%- endgeneration %}
        {{- '\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""

MISTRAL = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\\n\\n' %}{% set loop_messages = messages[1:] %}{% else %}{% set first = '' %}{% set loop_messages = messages %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + (first if loop.first else '') + message['content'].strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{% generation %}{{ ' ' + message['content'].strip() + eos_token }}{% endgeneration %}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"""

ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>
' }}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}

{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
"""

TEMPLATES = {
    "llama": (LLAMA, {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}),
    "qwen": (QWEN, {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}),
    "mistral": (MISTRAL, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}),
    "zephyr": (ZEPHYR, {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}),
}
SPECIAL = [
    "<unk>", "<s>", "</s>", "<|begin_of_text|>", "<|endoftext|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "<|im_start|>", "<|im_end|>",
]
TOOL = {"type": "function", "function": {"name": "weather", "description": "Where it's <cold> & wet", "parameters": {}}}


def said(*turns):
    return [{"role": role, "content": content} for role, content in turns]


ONE = said(("user", "What is 2 + 2?"), ("assistant", "It is 4."))
CONVERSATIONS = [
    {"messages": ONE},
    {"messages": said(("system", " Be short.\n"), ("user", "Hi"), ("assistant", " Hello!\n"), ("user", "Bye"), ("assistant", "Bye 👋 日本"))},
    {"messages": ONE + said(("user", "def f():\n    return"), ("assistant", "    return 4\n\n\n"), ("user", "thanks"))},
]
QWEN_ONLY = [
    {"messages": said(("user", "Cold?"), ("assistant", "")) , "tools": [TOOL]},
    {"messages": said(("system", "s"), ("user", "Cold?"), ("assistant", "Yes.")), "tools": [TOOL]},
]
QWEN_ONLY[0]["messages"][1]["tool_calls"] = [{"name": "weather", "arguments": {"city": "Zürich", "days": [1, 2.5, True]}}]
QWEN_ONLY[0]["messages"] += said(("tool", "3 °C"), ("tool", "rain"), ("assistant", "Yes, 3 °C."))


def tokenizer():
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    texts = [message["content"] for case in CONVERSATIONS for message in case["messages"]]
    tok.train_from_iterator(texts + [json.dumps(TOOL), LLAMA, QWEN] * 3, trainer)
    return tok


def main():
    HERE.mkdir(exist_ok=True)
    tok = tokenizer()
    tok.save(str(HERE / "tokenizer.json"), pretty=False)
    out = {}
    for name, (tagged, special) in TEMPLATES.items():
        plain = re.sub(r"\{%(-?)\s*generation\s*(-?)%\}", r"{%\1 if true \2%}", tagged)
        plain = re.sub(r"\{%(-?)\s*endgeneration\s*(-?)%\}", r"{%\1 endif \2%}", plain)
        fast = PreTrainedTokenizerFast(tokenizer_object=tok, **special)
        cases = []
        for case in CONVERSATIONS + (QWEN_ONLY if name == "qwen" else []):
            messages, tools = case["messages"], case.get("tools")
            if name == "mistral" and messages[-1]["role"] != "assistant" and len(messages) % 2 == 0:
                continue
            text = fast.apply_chat_template(messages, tools=tools, chat_template=plain, tokenize=False)
            encoded = fast.apply_chat_template(
                messages, tools=tools, chat_template=tagged, return_dict=True, return_assistant_tokens_mask=True
            )
            assert text == fast.apply_chat_template(messages, tools=tools, chat_template=tagged, tokenize=False)
            assert encoded["input_ids"] == fast.apply_chat_template(messages, tools=tools, chat_template=plain)["input_ids"]
            prompt = fast.apply_chat_template(
                messages[:-1], tools=tools, chat_template=plain, tokenize=False, add_generation_prompt=True
            )
            cases.append(
                {
                    "messages": messages,
                    "tools": tools,
                    "text": text,
                    "ids": encoded["input_ids"],
                    "answers": encoded["assistant_masks"],
                    "prompt": prompt,
                }
            )
        out[name] = {"special": special, "plain": plain, "tagged": tagged, "cases": cases}
    (HERE / "templates.json").write_text(json.dumps(out, ensure_ascii=False, indent=1) + "\n")


NAMES = ["bos", "eos", "unk", "sep", "pad", "cls", "mask", "think", "image"]
SHOW = " ".join(f"{name}={{{{ {name}_token }}}}" for name in NAMES)
DECODER = {str(i): {"content": token, "special": True} for i, token in enumerate(SPECIAL)}
ADDED = {"content": "<s>", "__type": "AddedToken"}
IDS = {"bos_token_id": 1, "eos_token_id": [2, 7], "pad_token_id": 0}
MAP = {"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": False}, "think_token": "<|im_end|>"}
USE = {"additional_chat_templates/tool_use.jinja": "tools: {{ tools | length }}"}
RAG = {"additional_chat_templates/rag.jinja": "x"}
LIST = [{"name": "default", "template": "from the list"}, {"name": "tool_use", "template": "tools of the list"}]


def config(model_type, **settings):
    """The files of a folder with these settings of the tokenizer, whose template shows the special tokens."""
    return {
        "config.json": {"model_type": model_type, **IDS},
        "tokenizer_config.json": {"chat_template": SHOW, **settings},
    }


FOLDERS = [
    # Special tokens.
    (config("llama"), {}),
    (config("llama", bos_token=None, eos_token="</s>"), {}),
    (config("qwen2"), {}),
    (config("qwen3", eos_token="<|im_end|>", bos_token=None), {}),
    (config("llama", tokenizer_class="PreTrainedTokenizerFast", bos_token=ADDED), {}),
    (config("llama", extra_special_tokens={"think_token": "<|im_end|>", "image_token": "<image>"}), {}),
    (config("llama", extra_special_tokens=["<|im_end|>", "<new>"]), {}),
    (config("llama", think_token="<|im_end|>", image_token=None), {}),
    (config("llama", eos_token="</s>") | {"special_tokens_map.json": MAP}, {}),
    (config("llama", added_tokens_decoder=DECODER) | {"special_tokens_map.json": MAP}, {}),
    (config("llama", bos_token="<s>"), {"kwargs": {"bos_token": "x", "think_token": None, "image_token": [1]}}),
    # Templates.
    (config("llama", chat_template=LIST), {}),
    (config("llama", chat_template=LIST), {"tools": [TOOL]}),
    (config("llama", chat_template=LIST) | {"chat_template.jinja": "a file"}, {"tools": [TOOL]}),
    (config("llama") | {"chat_template.jinja": "a file"} | USE, {}),
    (config("llama") | {"chat_template.jinja": "a file"} | USE, {"tools": [TOOL]}),
    (config("llama") | {"chat_template.jinja": "a file"} | USE, {"tools": []}),
    (config("llama") | {"chat_template.jinja": "a file"} | RAG, {"tools": [TOOL]}),
]


def folders():
    """What folders make of a conversation."""
    out = []
    for files, given in FOLDERS:
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(HERE / "tokenizer.json", folder)
            for name, content in files.items():
                path = Path(folder, name)
                path.parent.mkdir(exist_ok=True)
                path.write_text(content if isinstance(content, str) else json.dumps(content))
            tok = AutoTokenizer.from_pretrained(folder)
            text = tok.apply_chat_template(ONE, tools=given.get("tools"), tokenize=False, **given.get("kwargs", {}))
        out.append({"files": files, **given, "text": text})
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in out)
    (HERE / "folders.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    if sys.argv[1:] != ["folders"]:
        main()
    folders()
