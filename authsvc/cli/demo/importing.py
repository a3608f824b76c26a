"""Owns the chapter about importing users from another system with their passwords."""

import hashlib
import json
import os
from base64 import b64encode
from collections.abc import AsyncIterator

import bcrypt

from authsvc.cli.demo.tour import Tour, new_email
from authsvc.v1.admin_service_pb2 import ImportUsersRequest, ImportUsersResponse

# From the old system, which accepted passwords that authsvc would not.
_PASSWORD = "rosebud"  # noqa: S105 - only for the demo


async def importing(tour: Tour) -> None:
    """Show how users are imported from another system and log in as before."""
    tour.title("Users are imported from another system with their password hashes")
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
        tour.answer(f"line {failure.line}, {failure.field}", failure.description, accepted=False)
    answer = await _send(tour, file)
    tour.say("the same file again", f"{answer.skipped_count} skipped: they already have accounts")

    tour.title("They log in as before, and their passwords are rehashed")
    await tour.rejected("with a wrong password", tour.login(emails["scrypt"], "rosebuds"))
    for name, email in emails.items():
        tokens = (await tour.login(email, _PASSWORD)).tokens
        tour.say(f"the user with a {name} hash, session", tokens.session_id)


async def _send(tour: Tour, file: bytes) -> ImportUsersResponse:
    async def parts() -> AsyncIterator[ImportUsersRequest]:
        for at in range(0, len(file), 100):
            yield ImportUsersRequest(chunk=file[at : at + 100])

    return await tour.admin().ImportUsers(parts())


def _hashes() -> dict[str, str]:
    """Return hashes of the password as other systems store them."""
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
