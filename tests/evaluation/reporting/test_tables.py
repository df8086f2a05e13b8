"""The report as LaTeX; compiled if pdflatex is installed."""

import shutil
import subprocess

from helpers.graded import write_graded

from redi.evaluation.reporting.report import report


def test_latex(tmp_path):
    report([write_graded(tmp_path / "a_1&2")], tmp_path / "table", [])
    text = (tmp_path / "table" / "table.tex").read_text(encoding="utf-8")
    assert r"a\_1\&2 & 55.0 $\pm$ 4.3 & " in text
    assert text.count(r"\begin{tabular}") == text.count(r"\bottomrule") == 1 and text.isascii()
    if shutil.which("pdflatex"):
        document = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{text}\end{{document}}"
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", f"-output-directory={tmp_path}"]
        (tmp_path / "document.tex").write_text(document)
        subprocess.run([*command, str(tmp_path / "document.tex")], check=True, capture_output=True)
