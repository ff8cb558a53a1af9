"""Tables as rows: where each stands, and that a damaged one spoils no other."""

import json

import pytest
from handmade import json_lines, parquet

from jam_jax.data.formats import rows
from jam_jax.data.formats.parquet import Parquet
from jam_jax.data.formats.rows import JsonLines, json_list, peek


def told(table, *shard):
    return [(row.place(), row.values if not row.fault else row.fault.split(":")[0]) for row in table.rows(*shard)]


def test_lines_are_rows_with_their_numbers(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"n": 1}\r\n\n  \n{"n": 2}\n{"n": "\xe2\x80\xa8"}')
    (tmp_path / "b.jsonl").write_bytes(b"")
    (tmp_path / "c.jsonl").write_text('{"n": 4}\n')
    table = JsonLines([tmp_path / f"{name}.jsonl" for name in "abc"])
    assert told(table) == [
        ("a.jsonl:1", {"n": 1}),
        ("a.jsonl:4", {"n": 2}),
        ("a.jsonl:5", {"n": "\u2028"}),
        ("c.jsonl:1", {"n": 4}),
    ]
    for of in range(1, 80):
        assert [row for shard in range(of) for row in told(table, shard, of)] == told(table)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b'{"n": 1', "no JSON"),
        (b"[1]", "a record is a JSON object, got list"),
        (b"\xff\xfe{}", "no UTF-8"),
        (b'{"n": ' + b"[" * 100_000, "JSON that is nested too deeply"),
        (b'{"n": 1' + b"0" * 10_000 + b"}", "no JSON"),  # more digits than Python reads
        (b'{"n": "' + b"x" * 2000 + b'"}', "the line has more than 1,000 bytes"),
        (b"{}" * 600, "the line has more than 1,000 bytes"),
        (b"\0", "no JSON"),
    ],
    ids=lambda value: str(value[:20]),
)
def test_a_damaged_line_spoils_no_other(tmp_path, monkeypatch, line, fault):
    if "1,000" in fault:
        monkeypatch.setattr(rows, "LONGEST", 1000)
        monkeypatch.setattr(rows, "BUFFER", 100)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"n": 1}\n' + line + b'\n{"n": 3}\n' + line)
    table = JsonLines([path])
    assert [row.values for row in table.rows()] == [{"n": 1}, {}, {"n": 3}, {}]
    damaged = [row for row in table.rows() if row.fault]
    assert [row.place() for row in damaged] == ["a.jsonl:2", "a.jsonl:4"]
    assert all(row.fault.startswith(fault) for row in damaged)
    assert peek(table) == [{"n": 1}, {"n": 3}]
    for of in (2, 3, 10):
        assert [row for shard in range(of) for row in told(table, shard, of)] == told(table)


def test_a_json_list_is_rows(tmp_path):
    path = json_lines(tmp_path / "a.json", [json.dumps([{"n": 0}, 5, {"n": 2}])])
    assert told(json_list(path)) == [
        ("a.json record 0", {"n": 0}),
        ("a.json record 1", "a record is a JSON object, got int"),
        ("a.json record 2", {"n": 2}),
    ]
    for text, says in [("[", "is no JSON"), ("[" * 100_000, "is no JSON"), ("5", "holds no list of records")]:
        path.write_text(text)
        with pytest.raises(ValueError, match=says):
            json_list(path)


def test_parquet_is_rows_whatever_its_row_groups(tmp_path):
    values = [{"n": i, "deep": {"a": [i, None], "b": b"\x00"}} for i in range(150)]
    for size in (1, 7, 64, 150):
        table = Parquet([parquet(tmp_path / "a.parquet", values, size), parquet(tmp_path / "b.parquet", values[:1])])
        whole = told(table)
        assert whole == [*((f"a.parquet row {i}", values[i]) for i in range(150)), ("b.parquet row 0", values[0])]
        for of in (2, 3, 40):
            assert [row for shard in range(of) for row in told(table, shard, of)] == whole
    assert list(next(table.rows(needs=("n", "other"))).values) == ["n"]


def test_a_damaged_row_group_is_damaged_rows(tmp_path):
    import pyarrow.parquet

    values = [{"text": f"text {i} " * 50} for i in range(300)]
    path = parquet(tmp_path / "a.parquet", values, 100, data_page_size=4000, use_dictionary=False)
    chunk = pyarrow.parquet.read_metadata(path).row_group(1).column(0)
    end = chunk.data_page_offset + chunk.total_compressed_size
    data = bytearray(path.read_bytes())
    data[end - 1000 : end - 500] = b"\xff" * 500
    path.write_bytes(data)
    found = list(Parquet([path]).rows())
    faults = [i for i, row in enumerate(found) if row.fault]
    assert len(found) == 300 and faults == list(range(faults[0], 200)) and faults[0] >= 100
    assert [row.values["text"] for row in found if not row.fault][-1].startswith("text 299")
    assert found[199].place() == "a.parquet row 199" and "damaged" in found[199].fault


def test_a_row_of_parquet_that_is_no_utf8_spoils_no_other(tmp_path):
    import pyarrow
    import pyarrow.parquet

    words = pyarrow.array([b"one", b"tw\xff", b"three"]).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": words}), tmp_path / "a.parquet")
    found = list(Parquet([tmp_path / "a.parquet"]).rows())
    assert [row.values.get("text") for row in found] == ["one", None, "three"]
    assert [row.place() for row in found if row.fault] == ["a.parquet row 1"]


def test_what_is_no_parquet_is_told_in_one_line(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no PAR1")
    with pytest.raises(ValueError, match="a.parquet is no Parquet file that can be read") as raised:
        list(Parquet([tmp_path / "a.parquet"]).rows())
    assert "\n" not in str(raised.value)
