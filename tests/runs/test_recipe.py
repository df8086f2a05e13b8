"""A recipe's YAML file: nothing in it is lost or read as something else."""

import pytest
from helpers.paths import REPOSITORY

from redi.runs.errors import UsageError
from redi.runs.launch import accelerate_file
from redi.runs.recipe import main, read_config


def read(folder, text: str) -> dict:
    path = folder / "config.yaml"
    path.write_text(text)
    return read_config(path)


@pytest.mark.parametrize(
    "text",
    [
        "alpha: 0.5\nseed: 1\nalpha: 0.8\n",
        "model_init_kwargs: {alpha: 1, alpha: 2}\n",
        "a:\n  - {b: 1}\n  - alpha: 1\n    c: {}\n    alpha: 1\n",
        '"alpha": 1\nalpha: 1\n',
    ],
)
def test_a_key_given_twice_is_refused(tmp_path, text):
    with pytest.raises(
        UsageError, match="config.yaml is not valid YAML: the key 'alpha' is given twice, again in line"
    ):
        read(tmp_path, text)


def test_a_merged_mapping_may_be_overridden(tmp_path):
    text = "a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  x: 3\n"
    assert read(tmp_path, text)["b"] == {"x": 3, "y": 2}


def test_numbers_in_nested_mappings_are_numbers(tmp_path):
    """YAML 1.1 reads 1e-7 as text. The type of an option settles it at the top, but nothing does so below."""
    text = (
        "run_name: 1e5\nk: {a: 1e-7, b: 2.5E+3, c: '1e-7', d: {e: [1e-5, x]}, f: 48151e6, g: 1, h: -.5e2}\nl: [1e-7]\n"
    )
    assert read(tmp_path, text) == {
        "run_name": "1e5",
        "k": {"a": 1e-7, "b": 2500.0, "c": "1e-7", "d": {"e": [1e-5, "x"]}, "f": "48151e6", "g": 1, "h": -50.0},
        "l": ["1e-7"],
    }


def test_variables_in_values_are_expanded(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    assert read(tmp_path, "output_dir: ${SCRATCH}/x\nk: {cache_dir: $SCRATCH/y}\n") == {
        "output_dir": "/scratch/me/x",
        "k": {"cache_dir": "/scratch/me/y"},
    }
    main([str(tmp_path), "output_dir", "seed"])  # as shell scripts ask
    assert capsys.readouterr().out == "/scratch/me/x\n\n"


@pytest.mark.parametrize("text", ["", "# nothing\n"])
def test_an_empty_file_sets_nothing(tmp_path, text):
    assert read(tmp_path, text) == {}


def test_bytes_that_are_not_text_are_refused(tmp_path):
    (tmp_path / "config.yaml").write_bytes("alpha: \xe9".encode("latin-1"))
    with pytest.raises(UsageError, match="config.yaml is not valid YAML"):
        read_config(tmp_path / "config.yaml")


def test_an_accelerate_configuration_is_read_as_strictly(tmp_path):
    shipped = (REPOSITORY / "configs/accelerate/zero2.yaml").read_text()
    path = tmp_path / "own.yaml"
    path.write_text(shipped + "mixed_precision: 'no'\n")
    with pytest.raises(UsageError, match="accelerate_config .*own.yaml .*the key 'mixed_precision' is given twice"):
        accelerate_file(str(path), 8)
