"""Makes docs/quickstart.svg: what the quick start prints on a terminal, beside its loss and its throughput.

usage: python3 docs/picture.py              from the project's root, after launch/quickstart.sh, which fetches the data
       python3 docs/picture.py --again      without a new run

It runs `mpirun -n 2 target/release/trainer train configs/quickstart.toml` on a terminal of 80 columns, keeps the last
screen in runs/quickstart/screen.txt, and draws the main part of it, and the lines of runs/quickstart/metrics.jsonl.
Standard library only.
"""

import json
import os
import pty
import re
import struct
import sys
from fcntl import ioctl
from html import escape
from termios import TIOCSWINSZ

COMMAND = ["mpirun", "-n", "2", "target/release/trainer", "train", "configs/quickstart.toml"]
MORE = ["output_dir=runs/quickstart", "overwrite_output_dir=true"]
SCREEN, METRICS, TARGET = "runs/quickstart/screen.txt", "runs/quickstart/metrics.jsonl", "docs/quickstart.svg"
COLUMNS = 80
FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
CHAR, LINE = 7.23, 15.5  # of a glyph at 12 px


def record():
    """The bytes that the run writes to its terminal."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(TERM="xterm", OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                          OMPI_MCA_rmaps_base_oversubscribe="1")
        os.execvp(COMMAND[0], COMMAND + MORE)
    ioctl(terminal, TIOCSWINSZ, struct.pack("HHHH", 100, COLUMNS, 0, 0))
    written = b""
    try:
        while chunk := os.read(terminal, 65536):
            written += chunk
    except OSError:  # the terminal is closed
        pass
    _, status = os.waitpid(child, 0)
    if status != 0:
        sys.exit(f"the run failed: {written.decode(errors='replace')[-2000:]}")
    return written.decode()


def screen(written):
    """The lines that stand on the terminal in the end; colours are dropped."""
    lines, row, column = [""], 0, 0
    for sign in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|.|\n|\r", written):
        if sign == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif sign == "\r":
            column = 0
        elif sign.startswith("\x1b"):
            count = int(re.sub(r"\D", "", sign) or 1)
            if sign[-1] == "A":
                row = max(row - count, 0)
            elif sign[-1] == "B":
                row += count
                lines += [""] * (row + 1 - len(lines))
            elif sign[-1] == "K":
                lines[row] = "" if sign == "\x1b[2K" else lines[row][:column]
        else:
            if column == COLUMNS:
                row, column = row + 1, 0
                lines += [""] * (row + 1 - len(lines))
            lines[row] = lines[row].ljust(column)[:column] + sign + lines[row][column + 1:]
            column += 1
    return [line.rstrip() for line in lines]


def text(x, y, content, colour="#c9d1d9", size=12, anchor="start", font=FONT):
    return (f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" font-size="{size}" text-anchor="{anchor}" '
            f'font-family="{font}" xml:space="preserve">{escape(content)}</text>')


def terminal(lines, width, height):
    out = [f'<rect width="{width}" height="{height}" rx="8" fill="#0d1117"/>']
    out += [f'<circle cx="{18 + 18 * i}" cy="16" r="5" fill="{c}"/>' for i, c in enumerate(("#ff5f56", "#ffbd2e", "#27c93f"))]
    for i, line in enumerate(lines):
        colour = "#7ee787" if line.startswith("$") else "#8b949e" if set(line) & set("┌┐└┘╞╡│") else "#c9d1d9"
        for match in re.finditer(r"│|[^\s│]+(?: [^\s│]+)*", line):  # runs of text, each at its column, whatever the font's width
            piece = match.group()
            x, length = 14 + match.start() * CHAR, len(piece) * CHAR
            out.append(text(x, 44 + i * LINE, piece, colour).replace("<text ", f'<text textLength="{length:.1f}" ', 1))
    return out


def plot(x, y, width, height, title, points, colour):
    """A line over steps, with its least and greatest values."""
    (first, last), values = (points[0][0], points[-1][0]), [value for _, value in points]
    top = max(values) * 1.05
    place = lambda step, value: (x + 44 + (step - first) / (last - first) * (width - 56), y + height - 24 - value / top * (height - 54))
    out = [f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="#f6f8fa"/>', text(x + 14, y + 20, title, "#24292f", 12)]
    for part in range(5):
        value = top * part / 4
        _, level = place(first, value)
        label = f"{value:,.0f}" if top > 20 else f"{value:.1f}"
        out.append(f'<line x1="{x + 44}" x2="{x + width - 12}" y1="{level:.1f}" y2="{level:.1f}" stroke="#d0d7de"/>')
        out.append(text(x + 38, level + 4, label, "#57606a", 10, "end"))
    for step in (first, last):
        out.append(text(place(step, 0)[0], y + height - 8, f"step {step}", "#57606a", 10, "start" if step == first else "end"))
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in (place(*point) for point in points))
    out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
    return out


def shortened(lines):
    """Without the second half of the header and without the table of memory."""
    out, skipping = [], False
    for i, line in enumerate(lines):
        title = lines[i + 1] if line.startswith("┌") and i + 1 < len(lines) else line
        if line.startswith(("batch ", "ranks ")) or title.startswith("│ memory"):
            skipping = not line.startswith("ranks ")
            out += ["..."] if line.startswith("batch ") else []
        elif line.startswith(("step ", "┌")):
            skipping = False
        elif line.startswith(("output ", "disk ", "warning ")):
            skipping = True
        if not skipping:
            out.append(line)
    return out


def main(again):
    if not again:
        shown = screen(record())
        with open(SCREEN, "w", encoding="utf-8") as file:
            file.write("\n".join(shown).strip("\n") + "\n")
    with open(SCREEN, encoding="utf-8") as file:
        shown = ["$ " + " ".join(COMMAND), *shortened(file.read().splitlines())]
    with open(METRICS, encoding="utf-8") as lines:
        metrics = [json.loads(line) for line in lines]
    steps = [line for line in metrics if "loss" in line]
    left = round(28 + COLUMNS * CHAR)
    height = round(50 + len(shown) * LINE)
    plots = [
        ("training loss", [(line["step"], line["loss"]) for line in steps], "#0969da"),
        ("tokens per second, 2 ranks", [(line["step"], line["tokens_per_second"]) for line in steps], "#1a7f37"),
    ]
    part = (height - 10 * (len(plots) - 1)) / len(plots)
    width = left + 10 + 320
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
           "<!-- Made by docs/picture.py from a run of configs/quickstart.toml. -->"]
    out += terminal(shown, left, height)
    for i, (title, points, colour) in enumerate(plots):
        out += plot(left + 10, round(i * (part + 10)), 320, round(part), title, points, colour)
    with open(TARGET, "w", encoding="utf-8") as file:
        file.write("\n".join([*out, "</svg>", ""]))
    print(f"{TARGET}: {len(shown)} lines, {len(steps)} logged steps")


if __name__ == "__main__":
    main("--again" in sys.argv)
