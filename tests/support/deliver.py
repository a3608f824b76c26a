"""A process that delivers mail until a test kills it: `deliver.py DSN PORT CA_FILE`."""

import asyncio
import sys
from pathlib import Path

from authsvc.config import DeliverySettings, SmtpSettings
from authsvc.core.messages.delivery import Deliverer, Transport
from authsvc.outbound.rendering import TemplateRenderer
from authsvc.outbound.smtp import SmtpChannel
from tests.support.accounts import KEYRING
from tests.support.clock import FakeClock
from tests.support.databases import opened


async def main(dsn: str, port: str, ca_file: str) -> None:
    smtp = SmtpSettings(
        host="localhost", port=int(port), ca_file=Path(ca_file), sender="login@shop.test"
    )
    async with opened(dsn) as database:
        transport = Transport(SmtpChannel(smtp), TemplateRenderer())
        await Deliverer(
            database=database,
            keyring=KEYRING,
            transport=transport,
            settings=DeliverySettings(),
            clock=FakeClock(),
        ).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
