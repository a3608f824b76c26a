"""Owns the generation of clients by the plugins of buf.gen.yaml, as its users generate them."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from tests.world.install import PROTOC
from tests.world.tools import Tool

ROOT = Path(__file__).parents[2]
PROTOS = ROOT / "protos"
SCRIPTS = Path(sys.executable).parent


def run(
    command: Sequence[object], folder: Path, environment: Mapping[str, str] | None = None
) -> None:
    """Run a command to its end, or fail and show its output."""
    done = subprocess.run(
        [str(each) for each in command],
        cwd=folder,
        env=os.environ | dict(environment or {}),
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def generate(language: str, folder: Path, *tools: Tool, without: str = "") -> Path:
    """Generate a language's code in `folder`; return where it is."""
    template = yaml.safe_load((PROTOS / "buf.gen.yaml").read_text())
    template["plugins"] = [
        plugin
        for plugin in template["plugins"]
        if plugin["out"] == f"gen/{language}" and plugin.get("local") != without
    ]
    chosen = folder / "buf.gen.yaml"
    chosen.write_text(json.dumps(template))
    protoc = folder / "protoc"
    protoc.write_text(f'#!/bin/sh\nexec {" ".join(PROTOC.command())} "$@"\n')
    protoc.chmod(0o755)
    path = ":".join(str(place) for place in (*(tool.bin for tool in tools), folder))
    run(
        [SCRIPTS / "buf", "generate", PROTOS, "--template", chosen],
        folder,
        {"PATH": f"{path}:{os.environ['PATH']}"},
    )
    return folder / "gen" / language
