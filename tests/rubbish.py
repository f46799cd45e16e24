"""Malformed settings, data files, predictions, stored runs and command lines: written by hand, and multiplied."""

import dataclasses
import io
import json
import typing
from collections.abc import Mapping

import pyarrow
import pyarrow.parquet

from bakeoff.config.schema import SECTIONS

LONG = 10_000_000
"""Characters of the long lines."""
DEEP = 100_000
"""Levels of the deep nestings."""
ODD = {
    "an ANSI escape": "\x1b[31mred\x1b[0m",
    "two lines": "a\nb",
    "carriage return": "a\rb",
    "a right-to-left mark": "\u202egnp.exe",
    "an isolate": "\u2066x\u2069",
    "a null": "a\x00b",
    "a C1 control": "\x9b31m",
    "a line separator": "a\u2028b",
    "a byte-order mark": "\ufefflora",
    "a workflow command": "::error::x",
    "an older workflow command": "##[error]x",
    "half a character": "a\ud800",
    "undecodable": b"\xff\xfe".decode(errors="surrogateescape"),
    "a tag character": "\U000e0041",
    "a way out": "../../../etc/passwd",
    "a long name": "x" * 5000,
    "another's home": "~no-such-user/x",
    "nothing but a space": " ",
    "a template": "{document}{0}%s%n${x}",
    "markup": "<script>alert(1)</script>",
}

# Values that are wrong for every setting of a type, as TOML writes them.
WRONG = {
    int: ['"3"', "true", "1.5", "nan", "inf", "[1]", "{a = 1}", "-1", "9" * 30, "1979-05-27", '"\\u202e3"', "1e400"],
    float: ['"x"', "true", "nan", "-inf", "[1.0]", "{}", "-1e-9", "1e400", "07:32:00", "9" * 400],
    str: ["3", "true", "1.5", "nan", "[]", '["a"]', "{}", "1979-05-27T07:32:00Z"],
    bool: ["1", '"true"', "0.0", "[]", "{}", "nan"],
    tuple: ['"a"', "3", "true", "[1.5]", "[[]]", "{}", "[nan]", '["a", ["b"]]'],
    Mapping: ["3", '"x"', "[]", "true", "nan", "[{}]"],
}  # fmt: skip


def fields():
    """Dotted key and wrong values of every setting in a section."""
    for name, kind in SECTIONS.items():
        hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            yield f"{name}.{field.name}", WRONG[typing.get_origin(hints[field.name]) or hints[field.name]]


def wrong_values():
    """TOML text of a preset by name: each setting with each value that it can't have."""
    found = {}
    for key, values in fields():
        section, name = key.split(".")
        for value in values:
            found[f"{key} = {value[:20]}"] = f"[{section}]\n{name} = {value}\n".encode()
    return found


def wrong_changes():
    """`--set` by name. A bare word is a text there, so what TOML can't read is right for a setting that is a text."""
    return {f"{key}={value[:20]}": f"{key}={value}" for key, values in fields() for value in values}


PRESETS = {
    "not TOML": b"this is no preset",
    "JSON": b'{"seeds": [42]}',
    "a table cut": b"[task",
    "a text cut": b'description = "abc',
    "a key twice": b"seeds = [1]\nseeds = [2]\n",
    "a table twice": b"[task]\ntrain = 1\n[task]\ntrain = 2\n",
    "a key as a table": b"seeds = [1]\n[seeds]\n",
    "UTF-16": "seeds = [42]\n".encode("utf-16"),
    "Latin-1": b'description = "caf\xe9"\n',
    "two encodings": 'description = "café"\n'.encode() + b"# \xe9\n",
    "two byte-order marks": b"\xef\xbb\xbf\xef\xbb\xbfseeds = [1]\n",
    "a byte-order mark inside": "seeds = [1]\n\ufeff[task]\n".encode(),
    "a null": b"seeds = [1]\n\x00",
    "an escape": b"\x1b[31m = 1\n",
    "an escape as a key": b'"\\u001b[31m" = 1\n',
    "an escape as a value": b'seeds = "\\u001b[31m"\n',
    "a right-to-left key": '"\u202eseeds" = [1]\n'.encode(),
    "a right-to-left table": '["\u202etask"]\ntrain = 1\n'.encode(),
    "a line end as a key": b'"a\\nb" = 1\n',
    "a line end as a table": b'["task\\n::error::x"]\ntrain = 1\n',
    "a workflow command as a key": b'"::error::x" = 1\n',
    "a long key": b"k" * LONG + b" = 1\n",
    "a long value": b'seeds = "' + b"s" * LONG + b'"\n',
    "a long line": b'[task]\nprompt = "' + b"p" * LONG + b'"\n',
    "a long number": b"seeds = [" + b"9" * LONG + b"]\n",
    "a deep list": b"seeds = " + b"[" * DEEP,
    "a deep table": b"[" + b".".join([b"a"] * 5000) + b"]\n",
    "a deep dotted key": b".".join([b"a"] * 5000) + b" = 1\n",
    "a deep inline table": b"seeds = " + b"{a = " * 5000,
    "a date": b"seeds = 1979-05-27\n",
    "a negative seed": b"seeds = [-1]\n",
    "a large seed": b"seeds = [4294967296]\n",
    "no seeds": b"seeds = []\n",
    "a seed twice": b"seeds = [1, 1]\n",
    "a seed that is no number": b"seeds = [nan]\n",
    "a seed that is true": b"seeds = [true]\n",
    "its own name": b'preset = "quick"\n',
    "its own source": b'source = "/etc/passwd"\n',
    "changes": b"changes = {}\n",
    "methods as a number": b"methods = 3\n",
    "a method as a number": b"[methods]\nlora = 3\n",
    "a section as a list": b"[[task]]\ntrain = 1\n",
    "a section as a text": b'task = "aclsum"\n',
    "an unknown section": b"[tasks]\ntrain = 1\n",
    "a section in capitals": b"[TASK]\ntrain = 1\n",
    "a prompt without a document": b'[task]\nprompt = "Summary:"\n',
    "a prompt with two documents": b'[task]\nprompt = "{document}{document}"\n',
    "an instruction without one": b'[task]\ninstruction = "\\u001b[0m"\n',
    "a special token twice": b'[model]\nspecial_tokens = ["a", "a"]\n',
    "an empty special token": b'[model]\nspecial_tokens = [""]\n',
    "random without an architecture": b'[model]\nname = "random"\n',
    "micro above batch": b"[training]\nbatch_size = 1\nmicro_batch_size = 2\n",
    "a schedule of its own": b'[training]\nschedule = "cosine\\u202e"\n',
    "a beta of one": b"[training]\nbeta2 = 1.0\n",
    "a device of its own": b'[machine]\ndevice = "tpu"\n',
}  # fmt: skip

SEEDS = ["x", "-1", "1.5", "1,", ",", "1,,2", "1,1", "nan", "1e3", "0x1", "1 2", "9" * 5000, "[1]", "true", "inf", "+1",
         "1;2", "\u0661\x00", *ODD.values()]  # fmt: skip
CHANGES = ["", "=", "=1", "training", "training=", "training=1", "training.=1", ".epochs=1", "training..epochs=1",
           "training.epochs", "training.epochs=", "training.epochs=3=4", "TRAINING.EPOCHS=1", "preset=x", "source=x",
           "changes=1", "methods=1", "methods.lora=1", "methods.lora.rank.x=1", "methods.=1", "methods..=1",
           "task.prompt=x", "task.prompt.x=1", "model.architecture=1", "model.special_tokens=a", "seeds=[]",
           "seeds=[1,1]", "seeds=1", "seeds=[-1]", "description=1", "training.epochs=" + "[" * DEEP,
           "training.epochs=" + "9" * LONG, "a" * LONG + "=1",
           *ODD.values(), *(f"{text}=1" for text in ODD.values()), *(f"training.{text}=1" for text in ODD.values()),
           *(f"training.epochs={text}" for text in ODD.values()),
           *(f"machine.device={text}" for text in ODD.values())]  # fmt: skip

ROW = {"document": "A document.", "summary": "A summary.", "split": "train"}


def line(**changes):
    """One line of JSONL; a value of ... takes the key away."""
    return json.dumps({key: value for key, value in {**ROW, **changes}.items() if value is not ...}).encode() + b"\n"


def parquet(table):
    """The bytes of a Parquet file; `table` by column."""
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(table), file)
    return file.getvalue()


VALUES = [None, True, 3, -1, 1.5, float("nan"), float("inf"), [], {}, ["a"], {"a": "b"}, "", " ", "\n\t", "\ud800"]
JSONL = {
    **{f"{column} = {value!r}": line(**{column: value}) for column in ("document", "summary") for value in VALUES},
    **{f"split = {value!r}": line(split=value) for value in (*VALUES, "trian", "all", *ODD.values())},
    **{f"without {column}": line(**{column: ...}) for column in ROW},
    **{f"{name} as the only column": json.dumps({text: "x"}).encode() for name, text in ODD.items()},
    "empty": b"",
    "blank lines": b"\n \r\n\t\n",
    "no object": b"[1, 2]\n",
    "a number": b"3\n",
    "NaN": b"NaN\n",
    "two objects in a line": line()[:-1] + line(),
    "an object over two lines": b'{"document":\n"d"}\n',
    "a cut object": line()[:-5],
    "a comma at the end": b'{"document": "d",}\n',
    "single quotes": b"{'document': 'd'}\n",
    "a comment": b"// c\n" + line(),
    "a key twice": b'{"document": "d", "document": "e"}\n',
    "an odd key twice": b'{"\\u001b[31m\\n": "d", "\\u001b[31m\\n": "e"}\n',
    "a raw control character": b'{"document": "\x1b[31m"}\n',
    "a raw null": b'{"document": "\x00"}\n',
    "deep": b'{"document": ' + b"[" * DEEP + b"\n",
    "deep and closed": b'{"document": ' + b"[" * DEEP + b"]" * DEEP + b"}\n",
    "a huge number": b'{"document": ' + b"9" * 5000 + b"}\n",
    "a huge exponent": line(split="@").replace(b'"@"', b"1e999"),
    "a long line that is cut": b'{"document": "' + b"d" * LONG,
    "a long key": b'{"' + b"k" * LONG + b'": 1}\n',
    "a long split": line(split="s" * LONG),
    "Latin-1": line() + b'{"document": "caf\xe9"}\n',
    "UTF-16": line().decode().encode("utf-16"),
    "UTF-16 without a mark": line().decode().encode("utf-16-le"),
    "UTF-32": line().decode().encode("utf-32"),
    "two encodings": line(document="café") + line(document="cafe").replace(b"cafe", b"caf\xe9"),
    "overlong UTF-8": line().replace(b"A doc", b"\xc0\xaf"),
    "half a character as bytes": line().replace(b"A doc", b"\xed\xa0\x80"),
    "two byte-order marks": b"\xef\xbb\xbf\xef\xbb\xbf" + line(),
    "a byte-order mark inside": line() + b"\xef\xbb\xbf" + line(document="other"),
    "a document in two splits": line() + line(split="test"),
    "one split": line() + line(document="other"),
    "gzip": b"\x1f\x8b\x08\x00" + bytes(50),
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(50),
    "half a character as an id": line(id="\ud800"),
}
HEADER = b"document,summary,split\n"
CSV = {
    **{f"split {name}": HEADER + b"d,s," + json.dumps(text, ensure_ascii=False).encode(errors="replace") + b"\n"
       for name, text in ODD.items()},
    **{f"{name} as the header": json.dumps(text, ensure_ascii=False).encode(errors="replace") + b",b\nc,d\n"
       for name, text in ODD.items()},
    "empty": b"",
    "a header alone": HEADER,
    "blank lines": b"\n\r\n\n",
    "semicolons": HEADER.replace(b",", b";") + b"d;s;train\n",
    "tabs": HEADER.replace(b",", b"\t") + b"d\ts\ttrain\n",
    "too many cells": HEADER + b"d,s,train,more\n",
    "too few cells": HEADER + b"d\n",
    "no split": HEADER + b"d,s\n",
    "an open quote": HEADER + b'"d,s,train\n',
    "a quote inside": HEADER + b'"d"x,s,train\n',
    "a column twice": b"document,document,split\nd,e,train\n",
    "an empty document": HEADER + b",s,train\n",
    "a blank summary": HEADER + b"d, ,train\n",
    "a null": HEADER + b"d\x00,s,trian\n",
    "a long cell": HEADER + b"d,s," + b"x" * LONG + b"\n",
    "a long open quote": HEADER + b'"' + b"x" * LONG,
    "a long header": b"x" * LONG + b"\n1\n",
    "many columns": b",".join(b"c%d" % n for n in range(20_000)) + b"\n1\n",
    "Latin-1": HEADER + b"caf\xe9,s,train\n",
    "UTF-16": (HEADER + b"d,s,train\n").decode().encode("utf-16"),
    "lone carriage returns": HEADER.replace(b"\n", b"\r") + b"d,s,train\r",
    "one split": HEADER + b"d,s,train\n",
    "JSONL": line(),
}  # fmt: skip
GOOD = parquet({key: [value] for key, value in ROW.items()})
PARQUET = {
    **{f"cut to {size}": GOOD[:size] for size in (0, 1, 4, 8, 100, len(GOOD) // 2, len(GOOD) - 4, len(GOOD) - 1)},
    **{f"{column} as {kind}": parquet({**{key: [value] for key, value in ROW.items()}, column: [wrong]})
       for column in ROW for kind, wrong in (("numbers", 3), ("lists", ["a"]), ("nulls", None), ("bytes", b"\xff"),
                                             ("structs", {"a": 1}), ("NaN", float("nan")), ("empty texts", ""))},
    "without columns": parquet({}),
    "without rows": parquet({key: pyarrow.array([], pyarrow.string()) for key in ROW}),
    "another column": parquet({"\x1b[31m\n": ["x"]}),
    "a text that is no UTF-8": GOOD.replace(b"A document.", b"\xff\xfe\xfdcument."),
    "a footer that lies": GOOD[:-8] + b"\xff\xff\xff\x7f" + GOOD[-4:],
    "a footer of zeros": GOOD[:-100] + bytes(92) + GOOD[-8:],
    "another magic": b"ARROW1" + GOOD[6:],
    "CSV": HEADER + b"d,s,train\n",
    "one split": GOOD,
}  # fmt: skip
DATA = {".jsonl": JSONL, ".csv": CSV, ".parquet": PARQUET}

PREDICTION = {"id": "a", "document": "d", "reference": "r", "summary": "s"}
PREDICTIONS = {
    **{f"{key} = {value!r}": json.dumps({**PREDICTION, key: value}).encode() for key in ("reference", "summary")
       for value in VALUES if not isinstance(value, str)},
    **{f"without {key}": json.dumps({k: v for k, v in PREDICTION.items() if k != key}).encode()
       for key in ("reference", "summary")},
    **{name: JSONL[name] for name in ("empty", "blank lines", "no object", "a number", "NaN", "two objects in a line",
       "a cut object", "a raw control character", "deep", "deep and closed", "a huge number", "a long key", "Latin-1",
       "a long line that is cut", "UTF-16", "UTF-32", "overlong UTF-8", "half a character as bytes", "gzip",
       "two byte-order marks")},
    "a key twice": b'{"reference": "r", "summary": "s", "summary": "t"}\n',
    "an odd key twice": b'{"reference": "r", "summary": "s", "\\u001b\\n": 1, "\\u001b\\n": 2}\n',
    "an id as a list": json.dumps({**PREDICTION, "id": []}).encode(),
    "a document as a number": json.dumps({**PREDICTION, "document": 3}).encode(),
    "half a character": json.dumps({**PREDICTION, "summary": "\ud800"}).encode(),
}  # fmt: skip
SOUND = {
    ".jsonl": b"".join(
        line(document=f"Document {n}.", split=split) for n, split in enumerate(("train", "val", "test"))
    ),
    ".csv": HEADER + b"a,b,train\nc,d,val\ne,f,test\n",
    ".parquet": parquet({"document": ["a", "c", "e"], "summary": ["b", "d", "f"], "split": ["train", "val", "test"]}),
}
RESULT = {"fingerprint": "ab" * 16, "spec": {"method": "lora"}, "parameters": None, "document_ids": ["a"],
          "scores": {"rouge1": [0.5], "rouge2": [0.5], "rougeL": [0.5]}}  # fmt: skip
RUNS = {
    **{f"{key} = {json.dumps(value)}": json.dumps({**RESULT, key: value}).encode()
       for key, values in {
           "fingerprint": [None, 3, [], "cd" * 16],
           "spec": [None, 3, [], "x"],
           "parameters": [3, [], "x", True],
           "steps": [None, {}, 3, [3], [{"loss": "x"}], [{"loss": None}]],
           "epochs": [None, {}, [[]], [{"loss": float("nan")}]],
           "seconds": [None, [], {"training": "x"}, {"training": None}],
           "tokens": [None, [3], {"training": 1.5}, {"training": True}],
           "memory_bytes": [None, {"allocated": "x"}],
           "adapter_bytes": ["x", 1.5, [], True],
           "evidence": [None, []],
           "truncated": [None, {"documents": "x"}],
           "scores": [None, [], {}, {m: [float("nan")] for m in RESULT["scores"]},
                      {m: [] for m in RESULT["scores"]}, {m: ["x"] for m in RESULT["scores"]},
                      {m: [1.5] for m in RESULT["scores"]}, {m: [-0.1] for m in RESULT["scores"]}],
           "document_ids": [None, "a", [3], [], ["a", "b"]],
           "signature": [None, 3],
           "environment": [None, []],
           "finished": [None, 3],
           "unknown": [1],
       }.items() for value in values},
    "empty": b"",
    "a list": b"[]",
    "deep": b"[" * DEEP,
    "a key twice": json.dumps(RESULT)[:-1].encode() + b', "spec": {}}',
    "a huge number": json.dumps(RESULT)[:-1].encode() + b', "adapter_bytes": ' + b"9" * 5000 + b"}",
    "UTF-16": json.dumps(RESULT).encode("utf-16"),
    "a byte-order mark": b"\xef\xbb\xbf" + json.dumps(RESULT).encode(),
}  # fmt: skip
