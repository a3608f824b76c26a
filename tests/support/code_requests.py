"""Valid requests about one-time codes, with what has to be there for them."""

from collections.abc import Awaitable, Callable, Mapping

from google.protobuf.message import Message

from authsvc.core.lib.sealing import Keyring
from authsvc.core.messages.outbox import MessageKind, unseal
from authsvc.v1 import account_service_pb2 as account_pb
from authsvc.v1 import auth_service_pb2 as auth_pb
from authsvc.v1.common_pb2 import DELIVERY_SEND, ClientContext, Tokens
from tests.support.accounts import EMAIL
from tests.support.codes import NEW_EMAIL, NEW_PASSWORD
from tests.support.passkeys import bearer
from tests.support.service import Service

CLIENT = ClientContext(ip="192.0.2.1", user_agent="Browser/1", device_id="phone")


async def sent(service: Service, kind: MessageKind) -> str:
    """Return the code of the newest message of a kind that waits to be delivered."""
    rows = await service.fetch(
        "SELECT * FROM outbox WHERE kind = $1 AND state = 'pending' ORDER BY message_id DESC", kind
    )
    keyring = Keyring(service.settings.secrets.keyring)
    message_id, sealed = rows[0]["message_id"], rows[0]["sealed_content"]
    return unseal(keyring, message_id, kind, None, sealed).code


async def verify_email(service: Service, _: Tokens) -> auth_pb.VerifyEmailRequest:
    """Return the verification of the registered address."""
    code = await sent(service, MessageKind.VERIFY_EMAIL)
    return auth_pb.VerifyEmailRequest(email=EMAIL, code=code, client=CLIENT)


async def log_in(service: Service, _: Tokens) -> auth_pb.LoginWithCodeRequest:
    """Return a login by a code that was sent."""
    asked = await service.auth().RequestLoginCode(auth_pb.RequestLoginCodeRequest(email=EMAIL))
    code = await sent(service, MessageKind.LOGIN_CODE)
    return auth_pb.LoginWithCodeRequest(challenge_id=asked.challenge_id, code=code, client=CLIENT)


async def reset(service: Service, _: Tokens) -> auth_pb.ResetPasswordRequest:
    """Return a new password with the code that allows it."""
    await service.auth().RequestPasswordReset(auth_pb.RequestPasswordResetRequest(email=EMAIL))
    code = await sent(service, MessageKind.RESET_PASSWORD)
    return auth_pb.ResetPasswordRequest(
        email=EMAIL, code=code, new_password=NEW_PASSWORD, client=CLIENT
    )


async def confirm_change(service: Service, tokens: Tokens) -> account_pb.ConfirmEmailChangeRequest:
    """Return the proof of a new address."""
    await service.account().RequestEmailChange(
        account_pb.RequestEmailChangeRequest(new_email=NEW_EMAIL), metadata=bearer(tokens)
    )
    code = await sent(service, MessageKind.CHANGE_EMAIL)
    return account_pb.ConfirmEmailChangeRequest(new_email=NEW_EMAIL, code=code, client=CLIENT)


VALID: Mapping[str, Callable[[Tokens], Message]] = {
    "AuthService/ResendVerification": lambda _: auth_pb.ResendVerificationRequest(
        email=EMAIL, delivery=DELIVERY_SEND, client=CLIENT
    ),
    "AuthService/RequestLoginCode": lambda _: auth_pb.RequestLoginCodeRequest(
        email=EMAIL, delivery=DELIVERY_SEND, client=CLIENT
    ),
    "AuthService/RequestPasswordReset": lambda _: auth_pb.RequestPasswordResetRequest(
        email=EMAIL, delivery=DELIVERY_SEND, client=CLIENT
    ),
    "AccountService/RequestEmailChange": lambda _: account_pb.RequestEmailChangeRequest(
        new_email=NEW_EMAIL, delivery=DELIVERY_SEND, client=CLIENT
    ),
}
VALID_ONCE: Mapping[str, Callable[[Service, Tokens], Awaitable[Message]]] = {
    "AuthService/VerifyEmail": verify_email,
    "AuthService/LoginWithCode": log_in,
    "AuthService/ResetPassword": reset,
    "AccountService/ConfirmEmailChange": confirm_change,
}
# These note each attempt, refused or not.
NOTING = {
    "/authsvc.v1.AuthService/VerifyEmail",
    "/authsvc.v1.AuthService/LoginWithCode",
    "/authsvc.v1.AuthService/ResetPassword",
    "/authsvc.v1.AccountService/ConfirmEmailChange",
}
