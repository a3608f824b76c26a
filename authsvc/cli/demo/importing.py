"""Owns the chapter on taking users over from elsewhere, with the passwords that they have."""

import hashlib
import json
import os
from base64 import b64encode
from collections.abc import AsyncIterator

import bcrypt

from authsvc.cli.demo.tour import Tour, new_email
from authsvc.v1.admin_service_pb2 import ImportUsersRequest, ImportUsersResponse

# Of the old system, which took what authsvc would not.
_PASSWORD = "rosebud"  # noqa: S105 - the demo's own


async def importing(tour: Tour) -> None:
    """Tell how users come from another system and log in as before."""
    tour.title("Users come from another system, with their password hashes")
    emails = {name: new_email(name) for name in ("bcrypt", "scrypt", "pbkdf2")}
    hashes = _hashes()
    rows = [
        {"email": email, "email_verified": True, "password_hash": hashes[name]}
        for name, email in emails.items()
    ]
    too_costly = hashes["bcrypt"].replace("$2b$06$", "$2b$31$")
    rows.append({"email": new_email("eve"), "password_hash": too_costly})
    file = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    answer = await _send(tour, file)
    tour.say(", ".join(emails), f"{answer.imported_count} imported")
    for failure in answer.failures:
        tour.say(f"line {failure.line}, {failure.field}", failure.description, good=False)
    answer = await _send(tour, file)
    tour.say("the same file again", f"{answer.skipped_count} skipped: they are here already")

    tour.title("They log in as before, and are hashed anew by that")
    await tour.refused("with a wrong password", tour.login(emails["scrypt"], "rosebuds"))
    for name, email in emails.items():
        tokens = (await tour.login(email, _PASSWORD)).tokens
        tour.say(f"the one with {name}, session", tokens.session_id)


async def _send(tour: Tour, file: bytes) -> ImportUsersResponse:
    async def parts() -> AsyncIterator[ImportUsersRequest]:
        for at in range(0, len(file), 100):
            yield ImportUsersRequest(chunk=file[at : at + 100])

    return await tour.admin().ImportUsers(parts())


def _hashes() -> dict[str, str]:
    """Return the password's hashes as other systems keep them."""
    password, salt = _PASSWORD.encode(), os.urandom(16)
    scrypt = hashlib.scrypt(password, salt=salt, n=2**14, r=8, p=1)
    pbkdf2 = hashlib.pbkdf2_hmac("sha256", password, salt, 100_000)
    return {
        "bcrypt": bcrypt.hashpw(password, bcrypt.gensalt(6)).decode(),
        "scrypt": f"$scrypt$ln=14,r=8,p=1${_base64(salt)}${_base64(scrypt)}",
        "pbkdf2": f"$pbkdf2-sha256$i=100000,l=32${_base64(salt)}${_base64(pbkdf2)}",
    }


def _base64(value: bytes) -> str:
    return b64encode(value).decode().rstrip("=")
