"""Makes the Parquet and Arrow files that `src/text/columnar/tests.rs` reads. Run by hand, never by a test.

    python tests/reference/columnar.py    # rewrites columnar/; committed: pyarrow 26.0, datasets 4.8.5

The same rows in several formats, encodings and compressions, and as JSON, as pyarrow gives them (`to_pylist`, which is
what `datasets` returns for a row), with dates as text. Rows with classes as `datasets` writes them, with the names that
it gives them. Rows with fields of several types, which `datasets` writes as JSON texts (`Json`). And columns of rarer
types.
"""

import datetime
import decimal
import json
import shutil
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather as feather
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, Features, Json, LargeList, List, Value

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
    if isinstance(value, (datetime.date, datetime.datetime, datetime.time, decimal.Decimal)):
        return str(value)
    raise TypeError(type(value))


# Names in another order than the alphabet's; no row has the last one.
LABEL = ClassLabel(names=["terrible", "ok", "great", "unused"])
TAG = ClassLabel(names=["O", "B-x", "I-x"])
FEATURES = Features(
    {
        "text": Value("string"),
        "label": LABEL,
        "words": List(Value("string")),
        "tags": List(TAG),
        "choices": List(Value("string")),
        "large": LargeList(LABEL),
        "pair": List(TAG, length=2),
        "nested": List(List(TAG)),
        "struct": {"label": LABEL},
    }
)
ROWS = [
    # text, label, words, tags, large, pair, nested; -1 is no label
    ("a b", 2, ["a", "b"], [1, 2], [3], [0, 1], [[0], [1, 2]]),
    ("c", 0, ["c"], [0], [], [2, 0], []),
    ("d e f", 1, ["d", "e", "f"], [0, 1, 0], [0, -1], [1, 1], [[]]),
    ("g", -1, ["g"], [-1], [1], [0, -1], [[-1]]),
    ("h", None, ["h"], None, [2], [0, 0], None),
]


def named(number, label):
    if isinstance(number, list):
        return [named(element, label) for element in number]
    return None if number is None or number == -1 else label.int2str(number)


def classes():
    """Writes the rows with classes as `to_parquet` (and `push_to_hub`) and `save_to_disk` do, and with names."""
    columns = ["text", "label", "words", "tags", "large", "pair", "nested"]
    rows = [dict(zip(columns, row)) | {"choices": ["x", "y", "z"], "struct": {"label": 1}} for row in ROWS]
    data = Dataset.from_dict({name: [row[name] for row in rows] for name in FEATURES}, features=FEATURES)
    data.to_parquet(FOLDER / "classes.parquet")
    with tempfile.TemporaryDirectory() as folder:
        data.save_to_disk(folder)
        shutil.copyfile(f"{folder}/data-00000-of-00001.arrow", FOLDER / "classes.arrow")
    of_classes = {"label": LABEL, "large": LABEL, "tags": TAG, "pair": TAG, "nested": TAG}
    rows = [
        {name: named(value, of_classes[name]) if name in of_classes else value for name, value in row.items()}
        for row in data
    ]
    (FOLDER / "classes.json").write_text(json.dumps(rows, separators=(",", ":")) + "\n", encoding="utf8")


def tool(name, properties):
    function = {"name": name, "parameters": {"type": "object", "properties": properties}}
    return {"type": "function", "function": function}


def call(name, arguments):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def mixed():
    """Writes conversations with tools whose parameters differ, as `to_parquet` and `save_to_disk` do: some fields, or
    whole columns, are JSON."""
    asked = {"role": "user", "content": "ä \"weather\"?", "tool_calls": None}
    weather = {"role": "assistant", "content": None, "tool_calls": [call("weather", {"city": "fox"})]}
    time = {"role": "assistant", "content": "3", "tool_calls": [call("time", {"n": 1, "x": [0.5]})]}
    rows = [
        {
            "messages": [asked, weather],
            "tools": [tool("weather", {"city": {"type": "string"}}), tool("now", {})],
            "any": [1, "b", None],
            "meta": {"a": 1.5},
        },
        {
            "messages": [asked, time],
            "tools": [tool("time", {"n": {"type": "integer"}, "zone": {"type": "string", "default": None}})],
            "any": ["{]", {"b": [True]}],
            "meta": ["a", None],
        },
        {"messages": [], "tools": None, "any": [], "meta": None},
    ]
    parameters = {"type": Value("string"), "properties": Json()}
    function = {"name": Value("string"), "parameters": parameters}
    message = {"role": Value("string"), "content": Value("string"), "tool_calls": List(Json())}
    features = Features(
        {
            "messages": List(message),
            "tools": List({"type": Value("string"), "function": function}),
            "any": List(Json()),
            "meta": Json(),
        }
    )
    data = Dataset.from_list(rows, features=features)
    data.to_parquet(FOLDER / "mixed.parquet")
    with tempfile.TemporaryDirectory() as folder:
        data.save_to_disk(folder)
        shutil.copyfile(f"{folder}/data-00000-of-00001.arrow", FOLDER / "mixed.arrow")
    rows = json.dumps(list(data), ensure_ascii=False, separators=(",", ":"))
    (FOLDER / "mixed.json").write_text(rows + "\n", encoding="utf8")


def rare():
    """Writes columns of rarer types, and one of categories that has none."""
    table = pa.table(
        {
            "text": ["a", "b", "c", "d"],
            "runs": pc.run_end_encode(pa.array(["x", "x", None, "y"])),
            "view": pa.array([["a"], [], None, ["b", "c"]], pa.list_view(pa.string())),
            "large_view": pa.array([[1], [], None, [2, 3]], pa.large_list_view(pa.int8())),
            "time": pa.array([datetime.time(4, 5, 6), None] * 2, pa.time32("s")),
            "long_time": pa.array([datetime.time(4, 5, 6, 7), None] * 2, pa.time64("us")),
            "large_decimal": pa.array([decimal.Decimal("1.50"), None] * 2, pa.decimal256(40, 2)),
            "empty": pa.DictionaryArray.from_arrays(pa.array([None] * 4, pa.int8()), pa.array([], pa.string())),
        }
    )
    with pa.OSFile(str(FOLDER / "rare.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    pq.write_table(table.select(["text", "empty"]), FOLDER / "empty.parquet")
    rows = json.dumps(table.to_pylist(), default=text, separators=(",", ":"))
    (FOLDER / "rare.json").write_text(rows + "\n", encoding="utf8")


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
    classes()
    mixed()
    rare()


if __name__ == "__main__":
    main()
