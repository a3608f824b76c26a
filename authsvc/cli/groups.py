"""Owns what all commands have in common: how help shows flags, and that -h asks for it."""

import re
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from inspect import getdoc
from typing import Any, ClassVar, TypeVar, cast

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

Function = TypeVar("Function", bound=Callable[..., Any])


class Commands(typer.Typer):
    """A group of commands; without arguments, it prints its help."""

    def __init__(self, *, cls: "type[TyperGroup] | None" = None, **options: Any) -> None:
        super().__init__(
            cls=cls or _Group,
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


class ImportingGroup(_Group):
    """A group that imports each command when it is used.

    So the service, which is one of them, has no other command in its memory. `modules` maps the
    name of each command to its module, which holds a group `app` or a function of that name.
    """

    modules: ClassVar[Mapping[str, str]]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # Commands are only looked up and listed here, never added.
        self.commands = cast("dict[str, Any]", _ImportedCommands(self.modules))


class _ImportedCommands(Mapping[str, Any]):
    def __init__(self, modules: Mapping[str, str]) -> None:
        self._modules = modules
        self._imported: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._imported:
            self._imported[name] = _import_command(name, self._modules[name])
        return self._imported[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)


def _import_command(name: str, module_name: str) -> Any:
    module = import_module(module_name)
    if hasattr(module, "app"):
        command: Any = typer.main.get_group(module.app)
        command.name = name
        return command
    alone = Commands(add_completion=False)
    alone.command(name)(getattr(module, name))
    return typer.main.get_command(alone)


def _with_plain_flags(params: Any) -> Any:
    """Return the parameters; help shows no type for those that take no value."""
    for param in params:
        if isinstance(param, TyperOption) and param.is_flag and param.metavar is None:
            param.metavar = ""
    return params
