"""Owns `authsvc users`, the index of its commands."""

from authsvc.cli import users_change as change
from authsvc.cli.groups import Commands
from authsvc.cli.users_export import export_users
from authsvc.cli.users_import import import_users
from authsvc.cli.users_list import get_user, list_users

app = Commands(help="List, create, change, unlock, disable, erase, import and export accounts.")
app.command("list")(list_users)
app.command("get")(get_user)
app.command("create")(change.create)
app.command("update")(change.update)
app.command("set-roles")(change.set_roles)
app.command("disable")(change.disable)
app.command("enable")(change.enable)
app.command("unlock")(change.unlock)
app.command("reset-password")(change.reset_password)
app.command("require-password-change")(change.require_password_change)
app.command("delete")(change.delete)
app.command("import")(import_users)
app.command("export")(export_users)
