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


def plain(text: str) -> str:
    """Return text as rich shows it letter by letter."""
    return escape(printable(text))


def count_in_words(count: int, noun: str) -> str:
    """Return how many there are of something: 1 cell, 2 cells."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
