"""Owns the chapter about login at other providers: first login, attacks, reclaiming, linking."""

import asyncio
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import aiohttp
import grpc

from authsvc.cli.demo.tour import Tour, bearer, new_email
from authsvc.cli.output import fail
from authsvc.dev.provider import READY
from authsvc.dev.workspace import REDIRECT_URI, Workspace
from authsvc.v1 import account_service_pb2, auth_service_pb2

_PROVIDER = "local"


async def oauth(tour: Tour) -> None:
    """Show how users log in at a provider, which runs during the chapter."""
    tour.title("An OpenID Connect provider runs on this machine during the chapter")
    folder = tour.messages.parent
    secret = Workspace(folder).provider_secret
    if not _exists(secret):
        tour.skip(f"{folder}/config.toml is too old to configure it")
        return
    async with _provider(secret) as problem:
        if problem or (problem := await _problem_of_service(tour)):
            tour.skip(problem)
            return
        tour.say("running", "users are who they claim to be")
        await _first_login(tour)
        await _owner(tour)
        await _link(tour)


def _exists(file: Path) -> bool:
    return file.exists()


@asynccontextmanager
async def _provider(secret: Path) -> AsyncIterator[str]:
    """Run the provider; yield why it can't run, or "" if it does."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "authsvc.dev.provider", str(secret)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdin and process.stdout and process.stderr  # noqa: PT018, S101 - all are pipes
    try:
        line = (await process.stdout.readline()).decode().strip()
        yield "" if line == READY else (await process.stderr.read()).decode().strip()
    finally:
        process.stdin.close()
        await process.wait()


async def _problem_of_service(tour: Tour) -> str:
    """Return why the service doesn't work with the provider, or "" if it does."""
    try:
        await _begin(tour)
    except grpc.aio.AioRpcError as error:
        return f"the service says: {error.details()}"
    return ""


async def _first_login(tour: Tour) -> None:
    tour.title("Mary logs in there for the first time")
    email = new_email("mary")
    back = await _log_in_at_provider(tour, email, "Mary")
    answer = await tour.auth().CompleteOAuth(back)
    tour.say("session", answer.tokens.session_id)
    tour.say("an account was created", answer.new_user)
    again = await tour.auth().CompleteOAuth(await _log_in_at_provider(tour, email, "Mary"))
    tour.say("the next login gets the same one", again.tokens.user_id == answer.tokens.user_id)
    await tour.rejected("the same state and code again", tour.auth().CompleteOAuth(back))
    forged = await _log_in_at_provider(tour, email, "Mary")
    forged.code = "guessed"
    await tour.rejected("a made-up code", tour.auth().CompleteOAuth(forged))
    await tour.rejected("a redirect to another page", _begin(tour, redirect_uri=f"{REDIRECT_URI}/"))


async def _owner(tour: Tour) -> None:
    tour.title("Somebody registers an account with Rosa's address before she does")
    email, password = new_email("rosa"), f"Waiting-For-Rosa-{secrets.token_hex(4)}"
    waiting = (await tour.register(email, password)).user_id
    tour.say("registered, never verified", waiting)
    answer = await tour.auth().CompleteOAuth(await _log_in_at_provider(tour, email, "Rosa"))
    tour.say("Rosa logs in and gets the account", answer.tokens.user_id == waiting)
    await tour.rejected("the password it was registered with", tour.login(email, password))
    back = await _log_in_at_provider(tour, email, "Rosa", subject="somebody else")
    await tour.rejected("her address with another subject", tour.auth().CompleteOAuth(back))


async def _link(tour: Tour) -> None:
    tour.title("Ada links an identity to her account, and unlinks it")
    tokens = await tour.tokens()
    work = new_email("ada.at.work")
    back = await _log_in_at_provider(tour, work, "Ada", link=tokens.access_token)
    linked = await tour.auth().CompleteOAuth(back)
    tour.say("logged in to her account", linked.tokens.user_id == tokens.user_id)
    metadata = bearer(tokens)
    listed = await tour.account().ListIdentities(
        account_service_pb2.ListIdentitiesRequest(), metadata=metadata
    )
    for identity in listed.identities:
        tour.say(f"at {identity.provider}", f"{identity.subject} {identity.email}")
        request = account_service_pb2.UnlinkIdentityRequest(
            provider=identity.provider, subject=identity.subject
        )
        await tour.account().UnlinkIdentity(request, metadata=metadata)
    tour.say("unlinked, with an e-mail about both changes", len(listed.identities))


async def _begin(
    tour: Tour, link: str = "", redirect_uri: str = REDIRECT_URI
) -> auth_service_pb2.BeginOAuthResponse:
    return await tour.auth().BeginOAuth(
        auth_service_pb2.BeginOAuthRequest(
            provider=_PROVIDER,
            redirect_uri=redirect_uri,
            client=tour.client,
            link_access_token=link,
        )
    )


async def _log_in_at_provider(
    tour: Tour, email: str, name: str, *, subject: str = "", link: str = ""
) -> auth_service_pb2.CompleteOAuthRequest:
    """Log in on the provider's page like a browser, and return the request that completes it."""
    begun = await _begin(tour, link)
    form = {"email": email, "name": name, "subject": subject}
    async with (
        aiohttp.ClientSession() as browser,
        browser.post(begun.authorization_url, data=form, allow_redirects=False) as response,
    ):
        back = parse_qs(urlsplit(response.headers["Location"]).query)
    if back["state"] != [begun.state]:
        fail("the provider returned another state")
    return auth_service_pb2.CompleteOAuthRequest(
        state=begun.state, code=back["code"][0], iss=back["iss"][0], client=tour.client
    )
