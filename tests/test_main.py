"""The `authsvc` command before its own code has been imported."""

import builtins
import sys
from typing import Any

import pytest

from authsvc.__main__ import main


def test_ctrl_c_during_import_ends_without_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    before = builtins.__import__

    def interrupted(name: str, *rest: Any) -> Any:
        if name == "authsvc.cli.main":
            raise KeyboardInterrupt
        return before(name, *rest)

    monkeypatch.delitem(sys.modules, "authsvc.cli.main", raising=False)
    monkeypatch.setattr(builtins, "__import__", interrupted)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
