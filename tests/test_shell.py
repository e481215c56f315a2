"""Quoting for shells."""

import shutil
import subprocess

import pytest

from mlaas4hep.shell import quoted

BASH = shutil.which("bash")


@pytest.mark.skipif(BASH is None, reason="there is no bash here")
@pytest.mark.parametrize(
    "text",
    ["Jet_*", "it's", "nl\nx", "esc\x1b[31m", "tab\tit's \\n", "\x01f", "turn\u202ed", "\udcff", "μ\n", "", "$x\n`y`!"],
)
def test_bash_reads_the_original_from_quoted_text(text):
    word = quoted(text)
    assert word.isprintable()
    done = subprocess.run([BASH, "-c", f"printf %s {word}"], capture_output=True, check=True)
    assert done.stdout == text.encode(errors="surrogateescape")


@pytest.mark.parametrize(("text", "word"), [("nMuon", "nMuon"), ("Jet_*", "'Jet_*'"), ("nl\nx", "$'nl\\nx'")])
def test_text_is_quoted_only_if_necessary(text, word):
    assert quoted(text) == word
