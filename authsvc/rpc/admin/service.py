"""Owns the handler of AdminService, composed of its topics."""

from authsvc.rpc.admin.audit import AuditRpcs
from authsvc.rpc.admin.user_transfer import UserTransferRpcs
from authsvc.v1 import admin_service_pb2_grpc as rpc


class AdminHandler(AuditRpcs, UserTransferRpcs, rpc.AdminServiceServicer):
    """Administration by operators."""
