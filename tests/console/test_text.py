"""Text for a terminal is shown, not obeyed."""

from __future__ import annotations

from inputaware.console.text import count_in_words, plain, printable


def test_what_a_terminal_would_obey_is_written_out() -> None:
    assert printable("a\x1b[31mb\u202ec\nd é") == "a\\x1b[31mb\\u202ec\nd é"


def test_markup_is_no_markup() -> None:
    assert plain("[red]x[/red]\x07") == "\\[red]x\\[/red]\\x07"


def test_a_name_stays_on_one_line() -> None:
    assert plain("a\nb") == "a\\nb"
    assert plain("a\n[b]", lines=True) == "a\n\\[b]"


def test_one_has_no_plural() -> None:
    assert [count_in_words(count, "cell") for count in (0, 1, 2)] == ["0 cells", "1 cell", "2 cells"]
