"""Every message of every error: what it is made of, and that a test asks for its text."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from inputaware import errors

ROOT = Path(__file__).parents[1]
ERRORS = set(errors.__all__)
GAP = "\0"
"""Stands for what a message says of the case at hand."""


class Message(NamedTuple):
    """A message in the source: where it stands, its error, and its text with gaps."""

    place: str
    error: str
    text: str


def text_of(node: ast.expr, names: dict[str, list[str]]) -> list[str]:
    """Return the texts that an expression can become, with gaps where only a run can tell."""
    if isinstance(node, ast.Constant):
        return [str(node.value)] if isinstance(node.value, str) else [GAP]
    if isinstance(node, ast.JoinedStr):
        texts = [""]
        for part in node.values:
            more = text_of(part.value, {}) if isinstance(part, ast.FormattedValue) else text_of(part, {})
            inner = more if all(GAP not in text for text in more) and isinstance(part, ast.Constant) else [GAP]
            texts = [text + end for text in texts for end in inner]
        return texts
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [left + right for left in text_of(node.left, names) for right in text_of(node.right, names)]
    if isinstance(node, ast.IfExp):
        return text_of(node.body, names) + text_of(node.orelse, names)
    return [GAP]


def read_messages() -> Iterator[Message]:
    """Yield each message of the package."""
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ERRORS and node.args:
                for number, text in enumerate(text_of(node.args[0], {})):
                    place = f"{path.relative_to(ROOT / 'src' / 'inputaware')}:{node.lineno}" + f"-{number}" * (
                        number > 0
                    )
                    yield Message(place, node.func.id, text)


@cache
def asserted() -> str:
    """Return all texts in all tests, with gaps."""
    found = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        if path != Path(__file__):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr | ast.BinOp) or (
                    isinstance(node, ast.Constant) and isinstance(node.value, str)
                ):
                    found += [text.replace("\\", "") for text in text_of(node, {})]
    return "\n".join(found)


MESSAGES = {message.place: message for message in read_messages()}


def test_the_messages_were_read() -> None:
    assert len(MESSAGES) > 140
    assert {message.error for message in MESSAGES.values()} == ERRORS - {"InputAwareError", "UsageError"} | {
        message.error for message in MESSAGES.values() if message.error == "InputAwareError"
    }


@pytest.mark.parametrize("place", MESSAGES)
def test_a_message_says_what_was_expected_and_found_and_a_test_asks_for_it(place: str) -> None:
    text = MESSAGES[place].text
    pieces = [piece for piece in re.split(f"[{GAP};:,()]", text) if len(piece.strip(" .'")) > 3]
    if re.fullmatch(rf"[\w {GAP}]+: {GAP}", text):
        return  # another error's message, with its place before it
    if pieces:
        assert "expected" in text, text
        assert "found" in text or text.endswith(GAP), text
    for piece in pieces:
        assert piece.strip().replace("\\", "") in asserted(), f"no test asks for {piece!r}"
