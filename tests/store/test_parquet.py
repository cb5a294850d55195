"""Shards: the same views, the same rows; and a folder from a stranger is looked at before it is believed."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from store import parquet
from store.ask import run_on
from store.errors import TraceError
from store.parquet import MANIFEST, export_parquet, import_parquet
from store.trace import open_trace
from tests.store.made import dump


@pytest.fixture(scope="module")
def exported(made_trace, tmp_path_factory):
    return export_parquet(open_trace(made_trace), tmp_path_factory.mktemp("parquet") / "shards")


@pytest.fixture
def copied(exported, tmp_path):
    """A copy to tamper with."""
    return shutil.copytree(exported, tmp_path / "shards")


def test_the_same_rows_in_every_view(made_trace, exported):
    assert dump(exported) == dump(made_trace)


def test_the_same_chunks_and_aggregates(made_trace, exported):
    columns = ("experts", "weights", "logits", "entropy")
    one, two = (next(open_trace(p).chunks(columns=columns)) for p in (made_trace, exported))
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])
    one, two = (open_trace(p).aggregates() for p in (made_trace, exported))
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])


def test_many_shards_are_one_trace(made_trace, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "SHARD_ROWS", 100)
    monkeypatch.setattr(parquet, "BATCH_ROWS", 100)
    folder = export_parquet(open_trace(made_trace), tmp_path / "shards")
    assert len(list(folder.glob("routing-*.parquet"))) > 3
    assert dump(folder) == dump(made_trace)


def test_back_into_a_file(made_trace, exported, tmp_path):
    assert dump(import_parquet(exported, tmp_path / "t.duckdb")) == dump(made_trace)


def test_sql_over_shards(exported):
    assert run_on(exported, "SELECT count(*) AS n FROM layers").rows.to_pylist() == [{"n": 3}]
    with pytest.raises(TraceError, match="not allowed"):
        run_on(exported, f"SELECT * FROM read_parquet('{exported}/routing-00000.parquet')")


def test_an_export_overwrites_nothing(made_trace, exported, tmp_path):
    with pytest.raises(TraceError, match="not an empty folder"):
        export_parquet(open_trace(made_trace), exported)
    with pytest.raises(TraceError, match="no such directory"):
        export_parquet(open_trace(made_trace), tmp_path / "no" / "where")
    assert list(tmp_path.iterdir()) == []


def refused(folder, words):
    with pytest.raises(TraceError, match=words) as caught:
        open_trace(folder)
    assert "\n" not in str(caught.value)


def manifest(folder, change):
    about = json.loads((folder / MANIFEST).read_text())
    change(about)
    (folder / MANIFEST).write_text(json.dumps(about))


def rewrite(folder, table, change):
    """Change a shard and make the manifest agree, as a stranger could."""
    path = folder / f"{table}-00000.parquet"
    pq.write_table(change(pq.read_table(path)), path)

    def agree(about):
        entry = next(e for e in about["files"] if e["path"] == path.name)
        entry.update(parquet._entry(path, table, entry["rows"]))

    manifest(folder, agree)


def put(name, value):
    """A change of one column to one value throughout."""

    def change(table):
        kind = table.schema.field(name).type
        column = pa.array([value] * table.num_rows, type=kind)
        return table.set_column(table.schema.names.index(name), name, column)

    return change


def test_a_changed_shard(copied):
    path = copied / "routing-00000.parquet"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    refused(copied, "changed or damaged")


def test_a_missing_shard(copied):
    (copied / "tokens-00000.parquet").unlink()
    refused(copied, "tokens-00000.parquet: missing")


@pytest.mark.parametrize(
    "path", ["../x-00000.parquet", "/etc/passwd", "routing-1.parquet", "routing-00000.parquet/../a"]
)
def test_a_manifest_may_not_point_elsewhere(copied, path):
    manifest(copied, lambda about: about["files"][0].update(path=path))
    refused(copied, "not a shard of this folder")


def test_a_link_is_not_followed(copied, tmp_path):
    shard = copied / "tokens-00000.parquet"
    shard.rename(tmp_path / "elsewhere.parquet")
    shard.symlink_to(tmp_path / "elsewhere.parquet")
    refused(copied, "not a shard of this folder")


def test_a_newer_schema(copied):
    manifest(copied, lambda about: about.update(schema=99))
    refused(copied, "made by a newer version")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": "x", "schema": 1, "files": []}', '{"format": 1, "files": 3}', "nul"]
)
def test_not_a_manifest(copied, text):
    (copied / MANIFEST).write_text(text)
    refused(copied, "not a manifest of a trace")


def test_no_manifest(tmp_path):
    refused(tmp_path, "a folder without manifest.json")


BAD = {
    "expert ids": ("routing", put("experts", [200]), "expert id"),
    "more than k": ("routing", put("experts", [0, 1, 2, 3, 4]), "expert id"),
    "unknown layer": ("routing", put("layer", 77), "expert id"),
    "unknown run": ("tokens", put("run_id", 5), "a run that is not in it"),
    "weights": ("routing", put("weights", [0.5]), "differ in number"),
    "logits": ("routing", put("logits_16", [1, 2, 3]), "one per expert"),
    "negative tokens": ("tokens", put("token_id", -5), "negative"),
    "sequences twice": ("sequences", put("sequence_id", 1), "there twice"),
    "aggregates": ("aggregates", put("chosen", [1]), "aggregates"),
    "a column too many": ("layers", lambda t: t.append_column("evil", pa.array([1] * t.num_rows)), "no column 'evil'"),
    "another type": (
        "tokens",
        lambda t: t.set_column(1, "sequence_id", pa.array(["x"] * t.num_rows)),
        "convert|Conversion",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_shards_that_cannot_be_a_trace(copied, what):
    table, change, words = BAD[what]
    rewrite(copied, table, change)
    refused(copied, words)


def test_not_parquet_at_all(copied):
    path = copied / "tokens-00000.parquet"
    path.write_bytes(b"PAR1 nothing PAR1")
    manifest(
        copied,
        lambda a: next(e for e in a["files"] if e["path"] == path.name).update(parquet._entry(path, "tokens", 0)),
    )
    refused(copied, "not a Parquet file")


def test_a_shard_of_an_older_export_lacks_columns(copied):
    rewrite(copied, "tokens", lambda t: t.drop_columns(["logprob"]))
    assert open_trace(copied).sql("SELECT count(logprob) AS n FROM tokens").n[0] == 0
