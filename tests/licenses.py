"""Checks the licenses and sources of all dependencies against deny.toml, as `cargo deny check licenses sources` does.

Standard library only; minutes less than building cargo-deny. Usage: python3 tests/licenses.py, in the project's root.
"""

import json
import re
import subprocess
import sys
import tomllib


def allowed(expression, names):
    """Evaluates an SPDX expression; `A/B` is the old form of `A OR B`."""
    words = re.findall(r"[()]|[^\s()]+", expression.replace("/", " OR "))
    logic = {"AND": "and", "OR": "or", "(": "(", ")": ")"}
    text, skip = [], False
    for word in words:
        if word == "WITH" or skip:  # an exception only permits more
            skip = word == "WITH"
        else:
            text.append(logic.get(word) or str(word in names))
    return eval(" ".join(text), {"__builtins__": {}})  # only True, False, and, or and parentheses


def main():
    with open("deny.toml", "rb") as file:
        names = set(tomllib.load(file)["licenses"]["allow"])
    command = ["cargo", "metadata", "--locked", "--format-version", "1"]
    packages = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["packages"]
    others = [package for package in packages if package["source"]]
    wrong = [f"{p['name']} {p['version']}: the license is {p['license']}" for p in others
             if not (p["license"] and allowed(p["license"], names))]
    sources = {package["source"] for package in others}
    if len(sources) > 1 or not all(source.startswith("registry+") for source in sources):
        wrong.append(f"dependencies come from {sorted(sources)}: one registry is expected")
    for package in packages:
        if not package["source"]:
            wrong += [f"{package['name']} depends on any version of {d['name']}" for d in package["dependencies"]
                      if d["req"] == "*" and not d.get("path")]
    if len(others) < 100 or wrong:
        sys.exit("\n".join(wrong) or f"only {len(others)} dependencies found")
    print(f"licenses: {len(others)} dependencies are as deny.toml allows")


if __name__ == "__main__":
    main()
