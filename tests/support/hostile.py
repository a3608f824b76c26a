"""Values and messages that break careless services."""

import random
from collections.abc import Iterator

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from tests.support import wire

NOBODY = "00000000-0000-7000-8000-00000000000a"

TEXTS = {
    "nothing": "",
    "NUL": "\0",
    "NUL within": "a\0b",
    "space": " ",
    "line breaks": "a\r\nx-request-id: b",
    "controls": "\x01\x1b[31m\x7f\x85",
    "right to left": "\u202euser\u202c",
    "emoji": "👩🏽\u200d🚀" * 20,
    "combining": "a" + "\u0301" * 200,
    "noncharacter": "\ufffe\uffff\U0010ffff",
    "grows under NFKC": "\ufdfa" * 300,
    "Turkish": "\u0130\u0131\u017fK",
    "SQL": "'; DROP TABLE users; --",
    "SQL in a number": "1) OR (1=1",
    "LIKE": "%",
    "format": "%s%n{0}{self.__class__}${jndi:ldap://x}",
    "escapes": "\\x00\\u0000\\",
    "JSON": '{"$gt": "", "__proto__": []}',
    "path": "../../../../etc/passwd",
    "template": "{{7*7}}<script>alert(1)</script>",
    "number": "1e309",
    "NaN": "NaN",
    "null": "null",
    "array": "{NULL}",
    "no mail: at sign": "@",
    "no mail: two": "a@b@example.test",
    "no mail: line": "ada@example.test\n",
    "no mail: dots": "a..b@example.test",
    "no mail: literal": "a@[127.0.0.1]",
    "no mail: quoted": '"a b"@example.test',
    "no mail: domain": "a@" + "b" * 64 + ".test",
    "mail of 255 bytes": "a" * 64 + "@" + ("b" * 61 + ".") * 3 + "test",
    "mail in Unicode": "ädä@exämple.test",
    "mail with hidden at sign": "a\ufe6bb@example.test",
    "UUID of nobody": NOBODY,
    "UUID in upper case": NOBODY.upper(),
    "UUID in braces": "{" + NOBODY + "}",
    "UUID without hyphens": NOBODY.replace("-", ""),
    "UUID with line break": NOBODY + "\n",
    "UUID in other digits": NOBODY.replace("0", "\u0660"),
    "address of a network": "192.0.2.1/24",
    "address with zone": "fe80::1%eth0",
    "address in octal": "0300.0.2.1",
    "address in short": "127.1",
    "address mapped": "::ffff:192.0.2.1",
    "policy of nobody": "no-such-policy",
    "policy of the service": "authsvc.login.account",
    "unsigned token": "eyJ0eXAiOiJhdCtqd3QiLCJhbGciOiJub25lIiwia2lkIjoiIn0.e30.",
    "token with deep JSON": "W1tb" * 1_500 + ".e30.e30",  # [[[[[[
    "257 bytes": "x" * 257,
    "1 KiB and more": "é" * 513,
    "9 KiB": "x" * 9_216,
    "almost too much": "x" * 60_000,
    "too much": "x" * 70_000,
    "1 MB": "x" * 1_000_000,
}
NOT_UTF8 = {
    "no UTF-8": b"\xff\xfe",
    "half a surrogate pair": b"\xed\xa0\x80",
    "overlong": b"\xc0\xaf",
    "overlong NUL": b"\xc0\x80",
    "cut off": b"\xe2\x82",
    "beyond Unicode": b"\xf4\x90\x80\x80",
}
INTEGERS = (0, 1, -1, 2, 16, 1_000, 1_001, 1_000_000, 1_000_001, 2**31 - 1, 2**31, -(2**31))
HUGE = (2**32, 2**63 - 1, -(2**63), 2**64 - 1)

_OF_A_LENGTH = {
    FieldDescriptor.TYPE_STRING,
    FieldDescriptor.TYPE_BYTES,
    FieldDescriptor.TYPE_MESSAGE,
}


def values(field: FieldDescriptor, texts: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    """Yield names and encodings of values for a field, alone or 1001 times."""
    ones = dict(_ones(field, texts))
    yield from ones.items()
    yield "absent", b""
    number = field.number
    if field.type in _OF_A_LENGTH:
        yield "another type", wire.integer(number, 2**63)
        yield "longer than the message", wire.tag(number, wire.LENGTH) + wire.varint(1_000) + b"x"
        yield "longer than anything", wire.tag(number, wire.LENGTH) + wire.varint(-1) + b"x"
    else:
        yield "another type", wire.content(number, b"\xff" * 9)
        yield "number that doesn't end", wire.tag(number, wire.VARINT) + b"\xff" * 11
    yield "a group", wire.groups(number, 1)
    if field.is_repeated:
        sample = ones.get("policy of nobody", wire.content(number, b""))
        for count in (17, 65, 1_000, 1_001):
            yield f"{count} times", sample * count


def _ones(field: FieldDescriptor, texts: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    number = field.number
    match field.type:
        case FieldDescriptor.TYPE_STRING | FieldDescriptor.TYPE_BYTES:
            contents = {name: text.encode() for name, text in (TEXTS | texts).items()} | NOT_UTF8
            for name, raw in contents.items():
                yield name, wire.content(number, raw)
        case FieldDescriptor.TYPE_MESSAGE:
            yield "empty", wire.content(number, b"")
            yield "garbage", wire.content(number, b"\xff\xff\xff")
            yield "unknown field", wire.content(number, wire.integer(999, 1))
            yield "deep", wire.content(number, wire.groups(999, 5_000))
        case (
            FieldDescriptor.TYPE_INT32
            | FieldDescriptor.TYPE_INT64
            | FieldDescriptor.TYPE_BOOL
            | FieldDescriptor.TYPE_ENUM
        ):
            for value in (*INTEGERS, *HUGE):
                yield str(value), wire.integer(number, value)
        case kind:
            raise AssertionError(
                f"say what is hostile in a field of type {kind}: {field.full_name}"
            )


def messages(valid: Message, seed: str, max_bytes: int) -> Iterator[tuple[str, bytes]]:
    """Yield names and bytes of whole messages; `max_bytes` is the size of the largest accepted."""
    raw, source = valid.SerializeToString(), random.Random(seed)
    yield "nothing", b""
    yield "twice", raw * 2
    unknown = {
        "number": wire.integer(99, -1),
        "text": wire.content(99, b"\xff" * 50),
        "eight bytes": wire.tag(99, wire.FIXED64) + bytes(8),
        "four bytes": wire.tag(99, wire.FIXED32) + bytes(4),
        "group": wire.groups(99, 1),
        "last number": wire.integer(2**29 - 1, 1),
        "number zero": wire.integer(0, 1),
        "number beyond the last": wire.integer(2**29, 1),
        "type 6": wire.tag(99, 6),
        "type 7": wire.tag(99, 7),
        "open group": wire.tag(99, wire.START_GROUP),
        "closed group": wire.tag(99, wire.END_GROUP),
        "deep groups": wire.groups(99, 10_000),
        "many": wire.integer(99, 1) * 20_000,
        "large": wire.content(99, bytes(60_000)),
        "as large as can be": wire.content(99, bytes(max_bytes - len(raw) - 10)),
        "too large": wire.content(99, bytes(max_bytes)),
        "far too large": wire.content(99, bytes(3_000_000)),
    }
    for name, field in unknown.items():
        yield f"unknown field: {name}", raw + field
    for n in range(25):
        yield f"random {n}", source.randbytes(source.randint(1, 200))
    for n in range(25 if raw else 0):
        yield f"cut {n}", raw[: source.randrange(len(raw))]
        flipped = bytearray(raw)
        flipped[source.randrange(len(raw))] ^= 1 << source.randrange(8)
        yield f"flipped {n}", bytes(flipped)
