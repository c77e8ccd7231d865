"""JSON that strangers wrote: refused where it nests too deeply, before a parser follows it.

Python's parser recurses until the interpreter's stack is used up. That ends in a RecursionError not
only there: whatever else happens to run at that depth, such as the finalizers of unrelated garbage,
fails as well, out of everybody's reach.

Like errors.py, this module imports nothing of ours, so that every part may import it.
"""

from __future__ import annotations

import json
import re
from itertools import accumulate
from typing import Any

MAX_DEPTH = 100  # of lists and objects in one another
TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep"

_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_OTHERS = bytes(set(range(256)) - set(b'"[{]}'))
# Strings first, so that the brackets in them are no matches of their own.
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|([\[{])|[\]}]', re.DOTALL)


def parse_json(text: str | bytes, **hooks: Any) -> Any:  # noqa: ANN401
    """The value that a JSON text, or its UTF-8 bytes, stands for.

    Args:
        text: the text.
        hooks: of `json.loads`.

    Raises:
        ValueError: it is not JSON or not UTF-8, or nests too deeply.
    """
    text = text if isinstance(text, str) else text.decode("utf-8-sig")
    shallow = shallow_length(text)
    if shallow < len(text):
        raise json.JSONDecodeError(TOO_DEEP, text, shallow)
    return json.loads(text, **hooks)


def shallow_length(text: str) -> int:
    """Where the first bracket stands that goes beyond MAX_DEPTH; the length if there is none.

    That holds for what of the text is JSON: a parser stops where it no longer is.
    """
    if text.count("[") + text.count("{") <= MAX_DEPTH or _depth(text) <= MAX_DEPTH:
        return len(text)
    depth = 0
    for token in _TOKEN.finditer(text):
        if token[1]:
            depth += 1
            if depth > MAX_DEPTH:
                return token.start()
        elif token[0] in "]}":
            depth -= 1
    return len(text)


def _depth(text: str) -> int:
    """Levels of brackets outside of strings, without a step in Python for each."""
    data = text.encode("utf-8", "surrogatepass")
    data = data.replace(rb"\\", b"").replace(rb"\"", b"")  # what is left of quotes begins or ends
    outside = b"".join(data.translate(None, _OTHERS).split(b'"')[::2])
    return max(accumulate(memoryview(outside.translate(_STEPS)).cast("b")), default=0)
