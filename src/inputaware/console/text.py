"""Text for a terminal."""

from __future__ import annotations

from rich.markup import escape

__all__ = ["count_in_words", "plain", "printable"]


def printable(text: str) -> str:
    """Return text with escapes for all that a terminal would obey and not show: control characters, turned writing."""
    return "".join(
        character if character.isprintable() or character == "\n" else character.encode("unicode_escape").decode()
        for character in text
    )


def plain(text: str, *, lines: bool = False) -> str:
    """Return text as rich shows it letter by letter.

    Args:
        text: a name, or a sentence.
        lines: whether line breaks stay; in a name, which may be a stranger's, they would break a table.
    """
    shown = printable(text)
    return escape(shown if lines else shown.replace("\n", "\\n"))


def count_in_words(count: int, noun: str) -> str:
    """Return how many there are of something: 1 cell, 2 cells."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
