"""What jinja2 makes of small templates, one for each point of the language that chat templates use. Run by hand.

    python tests/reference/chat_semantics.py     # rewrites chat/semantics.json

The templates are written for this file. They are rendered in the environment of `transformers`, with VARIABLES besides
what every chat template gets. `src/text/chat_template/tests.rs` compares. The committed file: transformers 5.24.0,
jinja2 3.1.6, Python 3.11.
"""

import datetime
import json
from pathlib import Path

from transformers.utils import chat_template_utils as utils

OUT = Path(__file__).resolve().parent / "chat" / "semantics.json"
NOW = datetime.datetime(2024, 7, 6, 13, 4, 5)


class Now(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


utils.datetime = Now

MESSAGES = [
    {"role": "system", "content": " Be ß short.\n"},
    {"role": "user", "content": "Hi 👋 \"you\""},
    {"role": "assistant", "content": "a</think>b</think>c", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]},
    {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "image"}]},
]
VARIABLES = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "empty": "",
    "none_": None,
    "numbers": [3, 1, 2],
    "word": "añb-Ça va",
    "map": {"z": 1, "a": {"k": [True, None, "x'y"]}, "m": 2.5},
    "floats": [1.0, 0.1, 1e16, 1e15, 1e22, 1e-4, 1e-5, 1.5e-7, -0.0, 123456789.125, 5e-324, 1.7976931348623157e308],
    "tools_": [{"name": "f", "p": {"type": "object", "n": 1e22, "s": 1e-7, "i": 12345678901234567890}}],
}
SUITES = {
    "none and undefined": [
        "{{ none_ is iterable }} {{ none_ is none }} {{ none_ is defined }} {{ nothing is defined }} {{ nothing is none }}",
        "{{ nothing is iterable }}{{ nothing is sequence }}{{ nothing is mapping }}{{ nothing is string }}",
        "[{{ nothing }}][{{ none_ }}][{{ map.nothing }}][{{ map['nothing'] }}]",
        "{{ map.a.k is defined }} {{ map.a.q is defined }} {{ map.q is defined and map.q.r is defined }}",
        "{{ map.q.r is defined }}",
        "{{ map.q.r }}",
        "{{ nothing.x }}",
        "{{ none_.x is defined }}",
        "{{ none_['x'] is defined }}",
        "{{ nothing | default('d') }} {{ none_ | default('d') }} {{ none_ | default('d', true) }} {{ empty or 'e' }}",
        "{{ nothing + 'a' }}",
        "{{ 'a' ~ nothing ~ none_ ~ 1 ~ true }}",
        "{{ 'a' + none_ }}",
        "{{ 'a' + 1 }}",
        "{% for x in none_ %}{{ x }}{% endfor %}",
        "{% for x in nothing %}{{ x }}{% else %}none{% endfor %}",
        "{{ none_ | length }}",
        "{{ nothing | length }}{{ empty | length }}",
        "{% if not none_ and not nothing and not empty and not [] and not {} and not 0 %}falsy{% endif %}",
        "{{ (none_ or 'x') ~ (0 or 'y') }} {{ 'a' if nothing }}|{{ 'a' and 'b' }}|{{ none_ and 1 }}",
        "{{ messages[9] is defined }}{{ messages[9].role is defined }}",
        "{{ messages[-1].role }} {{ messages[0]['content'] | trim }} {{ messages[1].get('name', 'n') }} {{ messages[1].get('x') }}",
        "{{ tools is none }} {{ documents is none }} {{ tools is defined }}",
        "{{ 'x' in map }} {{ 'z' in map }} {{ 'k' in map.a }} {{ none_ in [none_] }} {{ 1 in [true] }}",
        "{{ map.q == none_ }} {{ nothing == nothing2 }} {{ nothing == none_ }} {{ nothing != '' }}",
    ],
    "loops": [
        "{% for m in messages %}{{ loop.index }}/{{ loop.length }} {{ loop.index0 }} {{ loop.revindex }} {{ loop.revindex0 }} {{ loop.first }} {{ loop.last }}\n{% endfor %}",
        "{% for m in messages %}{{ loop.previtem.role if loop.previtem is defined else '-' }}>{{ m.role }}>{{ loop.nextitem.role if not loop.last else '-' }} {% endfor %}",
        "{% for m in messages %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }} {% endfor %}",
        "{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ m.role }}{% endfor %}",
        "{% for m in messages[::-1] %}{{ m.role[0] }}{% endfor %} {% for m in messages[1:-1] %}{{ m.role }} {% endfor %}",
        "{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
        "{% for x in numbers %}{{ loop.cycle('a', 'b') }}{% endfor %} {% for x in numbers %}{{ loop.changed(x > 1) }} {% endfor %}",
        "{% for k in map %}{{ k }}{% endfor %} {% for k, v in map.items() %}{{ k }}={{ v }};{% endfor %}",
        "{% for k, v in map | items %}{{ k }}{% endfor %} {% for k, v in map | dictsort %}{{ k }}{% endfor %} {{ map.keys() | list }} {{ map.values() | list }}",
        "{% for c in 'aß👋' %}{{ c }},{% endfor %}{{ 'aß👋' | length }} {{ 'aß👋'[1] }} {{ 'aß👋'[-1] }} {{ 'aß👋'[::-1] }}",
        "{% for i in range(2) %}{% for j in range(2) %}{{ loop.depth }}{{ i }}{{ j }} {% endfor %}{% endfor %}",
        "{% set x = 1 %}{% for i in [2, 3] %}{% set x = i %}{% endfor %}{{ x }}",
        "{% set ns = namespace(x=1, y=[]) %}{% for i in [2, 3] %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }} {{ ns.z is defined }}",
        "{% set ns = namespace() %}{% set ns.a = 'b' %}{{ ns.a }}{{ ns['a'] }}",
        "{% set ns = namespace({'a': 1}) %}{{ ns.a }}",
        "{% for x in [] %}a{% else %}empty{% endfor %}",
        "{% for x, y in [(1, 2), [3, 4]] %}{{ x }}{{ y }}{% endfor %}",
        "{% for m in messages recursive %}{{ m.role }} {% endfor %}",
        "{% set m = messages | selectattr('role', 'equalto', 'user') | list %}{{ m | length }} {{ messages | map(attribute='role') | join(',') }}",
        "{{ messages | rejectattr('role', 'in', ['user', 'system']) | map(attribute='role') | list }} {{ messages | groupby('role') | length }}",
        "{{ messages | selectattr('tool_calls', 'defined') | list | length }}{{ messages | selectattr('tool_calls') | list | length }}",
        "{{ numbers | sort }} {{ numbers | first }} {{ numbers | last }} {{ numbers | max }} {{ numbers | sum }} {{ numbers | reverse | list }} {{ ['b', 'A'] | sort }}",
    ],
    "numbers": [
        "{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % -3 }} {{ 7 / 2 }} {{ 6 / 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 7.5 // 2 }} {{ 1 / 3 }}",
        "{% for x in floats %}{{ x }} {% endfor %}",
        "{{ floats }}",
        "{{ floats | tojson }}",
        "{{ 1e3 }} {{ 1.50 }} {{ 10000000000000000000000 }} {{ 0.1 + 0.2 }} {{ 3.0 * 2 }} {{ 1 + true }}",
        "{{ 'x' | int }}",
        "{{ '3' | int + 1 }} {{ '2.5' | float }} {{ 2.7 | int }} {{ 2.5 | round }} {{ 3.14159 | round(2) }} {{ -3 | abs }}",
        "{{ 3 | string + 'a' }} {{ 1.0 | string }} {{ true | string }} {{ none_ | string }} {{ [1, 'a'] | string }}",
        "{{ 1 == 1.0 }} {{ 1 < 2 < 3 }} {{ 'a' < 'b' }} {{ true == 1 }} {{ '1' == 1 }} {{ [1, 2] == [1, 2] }} {{ not true }}",
        "{{ 5 is odd }} {{ 4 is even }} {{ 6 is divisibleby 3 }} {{ 1 is number }} {{ true is number }} {{ 1.5 is float }} {{ 1 is integer }} {{ true is boolean }} {{ true is true }}",
        "{{ range(3) | list }} {{ range(5, 1, -2) | list }} {{ numbers[1:] }} {{ numbers[-2:][0] }} {{ (1, 2) }} {{ (1,) }} {{ () }}",
        "{{ 1_000 }} {{ 0x1f }} {{ 0b11 }} {{ 1 if true else 2 }}{{ -1 }} {{ - 2 + 3 }}",
        "{{ 'a' < 1 }}",
        "{{ 1 / 0 }}",
    ],
    "strings": [
        "{{ word.upper() }} {{ word.lower() }} {{ word.title() }} {{ word.capitalize() }} {{ word | upper }} {{ word | title }} {{ word | capitalize }}",
        "[{{ '  a b '.strip() }}][{{ '  a b '.lstrip() }}][{{ 'xxaxx'.rstrip('x') }}][{{ '\n a\u00a0'.strip() }}][{{ ' a ' | trim }}][{{ 'xax' | trim('x') }}]",
        "{{ 'a,b,,c'.split(',') }} {{ ' a  b '.split() }} {{ 'a b c'.split(' ', 1) }} {{ 'a\nb\r\nc'.splitlines() }} {{ messages[2].content.split('</think>')[-1] }}",
        "{{ 'abab'.replace('a', 'x') }} {{ 'abab'.replace('a', 'x', 1) }} {{ 'abab' | replace('b', '') }}",
        "{{ 'abc'.startswith('a') }} {{ 'abc'.endswith(('x', 'c')) }} {{ 'abc'.find('c') }} {{ 'abc'.find('z') }} {{ 'abc'.count('b') }} {{ 'abcb'.rfind('b') }}",
        "{{ ','.join(['a', 'b']) }} {{ ['a', 1] | join('-') }} {{ 'abc' | join('.') }} {{ '%s' | format('x') }} {{ '{} {x}'.format(1, x=2) }}",
        "{{ '%s is %d' % ('a', 3) }}",
        "{{ 'ab' * 2 }} {{ 'a' 'b' }} {{ 'a\\nb' }} {{ 'it\\'s' }} {{ \"tab\\t|\" }} {{ '\\u00e9' }} {{ '\\\\' }} {{ 'a' in 'cat' }} {{ 'A'.isupper() }} {{ '12'.isdigit() }}",
        "{{ word | length }} {{ word[1:3] }} {{ word[-2:] }} {{ word | first }} {{ word | reverse }} {{ word | list }}",
        "{{ 'a b' | wordcount }}",
        "{{ '<a>' | e }} {{ '<a>' | safe }} {{ 'a\nb' | indent(2) }}|{{ 'a\nb' | indent(2, true) }}",
        "{{ {'a': 'it\\'s', 'b': \"q\\\"\", 'c': 'é\\n\\\\'} }} {{ ['\u2028', '\u200b', '\x7f', '👋'] }}",
        "{{ 'a' ~ 1.0 ~ [none_] ~ {'k': false} }}",
        "{{ 'abc'.removeprefix('a') }}{{ 'abc'.removesuffix('c') }}",
        "{{ 'a-b'.partition('-') }}",
        "{{ 'a-b-c'.rpartition('-') }} {{ 'a'.partition('-') }} {{ 'a-b-c'.rsplit('-', 1) }} {{ ' a b  c '.rsplit() }}",
        "{{ 'a'.partition('') }}",
        "{{ 'abc'.index('c') }}",
    ],
    "whitespace": [
        "a\n{% if true %}\nb\n{% endif %}\nc\n",
        "a\n  {% if true %}  \n  b\n  {% endif %}\n\nc\n\n",
        "a {%- if true %} b {%- endif %} c",
        "a {{- ' x ' -}} b\n {{ 'y' }} \n",
        "a\n  {%+ if true +%}\nb\n{% endif %}",
        "a {# comment #} b\n{# line #}\nc\n  {#- trimmed -#}  d",
        "{% raw %}{{ a }} {% b %}{% endraw %}|{%- raw -%} c {%- endraw -%} d",
        "\r\na\r\n{% if true %}\r\nb{% endif %}\r\n",
        "{%- for m in messages -%}\n  {{- m.role -}}\n{%- endfor -%}\n",
        "\n\n{{ 'a' }}\n\n",
        "a\t{% if true %}\tb{% endif %}",
        "{% set x %}\n a \n{% endset %}[{{ x }}]",
        "{% set x = 'a' %}\n{% set y = 'b' -%}\n  {{ x }}{{ y }}",
        "{{ '{{' }} {{ '%}' }} { { } } {% if '}}' %}x{% endif %}",
    ],
    "macros and blocks": [
        "{% macro f(a, b='d', c=none) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ f('x') }} {{ f('x', c=1) }} {{ f(b=2, a=1) }}",
        "{% macro f(x) -%}\n  [{{ x }}]\n{%- endmacro %}{{ f(1) | upper }}{{ f('a') ~ f('b') }} {{ f('a') is string }}",
        "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}",
        "{% macro outer(m) %}{{ m.role }}{{ bos_token }}{% endmacro %}{% for m in messages %}{{ outer(m) }}{% endfor %}",
        "{% macro f() %}{{ caller('x') }}{% endmacro %}{% call(y) f() %}<{{ y }}>{% endcall %}",
        "{% macro f(a) %}{{ a is defined }}{% endmacro %}{{ f() }}",
        "{% with x = 1, y = 2 %}{{ x + y }}{% endwith %}{{ x is defined }}",
        "{% filter upper %}a{{ 'b' }}{% endfilter %}",
        "{% set a, b = 1, 2 %}{{ a }}{{ b }} {% set c = [1] + [2] %}{{ c }} {% set d = {'a': 1} %}{{ d.a }}",
        "{% if 1 %}{% set x = 'in' %}{% endif %}{{ x }}",
        "{% if false %}{% set x = 'in' %}{% endif %}[{{ x }}]",
        "{% set messages = messages[1:] %}{{ messages[0].role }}",
        "{%- if messages[0].role == 'x' %}a{% elif messages[1].role == 'user' %}b{% else %}c{% endif %}",
        "{% generation %}a{% endgeneration %} {%- generation -%} b {%- endgeneration -%} c",
        "{% set x = numbers.append(1) %}{{ numbers }}",
        "{{ map.update({'b': 1}) }}",
        "{{ dict(a=1, b=2) }} {{ dict(map, b=1) | length }}",
        "{{ map.pop('a') }}",
        "{% set c = joiner(', ') %}{% for x in numbers %}{{ c() }}{{ x }}{% endfor %}",
        "{% include 'x' %}",
        "{% block a %}x{% endblock %}",
    ],
    "tojson and functions": [
        "{{ map | tojson }} {{ 'ä<b>&\\'\"\\n' | tojson }} {{ none_ | tojson }} {{ [] | tojson }} {{ 1.0 | tojson }}",
        "{{ map | tojson(indent=2) }}",
        "{{ map | tojson(indent=0) }}",
        "{{ map | tojson(separators=(',', ':'), sort_keys=true) }} {{ 'ä👋' | tojson(ensure_ascii=true) }}",
        "{{ tools_ | tojson(indent=4) }} {{ tools_ | tojson }}",
        "{{ nothing | tojson }}",
        "{{ {1: 2, 'a': none, 'b': 1.5} | tojson }}",
        "{{ (1, 'a') | tojson }} {{ '\u2028\x7f\x01/' | tojson }}",
        "{{ messages[2].tool_calls[0].function.arguments | tojson }} {{ messages[2].tool_calls[0]['function'].name }}",
        "{{ raise_exception('no ' ~ messages[0].role) }}",
        "{% if messages[0].role != 'user' %}{{ raise_exception('Conversation roles must alternate') }}{% endif %}",
        "{{ strftime_now('%Y-%m-%d %d %B %b %A %a %H:%M:%S %y %I %p %j %-d %e %%') }}",
        "{{ strftime_now('%F %T %D %R %c %h %-m/%-I|%Z|%q') }}",
        "{{ (messages | first).role }} {{ messages | last | length }} {{ messages[3].content | selectattr('type', 'equalto', 'text') | map(attribute='text') | join }}",
        "{{ messages[3].content is string }} {{ messages[3].content is iterable }} {{ messages[3].content is sequence }} {{ messages[3].content is mapping }} {{ map is mapping }} {{ map is sequence }} {{ 'a' is sequence }}",
        "{{ undefined_function() }}",
        "{{ messages.role }}",
        "{{ 'a' | nofilter }}",
        "{{ numbers is notest }}",
        "{% if x %}",
        "{{ map.a['k'][2] }} {{ map['a'].k[0] }} {{ (map.a.k)[1] is none }} {{ map.a.k | length }}",
        "{{ numbers | unique | list }} {{ [3, 1] | min }} {{ numbers | batch(2) | list }} {{ numbers | map('string') | join(' ') }} {{ [1, none_] | select | list }}",
        "{{ {'a': 1} | items | list }} {{ {'b': 1, 'a': 2} | dictsort }} {{ 'x' if 'a' in {'a': 1} }} {{ {'a': 1}.get('b', {}).get('c') }}",
        "{{ loop }}",
    ],
}


def main():
    suites = {}
    for name, templates in SUITES.items():
        suites[name] = []
        for template in templates:
            variables = json.loads(json.dumps(VARIABLES))
            try:
                rendered, _ = utils.render_jinja_template(
                    [MESSAGES], chat_template=template, add_generation_prompt=False, **variables
                )
                case = {"template": template, "text": rendered[0]}
            except Exception as error:
                case = {"template": template, "error": type(error).__name__}
                if case["error"] == "TemplateError":
                    case["message"] = str(error)
            suites[name].append(case)
    out = {"messages": MESSAGES, "variables": VARIABLES, "now": NOW.strftime("%Y-%m-%d %H:%M:%S"), "suites": suites}
    OUT.write_text(json.dumps(out, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
