"""The table of docs/resolving.md; its cut-outs are packages of Debian, which no test downloads."""

import itertools

from tests.pages import ROOT
from tools import resolve


def test_the_command_prints_the_table_of_its_page(monkeypatch, capsys):
    few = list(itertools.islice(resolve.annotated(), len(resolve.KINDS)))  # each kind, on one thing
    monkeypatch.setattr(resolve, "annotated", lambda: iter(few))
    monkeypatch.setattr("sys.argv", ["resolve", "--cut-outs", "0"])
    resolve.main()
    header, _, *rows = capsys.readouterr().out.strip().splitlines()
    page = (ROOT / "docs" / "resolving.md").read_text(encoding="utf-8")
    assert f"\n{header}\n" in page
    shown = [row.split(" | ")[0] for row in rows if row.startswith("|")]
    assert len(shown) == len(few) + 2 and all(f"\n{row} |" in page for row in shown)
    assert "one scribble at 512 × 512" in rows[-1]
