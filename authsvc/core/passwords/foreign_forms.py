r"""Owns how other systems write password hashes: a text in, a hash that may be compared out.

| scheme         | form                                                                       |
|----------------|----------------------------------------------------------------------------|
| Argon2         | `$argon2id$v=19$m=…,t=…,p=…$salt$hash`, and argon2i, argon2d               |
| bcrypt         | `$2a$…`, `$2b$…`, `$2y$…` (Laravel, Symfony, Devise, Auth0, Spring, …);    |
|                | of a hash: `$wp$2y$…` (WordPress), `bcrypt_sha256$$2b$…` (Django),         |
|                | `$bcrypt-sha256$…` (passlib)                                               |
| scrypt         | `$scrypt$ln=…,r=…,p=…$salt$hash`, Django's `scrypt$n$salt$r$p$hash`,       |
|                | Werkzeug's `scrypt:n:r:p$salt$hex`, Spring's `{scrypt}$params$salt$hash`   |
| Firebase       | `$firebase-scrypt$ln=…,r=…$salt$keystream`, as built by `firebase_hash`;   |
|                | Kratos's `$firescrypt$ln=…,r=…,p=1$salt$hash$separator$key`                |
| PBKDF2         | `$pbkdf2-sha256$i=…,l=…$salt$hash`, passlib's `$pbkdf2-sha256$rounds$…`,   |
|                | Django's `pbkdf2_sha256$rounds$salt$hash`, Werkzeug's                      |
|                | `pbkdf2:sha256:rounds$salt$hex`, LDAP's `{PBKDF2-SHA256}rounds$salt$hash`, |
|                | 389 Directory Server's `{PBKDF2_SHA256}…`, Atlassian's `{PKCS5S2}…`,       |
|                | Spring's `{pbkdf2}hex`, and ASP.NET Identity's (versions 2 and 3)          |
| phpass         | `$P$…` (WordPress), `$H$…` (phpBB)                                         |
| digests        | `$digest-sha1$i=…,s=…$salt$hash`, as stored here; LDAP's `{SSHA}…`,        |
|                | `{SSHA256}…`, `{SMD5}…`, `{SHA}…`; Django's `sha1$salt$hex`; Spring's      |
|                | `{sha256}hex`, `{SHA-256}{salt}hex`, `{MD5}…`                              |

The name in braces that Spring, LDAP and Dovecot put before a form of their own is dropped.
"""

import re
import struct
from collections.abc import Callable, Mapping

from argon2.low_level import Type

from authsvc.core.passwords import foreign_hashes as hashes
from authsvc.core.passwords.foreign_hashes import FirebaseParameters, HashRefused, decoded
from authsvc.core.passwords.foreign_schemes import ForeignHash, Prehash

_MAX_TEXT = 1_024
# Older versions of Argon2 have no version in their text.
_FIRST_ARGON2_VERSION = 16
_ARGON2_KINDS = {"argon2i": Type.I, "argon2d": Type.D, "argon2id": Type.ID}
_ASPNET_ALGORITHMS = ("sha1", "sha256", "sha512")
# Of `Pbkdf2PasswordEncoder`: the algorithm, iterations and length of the salt, by its version.
_SPRING_PBKDF2 = {"": ("sha1", 185_000, 8), "@SpringSecurity_v5_8": ("sha256", 310_000, 16)}
_SPRING_DIGEST_ITERATIONS = 1_024
_SPRING_DIGEST_SALT = 8
_DIRECTORY_389_SALT = 64
_ATLASSIAN_ITERATIONS = 10_000


def parse(text: str) -> ForeignHash:
    """Return the hash that `text` encodes.

    Raises:
        HashRefused: Its format is unknown or malformed, or it costs more than is allowed.
    """
    if len(text) > _MAX_TEXT:
        raise HashRefused(f"is longer than {_MAX_TEXT} characters")
    bare = _WRAPPER.sub("", text)
    for pattern, build in _FORMS:
        if match := pattern.fullmatch(bare):
            return build(match)
    for pattern, reason in _REFUSED:
        if pattern.match(bare):
            raise HashRefused(reason)
    raise HashRefused("has an unknown format or is malformed")


def _argon2(match: re.Match[str]) -> ForeignHash:
    return hashes.argon2(
        _ARGON2_KINDS[match["kind"]],
        int(match["version"] or _FIRST_ARGON2_VERSION),
        memory=int(match["m"]),
        passes=int(match["t"]),
        lanes=int(match["p"]),
        salt=_salt(match),
        digest=_digest(match),
    )


def _bcrypt_of(prehash: Prehash) -> Callable[[re.Match[str]], ForeignHash]:
    return lambda match: hashes.bcrypt(int(match["cost"]), match["salt"], match["hash"], prehash)


def _scrypt(match: re.Match[str]) -> ForeignHash:
    named = int(match["ln"])
    # Kratos writes the cost itself under the name of its logarithm.
    n = named if named >= _LEAST_SCRYPT_COST else 1 << named
    return _scrypt_of(match, n, int(match["p"]))


def _plain_scrypt(match: re.Match[str]) -> ForeignHash:
    return _scrypt_of(match, int(match["n"]), int(match["p"]))


def _spring_scrypt(match: re.Match[str]) -> ForeignHash:
    cost = int(match["cost"], 16)
    return hashes.scrypt(
        n=1 << (cost >> 16),
        r=cost >> 8 & 255,
        p=cost & 255,
        salt=_salt(match),
        digest=_digest(match),
    )


def _scrypt_of(match: re.Match[str], n: int, p: int) -> ForeignHash:
    return hashes.scrypt(n=n, r=int(match["r"]), p=p, salt=_salt(match), digest=_digest(match))


def _firebase(match: re.Match[str]) -> ForeignHash:
    return hashes.firebase(
        ln=int(match["ln"]), r=int(match["r"]), salt=_salt(match), digest=_digest(match)
    )


def _firescrypt(match: re.Match[str]) -> ForeignHash:
    parameters = FirebaseParameters(
        signer_key=decoded(match["key"], "signer key"),
        salt_separator=decoded(match["separator"], "salt separator"),
        rounds=int(match["r"]),
        mem_cost=int(match["ln"]),
    )
    return hashes.firebase_hash(parameters, match["salt"], match["hash"])


def _pbkdf2(match: re.Match[str]) -> ForeignHash:
    digest = _digest(match)
    named = match.groupdict().get("length")
    if named is not None and int(named) != len(digest):
        raise HashRefused("does not have the length that it states")
    algorithm = (match["algorithm"] or "sha1").lower()
    return hashes.pbkdf2(algorithm, int(match["iterations"]), salt=_salt(match), digest=digest)


def _spring_pbkdf2(match: re.Match[str]) -> ForeignHash:
    algorithm, iterations, length = _SPRING_PBKDF2[match["version"] or ""]
    value = bytes.fromhex(match["hex"])
    return hashes.pbkdf2(algorithm, iterations, salt=value[:length], digest=value[length:])


def _directory_389(match: re.Match[str]) -> ForeignHash:
    value = decoded(match["value"], "hash")
    salt, digest = value[4 : 4 + _DIRECTORY_389_SALT], value[4 + _DIRECTORY_389_SALT :]
    # It derives 256 bytes. The first block is a hash of the same iterations by itself.
    return hashes.pbkdf2("sha256", int.from_bytes(value[:4]), salt=salt, digest=digest[:32])


def _atlassian(match: re.Match[str]) -> ForeignHash:
    value = decoded(match["value"], "hash")
    return hashes.pbkdf2("sha1", _ATLASSIAN_ITERATIONS, salt=value[:16], digest=value[16:])


def _aspnet(match: re.Match[str]) -> ForeignHash:
    value = decoded(match["value"], "hash")
    if value[0] == 0:
        return hashes.pbkdf2("sha1", 1_000, salt=value[1:17], digest=value[17:])
    try:
        _, algorithm, iterations, length = struct.unpack_from(">BIII", value)
        name = _ASPNET_ALGORITHMS[algorithm]
    except (struct.error, IndexError):
        raise HashRefused("has an unknown format or is malformed") from None
    return hashes.pbkdf2(
        name, iterations, salt=value[13 : 13 + length], digest=value[13 + length :]
    )


def _phpass(match: re.Match[str]) -> ForeignHash:
    return hashes.phpass(match["cost"], match["salt"], match["hash"])


def _stored_digest(match: re.Match[str]) -> ForeignHash:
    return hashes.salted_digest(
        match["algorithm"],
        decoded(match["salt"], "salt") if match["salt"] else b"",
        _digest(match),
        salt_first=match["order"] == "prefix",
        iterations=int(match["iterations"]),
    )


def _ldap(match: re.Match[str]) -> ForeignHash:
    algorithm = _algorithm(match)
    value, size = decoded(match["value"], "hash"), _DIGEST_BYTES[algorithm]
    salt = value[size:]
    if bool(salt) is not bool(match["salted"]):
        raise HashRefused("has a hash whose length is not allowed")
    return hashes.salted_digest(algorithm, salt, value[:size], salt_first=False)


def _django_digest(match: re.Match[str]) -> ForeignHash:
    digest = bytes.fromhex(match["hex"])
    return hashes.salted_digest(
        match["algorithm"], match["plain_salt"].encode(), digest, salt_first=True
    )


def _spring_digest(match: re.Match[str]) -> ForeignHash:
    algorithm = _algorithm(match)
    # The salt follows the password with its braces.
    salt, digest = (match["braced_salt"] or "").encode(), bytes.fromhex(match["hex"])
    return hashes.salted_digest(algorithm, salt, digest, salt_first=False)


def _spring_standard(match: re.Match[str]) -> ForeignHash:
    value = bytes.fromhex(match["hex"])
    return hashes.salted_digest(
        "sha256",
        value[:_SPRING_DIGEST_SALT],
        value[_SPRING_DIGEST_SALT:],
        salt_first=True,
        iterations=_SPRING_DIGEST_ITERATIONS,
    )


def _algorithm(match: re.Match[str]) -> str:
    name = match["algorithm"].lower().replace("-", "")
    return "sha1" if name == "sha" else name


def _salt(match: re.Match[str]) -> bytes:
    if (plain := match.groupdict().get("plain_salt")) is not None:
        return plain.encode()
    # passlib writes a dot instead of the plus.
    return decoded(match["salt"].replace(".", "+"), "salt")


def _digest(match: re.Match[str]) -> bytes:
    if (digits := match.groupdict().get("hex")) is not None:
        return bytes.fromhex(digits)
    return decoded(match["hash"].replace(".", "+"), "hash")


_LEAST_SCRYPT_COST = 1_024
_DIGEST_BYTES = {"md5": 16, "sha1": 20, "sha224": 28, "sha256": 32, "sha384": 48, "sha512": 64}

_NUMBER = "[1-9][0-9]{0,9}"
_EXPONENT = "[1-9][0-9]?"
_BASE64 = r"\$(?P<salt>[A-Za-z0-9+/.]+={0,2})\$(?P<hash>[A-Za-z0-9+/.]+={0,2})"
_PLAIN_SALT = r"\$(?P<plain_salt>[!-\#%-~]{8,128})"
_PADDED = r"\$(?P<hash>[A-Za-z0-9+/]+={0,2})"
_VALUE = "(?P<value>[A-Za-z0-9+/]+={0,2})"
# Whole bytes, at least the shortest digest.
_HEX = "(?P<hex>(?:[0-9a-fA-F]{2}){16,136})"
_BCRYPT = r"""\$2[aby] \$(?P<cost>0[4-9]|[12][0-9]|3[01])
    \$(?P<salt>[./A-Za-z0-9]{22}) (?P<hash>[./A-Za-z0-9]{31})"""
_BCRYPT_PARTS = r"\$(?P<salt>[./A-Za-z0-9]{22}) \$(?P<hash>[./A-Za-z0-9]{31})"
_DIGESTS = "(?P<algorithm>md5|sha1|sha224|sha256|sha384|sha512)"

_WRAPPER = re.compile(
    r"""\A(?: argon2(?=\$argon2) | bcrypt\$(?=\$2)
        | \{ (?: argon2(?:id|i|d)? (?:@SpringSecurity_\w+)? | bcrypt | crypt | blf-crypt
            | scrypt (?:@SpringSecurity_\w+)? | ldap | pbkdf2 ) \} (?=[\{$]) )""",
    re.ASCII | re.VERBOSE | re.IGNORECASE,
)
_PATTERNS: Mapping[str, Callable[[re.Match[str]], ForeignHash]] = {
    rf"""\$(?P<kind>argon2(?:id|i|d)) (?:\$v=(?P<version>16|19))?
        \$m=(?P<m>{_NUMBER}),t=(?P<t>{_NUMBER}),p=(?P<p>{_NUMBER}) {_BASE64}""": _argon2,
    _BCRYPT: _bcrypt_of(Prehash.NONE),
    rf"\$wp{_BCRYPT}": _bcrypt_of(Prehash.WORDPRESS),
    rf"bcrypt_sha256\${_BCRYPT}": _bcrypt_of(Prehash.DJANGO),
    rf"""\$bcrypt-sha256\$(?:v=1,t=)?2[ab],(?:r=)?(?P<cost>0?[4-9]|[12][0-9]|3[01])
        {_BCRYPT_PARTS}""": _bcrypt_of(Prehash.PASSLIB_1),
    rf"""\$bcrypt-sha256\$v=2,t=2[ab],r=(?P<cost>[4-9]|[12][0-9]|3[01])
        {_BCRYPT_PARTS}""": _bcrypt_of(Prehash.PASSLIB_2),
    rf"""\$scrypt \$ln=(?P<ln>{_NUMBER}),r=(?P<r>{_NUMBER}),p=(?P<p>{_NUMBER})
        {_BASE64}""": _scrypt,
    rf"""scrypt \$(?P<n>{_NUMBER}) {_PLAIN_SALT} \$(?P<r>{_NUMBER}) \$(?P<p>{_NUMBER})
        {_PADDED}""": _plain_scrypt,
    rf"""scrypt :(?P<n>{_NUMBER}) :(?P<r>{_NUMBER}) :(?P<p>{_NUMBER})
        {_PLAIN_SALT} \${_HEX}""": _plain_scrypt,
    rf"\$(?P<cost>[1-9a-f][0-9a-f]{{4,5}}) {_BASE64}": _spring_scrypt,
    rf"\$firebase-scrypt \$ln=(?P<ln>{_EXPONENT}),r=(?P<r>{_NUMBER}) {_BASE64}": _firebase,
    rf"""\$firescrypt \$ln=(?P<ln>{_EXPONENT}),r=(?P<r>{_NUMBER}),p=1 {_BASE64}
        \$(?P<separator>[A-Za-z0-9+/]+={{0,2}})\$(?P<key>[A-Za-z0-9+/]+={{0,2}})""": _firescrypt,
    rf"""\$pbkdf2(?:-(?P<algorithm>sha1|sha224|sha256|sha384|sha512))?
        \$(?:i=(?P<iterations>{_NUMBER})(?:,l=(?P<length>{_NUMBER}))?) {_BASE64}""": _pbkdf2,
    rf"""\$pbkdf2(?:-(?P<algorithm>sha256|sha512))?
        \$(?P<iterations>{_NUMBER}) {_BASE64}""": _pbkdf2,
    rf"""pbkdf2_(?P<algorithm>sha1|sha256|sha512)
        \$(?P<iterations>{_NUMBER}) {_PLAIN_SALT} {_PADDED}""": _pbkdf2,
    rf"""pbkdf2:(?P<algorithm>sha1|sha224|sha256|sha384|sha512)
        :(?P<iterations>{_NUMBER}) {_PLAIN_SALT} \${_HEX}""": _pbkdf2,
    rf"""\{{(?i:pbkdf2)(?:-(?P<algorithm>(?i:sha1|sha256|sha512)))?\}}
        (?P<iterations>{_NUMBER}) {_BASE64}""": _pbkdf2,
    rf"\{{PBKDF2_SHA256\}}{_VALUE}": _directory_389,
    rf"\{{PKCS5S2\}}{_VALUE}": _atlassian,
    rf"\{{pbkdf2(?P<version>@SpringSecurity_v5_8)?(?:@SpringSecurity_v5_5)?\}}{_HEX}": (
        _spring_pbkdf2
    ),
    # One byte of format, then for version 3 the algorithm as four.
    rf"(?=AQAAAA|A[A-P][A-Za-z0-9+/]{{64}}==\Z){_VALUE}": _aspnet,
    r"\$[PH]\$(?P<cost>[./0-9A-Za-z])(?P<salt>[!-~]{8})(?P<hash>[./0-9A-Za-z]{22})": _phpass,
    rf"""\$digest-{_DIGESTS}\$i=(?P<iterations>{_NUMBER}),s=(?P<order>prefix|suffix)
        \$(?P<salt>[A-Za-z0-9+/]*)\$(?P<hash>[A-Za-z0-9+/]+)""": _stored_digest,
    rf"""{_DIGESTS}\$(?P<plain_salt>[!-\#%-~]{{0,128}})\${_HEX}""": _django_digest,
    r"\{sha256\}(?P<hex>[0-9a-f]{80})": _spring_standard,
    rf"""\{{(?P<algorithm>(?i:md5|sha|sha-?(?:1|224|256|384|512)))\}}
        (?P<braced_salt>\{{[ -z|~]{{0,126}}\}})?{_HEX}""": _spring_digest,
    rf"""\{{(?P<salted>(?i:s)(?=(?i:sha|md5)))?
        (?P<algorithm>(?i:md5|sha|sha1|sha224|sha256|sha384|sha512))\}}{_VALUE}""": _ldap,
}
_FORMS = [
    (re.compile(pattern, re.ASCII | re.VERBOSE), build) for pattern, build in _PATTERNS.items()
]
_REFUSED = [
    (re.compile(pattern, re.ASCII), reason)
    for pattern, reason in (
        (r"\{(?i:noop|plain|cleartext|clear)\}", "is a password in plain text"),
        (r"(?:\{\w+\})?\$(?:[1567]|y|gy|md5|sha1)\$", "is a crypt(3) hash, which is not accepted"),
        (r"\$2x\$", "is made by a faulty bcrypt ($2x$), which is not accepted"),
        (
            r"(?:[0-9a-fA-F]{2}){16,64}\Z",
            "is a bare digest: write it with its algorithm and salt, such as sha256$salt$digest",
        ),
    )
]
