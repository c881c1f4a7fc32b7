"""Makes the Parquet and Arrow files that `src/text/columnar.rs` reads. Run by hand, never by a test.

    python tests/reference/columnar.py    # rewrites columnar/; committed: pyarrow 26.0

The same rows in several formats, encodings and compressions, and as JSON, as pyarrow gives them (`to_pylist`, which is
what `datasets` returns for a row), with dates as text.
"""

import datetime
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq

FOLDER = Path(__file__).parent / "columnar"

MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("large", pa.large_string()),
        ("label", pa.int64()),
        ("small", pa.int8()),
        ("score", pa.float64()),
        ("half", pa.float32()),
        ("flag", pa.bool_()),
        ("class", pa.dictionary(pa.int32(), pa.string())),
        ("messages", pa.list_(MESSAGE)),
        ("words", pa.large_list(pa.string())),
        ("pair", pa.list_(pa.int32(), 2)),
        ("answers", pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int32()))])),
        ("bytes", pa.binary()),
        ("day", pa.date32()),
        ("time", pa.timestamp("us")),
    ]
)


def row(i):
    """Row `i`; every fifth column of it is missing, another one in each row."""
    values = {
        "text": f"Zeile {i}: äß \U0001f600 \"quoted\"\n",
        "large": "x" * (i % 7),
        "label": i - 3,
        "small": i % 100,
        "score": i / 7,
        "half": i / 4,
        "flag": i % 2 == 0,
        "class": ["pos", "neg", "other"][i % 3],
        "messages": [
            {"role": role, "content": None if i % 4 == 0 and role == "user" else f"{role} {i}"}
            for role in ["user", "assistant"][: i % 3]
        ],
        "words": [f"w{j}" for j in range(i % 4)] + ([None] if i % 6 == 5 else []),
        "pair": [i, i + 1],
        "answers": {"text": [f"a{i}"] * (i % 2), "answer_start": [i] * (i % 2)},
        "bytes": f"b{i}".encode(),
        "day": datetime.date(2020, 1, 1) + datetime.timedelta(days=i),
        "time": datetime.datetime(2021, 2, 3, 4, 5, 6) + datetime.timedelta(hours=i),
    }
    names = list(values)
    return {name: None if (names.index(name) + i) % 5 == 4 else value for name, value in values.items()}


def text(value):
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, (datetime.date, datetime.datetime)):
        return str(value)
    raise TypeError(type(value))


def main():
    FOLDER.mkdir(exist_ok=True)
    table = pa.Table.from_pylist([row(i) for i in range(40)], schema=SCHEMA)
    pq.write_table(table, FOLDER / "plain.parquet", use_dictionary=False, compression="snappy", row_group_size=16)
    pq.write_table(table, FOLDER / "zstd-dictionary.parquet", compression="zstd", data_page_version="2.0")
    with pa.OSFile(str(FOLDER / "file.arrow"), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        writer.write_table(table, max_chunksize=16)
    with pa.OSFile(str(FOLDER / "stream.arrow"), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
        writer.write_table(table, max_chunksize=16)
    feather.write_feather(table, FOLDER / "lz4.feather", compression="lz4")
    rows = json.dumps(table.to_pylist(), ensure_ascii=False, default=text, separators=(",", ":"))
    (FOLDER / "rows.json").write_text(rows + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
