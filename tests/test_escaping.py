"""Texts of strangers in a terminal, a CSV, a Markdown document; URIs in what is told."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xreal_synth.escaping import for_csv, for_markdown, for_terminal, from_csv, markdown_row, without_places
from xreal_synth.uris import scrubbed


@pytest.mark.parametrize("text", ["\x1b[2J", "\x1b]52;c;aGk=\x07", "\x9b31m", "\x08\x08", "\r", "‮gnp.exe", "⁦x", "\x7f"])
def test_nothing_steers_a_terminal(text):
    shown = for_terminal(f"a{text}b")
    assert shown.isprintable()
    assert not set(shown) & set("‮⁦")
    assert shown.startswith("a")


def test_plain_lines_stay():
    assert for_terminal("a\tb\nü — ok") == "a\tb\nü — ok"


def test_the_console_shows_no_escape(monkeypatch):
    from rich.table import Table

    from xreal_synth.cli.output import _Terminal

    out = io.StringIO()
    console = _Terminal(file=out, width=80)
    table = Table("name")
    table.add_row("cell\x1b[2J")
    console.print("error: \x1b]0;x\x07 at https://u:SECRETQ@h/x", markup=False)
    console.print(table)
    assert "\x1b" not in out.getvalue()
    assert "SECRETQ" not in out.getvalue()
    assert "https://***@h/x" in out.getvalue()


@pytest.mark.parametrize("cell", ["=1+1", "+x", "-x", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://h")'])
def test_no_cell_is_a_formula(cell):
    assert for_csv(cell) == f"'{cell}"
    assert from_csv(f"'{cell}") == cell


@pytest.mark.parametrize("cell", ["-1.5", "+3", "1e-3", "a=b", "", 7, None, -2.5])
def test_numbers_and_words_stay(cell):
    assert for_csv(cell) == cell


@given(st.text())
def test_a_cell_is_read_as_it_was(text):
    written = for_csv(text)
    assert isinstance(written, str)
    if text[:1] != "'":
        assert from_csv(written) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<img src=x onerror=y>", "&lt;img src=x onerror=y&gt;"),
        ("![x](http://h/b.png)", "\\![x\\](http://h/b.png)"),
        ("[x](javascript:y)", "[x\\](javascript:y)"),
        ("a | b", "a \\| b"),
        ("`code`", "\\`code\\`"),
        ("a\n# b\n\n---", "a # b ---"),
        ("0.91 [0.88, 0.94]", "0.91 [0.88, 0.94]"),
    ],
)
def test_markdown_shows_the_text(text, shown):
    assert for_markdown(text) == shown
    assert markdown_row([text, 3]) == f"| {shown} | 3 |"


def test_folders_stay_at_home():
    text = "path: /home/jane/images/a\nuri: s3://bucket/a/b\nbundle: ~/models/mine\nout: data/x\nat: 1/2\n"
    assert without_places(text) == "path: a\nuri: s3://bucket/a/b\nbundle: mine\nout: data/x\nat: 1/2\n"


@pytest.mark.parametrize(
    "uri",
    [
        "https://SECRETQ@h/x", "https://u:SECRETQ@h/x", "s3://A:x/SECRETQ@b/x", "https://h/x?token=SECRETQ",
        "https://h/x?a=1&X-Amz-Signature=SECRETQ", "Authorization: Bearer SECRETQ", "https://u:a&SECRETQ@h/x",
    ],
)  # fmt: skip
def test_credentials_are_not_reported(uri):
    assert "SECRETQ" not in scrubbed(f"cannot read {uri}: denied")
    assert scrubbed("s3://bucket/user@lab/x") == "s3://bucket/user@lab/x"
