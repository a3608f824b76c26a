"""Owns the chapter about messages to users: where they arrive, and what their codes do."""

import asyncio
import re
import secrets
from pathlib import Path

from authsvc.cli.demo.tour import Tour, new_email
from authsvc.cli.output import fail
from authsvc.v1 import auth_service_pb2

_TIMEOUT = 10.0


async def messages(tour: Tour) -> None:
    """Show how codes reach the user and nobody else."""
    email, password = new_email("grace"), f"Compiler-A0-{secrets.token_hex(4)}"

    tour.title("A new user gets a message, here in a folder instead of by e-mail")
    registered = await tour.register(email, password, "Grace")
    mail = await _wait_for_message(tour, email, "verify_email")
    tour.say("file", mail.name)
    tour.say("subject", _subject(mail))
    verification = auth_service_pb2.VerifyEmailRequest(
        email=email,
        code=_code(mail),
        client=tour.client,
        registration_token=registered.registration_token,
    )
    await tour.auth().VerifyEmail(verification)
    tour.say("the code in it", "verified the address")
    await tour.rejected("the same code again", tour.auth().VerifyEmail(verification))

    tour.title("A login code goes to the address as it is stored")
    request = auth_service_pb2.RequestLoginCodeRequest(email=email.upper(), client=tour.client)
    asked = await tour.auth().RequestLoginCode(request)
    mail = await _wait_for_message(tour, email, "login_code")
    tour.say("requested for", email.upper())
    tour.say("sent to", _address(mail))
    outcome = await tour.auth().LoginWithCode(
        auth_service_pb2.LoginWithCodeRequest(
            challenge_id=asked.challenge_id, code=_code(mail), client=tour.client
        )
    )
    tour.say("session", outcome.tokens.session_id)

    tour.title("For an unknown address the answer is the same, and nothing is sent")
    nobody = new_email("nobody")
    await tour.auth().RequestLoginCode(
        auth_service_pb2.RequestLoginCodeRequest(email=nobody, client=tour.client)
    )
    tour.say("messages to it", len(_files(tour, nobody, "*")))


async def _wait_for_message(tour: Tour, email: str, kind: str) -> Path:
    """Wait for a message of this kind to this address and return it."""
    try:
        async with asyncio.timeout(_TIMEOUT):
            while not (files := _files(tour, email, kind)):  # noqa: ASYNC110 - a folder has no event
                await asyncio.sleep(0.05)
    except TimeoutError:
        fail(
            f"no message arrived in {tour.messages}; the settings in the state folder need:"
            f' [delivery] channel = "folder", folder = "{tour.messages}"'
        )
    return files[-1]


def _files(tour: Tour, email: str, kind: str) -> list[Path]:
    return sorted(tour.messages.glob(f"*-{kind}-{email.replace('@', '_at_')}-*.txt"))


def _subject(mail: Path) -> str:
    return _search(r"^Subject: (.*)$", mail)


def _address(mail: Path) -> str:
    return _search(r"^To: (.*)$", mail)


def _code(mail: Path) -> str:
    return _search(r"^ {4}(\S+)\s*$", mail)


def _search(pattern: str, mail: Path) -> str:
    match = re.search(pattern, mail.read_text(encoding="utf-8"), re.MULTILINE)
    return match[1] if match else fail(f"{mail} does not match {pattern}")
