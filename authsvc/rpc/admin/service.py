"""Owns the handler of AdminService, composed of its topics."""

from authsvc.rpc.admin.accounts import AccountRpcs
from authsvc.rpc.admin.audit import AuditRpcs
from authsvc.rpc.admin.impersonation import ImpersonationRpcs
from authsvc.rpc.admin.ip_blocks import IpBlockRpcs
from authsvc.rpc.admin.policies import PolicyRpcs
from authsvc.rpc.admin.roles import RoleRpcs
from authsvc.rpc.admin.sessions import SessionRpcs
from authsvc.rpc.admin.signing import SigningKeyRpcs
from authsvc.rpc.admin.user_transfer import UserTransferRpcs
from authsvc.v1 import admin_service_pb2_grpc as rpc


class AdminHandler(
    AuditRpcs,
    AccountRpcs,
    UserTransferRpcs,
    IpBlockRpcs,
    SessionRpcs,
    ImpersonationRpcs,
    SigningKeyRpcs,
    PolicyRpcs,
    RoleRpcs,
    rpc.AdminServiceServicer,
):
    """Administration by operators."""
