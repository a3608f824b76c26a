"""Owns the handler of AccountService, composed of its topics."""

from authsvc.rpc.account.accounts import AccountRpcs
from authsvc.rpc.account.api_keys import ApiKeyRpcs
from authsvc.rpc.account.email_change import EmailChangeRpcs
from authsvc.rpc.account.factors import FactorRpcs
from authsvc.rpc.account.federation import IdentityRpcs
from authsvc.rpc.account.own_data import DataRpcs
from authsvc.rpc.account.passkeys import PasskeyRegistrationRpcs
from authsvc.rpc.account.password_change import PasswordRpcs
from authsvc.v1 import account_service_pb2_grpc as rpc


class AccountHandler(
    AccountRpcs,
    PasswordRpcs,
    EmailChangeRpcs,
    FactorRpcs,
    PasskeyRegistrationRpcs,
    IdentityRpcs,
    ApiKeyRpcs,
    DataRpcs,
    rpc.AccountServiceServicer,
):
    """Users' own accounts, accessed with the user's access token."""
