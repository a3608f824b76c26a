"""Owns what all commands have in common: how help shows flags, and that -h asks for it."""

import re
from collections.abc import Callable
from inspect import getdoc
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

Function = TypeVar("Function", bound=Callable[..., Any])


class Commands(typer.Typer):
    """A group of commands; without arguments, it prints its help."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            cls=_Group,
            no_args_is_help=True,
            context_settings={"help_option_names": ["--help", "-h"]},
            **options,
        )

    def command(self, name: str | None = None, **options: Any) -> Callable[[Function], Function]:
        """Return a decorator that adds a command, with its docstring for its help."""

        def add(function: Function) -> Function:
            # Typer would keep the line breaks of the source.
            text = re.sub(r"(?<!\n)\n(?!\n)", " ", getdoc(function) or "")
            return super(Commands, self).command(name, cls=_Command, help=text, **options)(function)

        return add


class _Command(TyperCommand):
    def get_params(self, ctx: Any) -> Any:
        return _with_plain_flags(super().get_params(ctx))


class _Group(TyperGroup):
    def get_params(self, ctx: Any) -> Any:
        return _with_plain_flags(super().get_params(ctx))


def _with_plain_flags(params: Any) -> Any:
    """Return the parameters; help shows no type for those that take no value."""
    for param in params:
        if isinstance(param, TyperOption) and param.is_flag and param.metavar is None:
            param.metavar = ""
    return params
