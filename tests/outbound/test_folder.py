"""The folder for developers: a readable file a message, easy to find, never half."""

import asyncio
import stat
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from authsvc.core.messages.delivery import NotDelivered
from authsvc.outbound.folder import FolderChannel
from tests.support.delivering import ADDRESS, CODE
from tests.support.rendered import rendered


async def test_message_is_written_to_descriptive_file_name(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "messages"
    sent = rendered()
    with capture_logs() as logs:
        await FolderChannel(folder).send(sent)
    (file,) = _files(folder)
    assert file.name.startswith("20300101T000000Z-login_code-ada_at_example.test-")
    assert file.suffix == ".txt"
    written = file.read_text(encoding="utf-8")
    assert written.startswith(f"To: {ADDRESS}\nSubject: Your code\n")
    assert written.endswith(sent.content.text)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (line,) = logs
    assert line["file"] == str(file)
    assert CODE in line["text"], "in the log a developer finds it too"


async def test_message_delivered_twice_is_one_file(tmp_path: Path) -> None:
    sent, channel = rendered(), FolderChannel(tmp_path)
    await asyncio.gather(*(channel.send(sent) for _ in range(5)))
    assert len(_files(tmp_path)) == 1
    await channel.send(rendered())
    assert len(_files(tmp_path)) == 2


@pytest.mark.parametrize(
    "address",
    ["../../../../etc/passwd@x.test", "a/b\\c\0@x.test", "." * 300 + "@x.test", "jörg@bücher.test"],
)
async def test_address_cannot_escape_folder(tmp_path: Path, address: str) -> None:
    folder = tmp_path / "messages"
    await FolderChannel(folder).send(rendered(address))
    assert _files(tmp_path) == [folder]
    assert [path.is_file() for path in _files(folder)] == [True]


async def test_unwritable_folder_is_temporary_failure(tmp_path: Path) -> None:
    (tmp_path / "messages").write_text("a file in its place")
    with pytest.raises(NotDelivered) as caught:
        await FolderChannel(tmp_path / "messages").send(rendered())
    assert (caught.value.error, caught.value.permanent) == ("folder", False)


def _files(folder: Path) -> list[Path]:
    return list(folder.iterdir())
