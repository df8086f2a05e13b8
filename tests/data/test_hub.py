"""A corpus on the Hub, read by the real client from a stand-in server: revisions, columns and errors."""

import json
import os
import subprocess
import sys
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.corpus import (
    NUM_POSITIVES,
    REPOSITORY,
    ROWS,
    SCHEMA,
    expected_pairs,
    expected_positives,
    read_rows,
)
from helpers.hub_server import CARD, HubServer

from redi.runs.files import is_hub_id

OLD, NEW = "a" * 40, "b" * 40
# A column that is not requested: most of the file.
UNREAD = "".join(map(chr, np.random.default_rng(0).integers(33, 127, 40_000)))

# Runs commands one after the other, as from the command line. It needs a separate process, since the client reads the
# Hub's address when it is imported.
DRIVER = """
import contextlib, io, json, runpy, sys
for command in json.loads(sys.argv[1]):
    sys.argv, code, out, err = command, 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_path(command[0], run_name="__main__")
        except SystemExit as end:
            code = end.code
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folders = {commit: tmp_path_factory.mktemp(name) for commit, name in ((OLD, "old"), (NEW, "new"))}
    for commit, rows in ((OLD, ROWS[:10]), (NEW, ROWS)):
        (folders[commit] / "README.md").write_text(CARD)
        (folders[commit] / "data").mkdir()
        table = pa.Table.from_pylist(rows, schema=SCHEMA)
        table = table.add_column(0, "solution", pa.array([UNREAD[i:] + UNREAD[:i] for i in range(len(rows))]))
        half = len(rows) // 2
        for i, part in enumerate((table[:half], table[half:])):
            pq.write_table(part, folders[commit] / "data" / f"train-{i}.parquet", use_dictionary=False)
    server = HubServer(folders, {"main": OLD, "v2": NEW})
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def run_all(port, home, *commands):
    """Runs commands against the Hub on a port: for each `(exit code, stdout, stderr)`."""
    commands = [[str(REPOSITORY / "data_preprocess" / f"{name}.py"), *map(str, rest)] for name, *rest in commands]
    address = f"http://127.0.0.1:{port}"
    environment = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
    driver = [sys.executable, "-c", DRIVER, json.dumps(commands)]
    result = subprocess.run(driver, capture_output=True, text=True, env=environment, timeout=240)
    outputs = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(outputs) == len(commands), result.stderr
    return outputs


def test_one_commit_and_only_the_columns_needed(hub, tmp_path):
    options = ["--input", "owner/traces", "--output"]
    first, again, moved, pinned = run_all(
        hub.server_port,
        tmp_path / "home",
        ["build_pairs", *options, tmp_path / "newest"],
        ["build_pairs", *options, tmp_path / "newest"],
        ["build_pairs", *options, tmp_path / "newest", "--revision", "v2"],
        ["build_positives", "--input", "owner/traces@v2", "--output", tmp_path / "v2", "--expect-rows", NUM_POSITIVES],
    )
    assert first[0] == again[0] == pinned[0] == 0, first + again + pinned
    assert read_rows(tmp_path / "newest") == expected_pairs(ROWS[:10])
    assert read_rows(tmp_path / "v2") == expected_positives(ROWS)
    inputs = json.loads((tmp_path / "newest" / "manifest.json").read_text())["inputs"]
    assert inputs["corpus"] == {"path": f"owner/traces@{OLD}", "sha256": f"hub:owner/traces@{OLD}"}
    assert f"`owner/traces@{NEW}`" in (tmp_path / "v2" / "README.md").read_text()

    # A full commit id needs no connection to be recognised (nobody listens on port 9).
    options = ["--input", "owner/traces", "--revision", NEW, "--output", tmp_path / "v2"]
    [(code, said, _)] = run_all(9, tmp_path / "home", ["build_positives", *options])
    assert (code, said) == (0, f"{tmp_path / 'v2'}: already done, {NUM_POSITIVES} rows\n")

    # The first line is the size of the requested columns: a fraction of the files'.
    announced = first[1].split("\n")[0]
    assert announced.startswith(f"owner/traces@{OLD}: 10 rows in 2 files; 0.0 of their 0.4 MB")
    assert "already done" in again[1]
    assert moved[0] == 2
    assert "pass --overwrite" in moved[2]
    # Footers are found by reading the end of a file; nothing else may touch the unrequested column.
    pages = [sent for sent in hub.ranges if sent[2] < sent[0].stat().st_size]
    assert len({file for file, _, _ in pages}) == 4
    assert not any(overlaps_unread(*sent) for sent in pages)


def overlaps_unread(file, start, end):
    column = pq.read_metadata(file).row_group(0).column(0)
    assert column.path_in_schema == "solution"
    return start < column.data_page_offset + column.total_compressed_size and column.data_page_offset < end


def test_no_such_dataset_revision_or_hub(hub, tmp_path):
    output = ["--output", tmp_path / "out"]
    results = run_all(
        hub.server_port,
        tmp_path / "home",
        ["build_pairs", "--input", "owner/nothing", *output],
        ["build_pairs", "--input", "owner/traces", "--revision", "v3", *output],
        ["build_pairs", "--input", "owner/traces", "--revision", "c" * 40, *output],
    )
    results += run_all(9, tmp_path / "home", ["build_pairs", "--input", "owner/traces", *output])  # nobody listens
    for code, _, error in results:
        assert code == 2
        assert error.strip().split("\n")[-1].startswith("error: --input owner/")
        assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("open-r1/OpenR1-Math-Raw", True),
        ("owner/name@refs/convert/parquet", True),
        ("name", False),
        ("folder/raw.parquet", False),
        ("folder/raw.jsonl", False),
        ("a/b/c", False),
    ],
)
def test_hub_ids(source, expected):
    assert is_hub_id(source) == expected
