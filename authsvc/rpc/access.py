"""Owns the access table: who may call each RPC, and how the interceptor treats the call.

An RPC without a row here is rejected for every caller.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from authsvc.models.calls import Role


@dataclass(frozen=True, slots=True)
class Access:
    """What the interceptor needs to know about an RPC.

    A caller needs any one of `roles`, or, with `any_certificate`, just a certificate signed by our
    authority. A `bearer` RPC requires an access token of the user it acts for. It refuses that of
    an impersonated session unless it is marked `impersonated`: such an RPC doesn't change how the
    user logs in, and doesn't export or delete the account. A `read_only` RPC changes nothing, so
    its success is logged at debug level only. The request of a `batch` RPC may have up to
    `max_batch_message_bytes`. A `long_lived` stream has no time limit once its request has been
    read; its handler limits the number of streams, and how long one may be idle. An
    `endless` one would never end by itself, so it is ended as soon as the service stops. A
    `screened` RPC is refused if its user's address is blocked.
    """

    roles: frozenset[Role] = frozenset()
    any_certificate: bool = False
    bearer: bool = False
    impersonated: bool = False
    read_only: bool = False
    batch: bool = False
    long_lived: bool = False
    endless: bool = False
    screened: bool = False


_APP = frozenset({Role.APP})
_ADMIN = frozenset({Role.ADMIN})
_ISSUER = frozenset({Role.ISSUER})
_OBSERVER = frozenset({Role.OBSERVER})
_APP_OR_EDGE = frozenset({Role.APP, Role.EDGE})
_ADMIN_OR_OBSERVER = frozenset({Role.ADMIN, Role.OBSERVER})
_ANY_ROLE = frozenset(Role)

ACCESS: Mapping[str, Access] = MappingProxyType(
    {
        "/authsvc.v1.AuthService/Register": Access(_APP, screened=True),
        "/authsvc.v1.AuthService/Login": Access(_APP, screened=True),
        "/authsvc.v1.AuthService/RefreshTokens": Access(_APP),
        "/authsvc.v1.AuthService/Logout": Access(_APP),
        "/authsvc.v1.AuthService/ValidateToken": Access(_APP_OR_EDGE, read_only=True),
        "/authsvc.v1.AuthService/BatchValidateTokens": Access(
            _APP_OR_EDGE, read_only=True, batch=True
        ),
        "/authsvc.v1.AuthService/VerifyEmail": Access(_APP, screened=True),
        "/authsvc.v1.AuthService/ResendVerification": Access(_APP, screened=True),
        "/authsvc.v1.AuthService/VerifyMfa": Access(_APP, screened=True),
        "/authsvc.v1.AuthService/RequestLoginCode": Access(_APP, screened=True),
        "/authsvc.v1.AuthService/LoginWithCode": Access(_APP, screened=True),
        "/authsvc.v1.AuthService/BeginPasskeyLogin": Access(_APP, screened=True),
        "/authsvc.v1.AuthService/LoginWithPasskey": Access(_APP, screened=True),
        "/authsvc.v1.AuthService/BeginOAuth": Access(_APP, screened=True),
        "/authsvc.v1.AuthService/CompleteOAuth": Access(_APP, screened=True),
        "/authsvc.v1.AuthService/RequestPasswordReset": Access(_APP, screened=True),
        "/authsvc.v1.AuthService/ResetPassword": Access(_APP, screened=True),
        "/authsvc.v1.AuthService/ExchangeToken": Access(_APP),
        "/authsvc.v1.AuthService/IssueServiceToken": Access(_ANY_ROLE),
        "/authsvc.v1.AuthService/ValidateApiKey": Access(_APP_OR_EDGE, read_only=True),
        "/authsvc.v1.AuthService/GetJwks": Access(_ANY_ROLE, read_only=True),
        "/authsvc.v1.AccountService/GetAccount": Access(
            _APP, bearer=True, impersonated=True, read_only=True
        ),
        "/authsvc.v1.AccountService/UpdateAccount": Access(_APP, bearer=True, impersonated=True),
        "/authsvc.v1.AccountService/ChangePassword": Access(_APP, bearer=True),
        "/authsvc.v1.AccountService/RequestEmailChange": Access(_APP, bearer=True),
        "/authsvc.v1.AccountService/ConfirmEmailChange": Access(_APP, bearer=True),
        "/authsvc.v1.AccountService/ListFactors": Access(
            _APP, bearer=True, impersonated=True, read_only=True
        ),
        "/authsvc.v1.AccountService/EnrollTotp": Access(_APP, bearer=True),
        "/authsvc.v1.AccountService/ConfirmTotp": Access(_APP, bearer=True),
        "/authsvc.v1.AccountService/BeginPasskeyRegistration": Access(_APP, bearer=True),
        "/authsvc.v1.AccountService/FinishPasskeyRegistration": Access(_APP, bearer=True),
        "/authsvc.v1.AccountService/RemoveFactor": Access(_APP, bearer=True),
        "/authsvc.v1.AccountService/GenerateRecoveryCodes": Access(_APP, bearer=True),
        "/authsvc.v1.AccountService/ListIdentities": Access(
            _APP, bearer=True, impersonated=True, read_only=True
        ),
        "/authsvc.v1.AccountService/UnlinkIdentity": Access(_APP, bearer=True),
        "/authsvc.v1.AccountService/CreateApiKey": Access(_APP, bearer=True),
        "/authsvc.v1.AccountService/ListApiKeys": Access(
            _APP, bearer=True, impersonated=True, read_only=True
        ),
        "/authsvc.v1.AccountService/RevokeApiKey": Access(_APP, bearer=True),
        "/authsvc.v1.AccountService/ListSecurityEvents": Access(
            _APP, bearer=True, impersonated=True, read_only=True
        ),
        "/authsvc.v1.AccountService/ExportData": Access(_APP, bearer=True, long_lived=True),
        "/authsvc.v1.AccountService/DeleteAccount": Access(_APP, bearer=True),
        "/authsvc.v1.AdminService/ImportUsers": Access(_ADMIN, long_lived=True),
        "/authsvc.v1.AdminService/BlockIp": Access(_ADMIN),
        "/authsvc.v1.AdminService/UnblockIp": Access(_ADMIN),
        "/authsvc.v1.AdminService/ListIpBlocks": Access(_ADMIN, read_only=True),
        "/authsvc.v1.AdminService/PutPolicy": Access(_ADMIN),
        "/authsvc.v1.AdminService/DeletePolicy": Access(_ADMIN),
        "/authsvc.v1.AdminService/PutPolicyOverride": Access(_ADMIN),
        "/authsvc.v1.AdminService/DeletePolicyOverride": Access(_ADMIN),
        "/authsvc.v1.AdminService/ListPolicyOverrides": Access(_ADMIN, read_only=True),
        "/authsvc.v1.AdminService/PutRole": Access(_ADMIN),
        "/authsvc.v1.AdminService/ListRoles": Access(_ADMIN, read_only=True),
        "/authsvc.v1.AdminService/DeleteRole": Access(_ADMIN),
        "/authsvc.v1.AdminService/RevokeAllSessions": Access(_ADMIN),
        "/authsvc.v1.AdminService/ImpersonateUser": Access(_ADMIN),
        "/authsvc.v1.AdminService/ListSigningKeys": Access(_ADMIN, read_only=True),
        "/authsvc.v1.AdminService/RotateSigningKey": Access(_ADMIN),
        "/authsvc.v1.AdminService/RevokeSigningKey": Access(_ADMIN),
        "/authsvc.v1.AdminService/GetUser": Access(_ADMIN, read_only=True),
        "/authsvc.v1.AdminService/ListUsers": Access(_ADMIN, read_only=True),
        "/authsvc.v1.AdminService/CreateUser": Access(_ADMIN),
        "/authsvc.v1.AdminService/UpdateUser": Access(_ADMIN),
        "/authsvc.v1.AdminService/SetUserRoles": Access(_ADMIN),
        "/authsvc.v1.AdminService/DisableUser": Access(_ADMIN),
        "/authsvc.v1.AdminService/EnableUser": Access(_ADMIN),
        "/authsvc.v1.AdminService/UnlockUser": Access(_ADMIN),
        "/authsvc.v1.AdminService/StartPasswordReset": Access(_ADMIN),
        "/authsvc.v1.AdminService/RequirePasswordChange": Access(_ADMIN),
        "/authsvc.v1.AdminService/DeleteUser": Access(_ADMIN),
        "/authsvc.v1.AdminService/ExportUsers": Access(_ADMIN, long_lived=True),
        "/authsvc.v1.AdminService/ListAuditEvents": Access(_ADMIN_OR_OBSERVER, read_only=True),
        "/authsvc.v1.AdminService/WatchAuditEvents": Access(
            _ADMIN_OR_OBSERVER, read_only=True, long_lived=True, endless=True
        ),
        "/authsvc.v1.SessionService/CreateSession": Access(_ISSUER, screened=True),
        "/authsvc.v1.SessionService/ValidateSession": Access(_APP_OR_EDGE, read_only=True),
        "/authsvc.v1.SessionService/BatchValidateSessions": Access(
            _APP_OR_EDGE, read_only=True, batch=True
        ),
        "/authsvc.v1.SessionService/GetSession": Access(_APP, read_only=True),
        "/authsvc.v1.SessionService/ListSessions": Access(_APP, read_only=True),
        "/authsvc.v1.SessionService/RevokeSession": Access(_APP),
        "/authsvc.v1.SessionService/RevokeUserSessions": Access(_APP),
        "/authsvc.v1.SessionService/WatchRevocations": Access(
            _APP_OR_EDGE, read_only=True, long_lived=True, endless=True
        ),
        "/authsvc.v1.SessionService/IssueSessionKey": Access(_APP),
        "/authsvc.v1.SessionService/GetSessionKeys": Access(_APP_OR_EDGE, read_only=True),
        "/authsvc.v1.SessionService/CreateTurnCredentials": Access(_APP),
        "/authsvc.v1.RateLimitService/CheckRateLimit": Access(_APP_OR_EDGE, read_only=True),
        "/authsvc.v1.RateLimitService/BatchCheckRateLimits": Access(
            _APP_OR_EDGE, read_only=True, batch=True
        ),
        "/authsvc.v1.RateLimitService/GetRateLimit": Access(_APP_OR_EDGE, read_only=True),
        "/authsvc.v1.RateLimitService/ScreenRequest": Access(_APP_OR_EDGE, read_only=True),
        "/authsvc.v1.RateLimitService/RefundRateLimit": Access(_APP),
        "/authsvc.v1.RateLimitService/ResetRateLimit": Access(_APP),
        "/authsvc.v1.RateLimitService/ListPolicies": Access(_APP_OR_EDGE | _ADMIN, read_only=True),
        "/grpc.health.v1.Health/Check": Access(any_certificate=True, read_only=True),
        "/grpc.health.v1.Health/List": Access(any_certificate=True, read_only=True),
        "/grpc.health.v1.Health/Watch": Access(
            any_certificate=True, read_only=True, long_lived=True
        ),
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": Access(
            _OBSERVER, read_only=True
        ),
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Access(
            _OBSERVER, read_only=True
        ),
    }
)
