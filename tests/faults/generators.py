"""What is fed in: whole files with a defect, bytes damaged at random, JSON with something else in a place."""

import copy
import json

from hypothesis import strategies as st

# Text as people and broken programs write it: marks of CSV, JSON and HTML, line ends, no Unicode at all.
WORDS = st.text(st.characters(codec="utf8"), max_size=12) | st.sampled_from(
    ["", " ", '"', ",", "\t", "a\nb", "\r", "<script>", "{{ x }}", "../x", "﻿", "\u2028", "0", "nan", "é", "🙂"]
)
SENTENCES = st.lists(st.sampled_from("the cat sleeps A dog barks not at all".split()), min_size=2, max_size=8).map(
    " ".join
)
NUMBERS = st.integers() | st.floats() | st.sampled_from([0, -1, 2**31, 2**63, 10**30, -0.0])
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def damaged(draw, whole: bytes) -> bytes:
    """Bytes of a whole file, damaged at one to four places."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 40)))
        how = draw(st.sampled_from(["cut off", "remove", "overwrite", "insert", "repeat"]))
        if how == "cut off":
            del data[start:]
        elif how == "remove":
            del data[start:end]
        elif how == "overwrite":
            data[start:end] = draw(st.binary(min_size=end - start, max_size=end - start))
        elif how == "insert":
            data[start:start] = draw(st.binary(max_size=12) | st.sampled_from([b"\n", b'"', b"\t", b"\0", b"\xff\xfe"]))
        else:
            data[start:start] = data[start:end]
    return bytes(data)


def places(value, at=()):
    """Yield the way to each part of a JSON value."""
    yield at
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*at, key))


@st.composite
def changed(draw, value):
    """A JSON value with something else, or nothing, in one of its places."""
    value = copy.deepcopy(value)
    way = draw(st.sampled_from(list(places(value))))
    new = draw(ANYTHING)
    if not way:
        return new
    inside = value
    for key in way[:-1]:
        inside = inside[key]
    if draw(st.integers(0, 3)) == 0:
        del inside[way[-1]]
    else:
        inside[way[-1]] = new
    return value


def as_json(value) -> bytes:
    """Return a value as JSON, in the form that also holds what is no number and no Unicode."""
    return json.dumps(value).encode()


def json_file(whole) -> st.SearchStrategy[bytes]:
    """A JSON file with a defect: of its structure, or of its bytes."""
    return changed(whole).map(as_json) | damaged(as_json(whole))


@st.composite
def json_lines(draw, rows: list) -> bytes:
    """A JSON-lines file with one changed row, or damaged bytes."""
    if draw(st.booleans()):
        return draw(damaged(b"\n".join(map(as_json, rows)) + b"\n"))
    rows = list(rows)
    place = draw(st.integers(0, len(rows) - 1))
    rows[place] = draw(changed(rows[place]))
    return b"\n".join(map(as_json, rows)) + b"\n"
