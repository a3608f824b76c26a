"""Owns the handler of AuthService, composed of its topics."""

from authsvc.rpc.auth.accounts import RegistrationRpcs
from authsvc.rpc.auth.api_keys import KeyRpcs
from authsvc.rpc.auth.codes import CodeRpcs
from authsvc.rpc.auth.factors import MfaRpcs
from authsvc.rpc.auth.federation import OAuthRpcs
from authsvc.rpc.auth.login import PasswordLoginRpcs
from authsvc.rpc.auth.passkeys import PasskeyRpcs
from authsvc.rpc.auth.sessions import SessionRpcs
from authsvc.rpc.auth.tokens import TokenRpcs
from authsvc.v1 import auth_service_pb2_grpc as rpc


class AuthHandler(
    RegistrationRpcs,
    PasswordLoginRpcs,
    CodeRpcs,
    PasskeyRpcs,
    OAuthRpcs,
    MfaRpcs,
    SessionRpcs,
    TokenRpcs,
    KeyRpcs,
    rpc.AuthServiceServicer,
):
    """Logins, and the issue and validation of tokens."""
