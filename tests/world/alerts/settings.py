"""Faults of certificates, settings, schema and clock."""

import signal
from contextlib import AsyncExitStack
from datetime import timedelta

import asyncpg

from authsvc.dev import certificates
from authsvc.store.postgres.migrations import Schema
from authsvc.store.postgres.migrator import migrate, shipped
from tests.world.alerts.scene import Scene, nothing
from tests.world.install import FAKETIME


async def certificate_ends(scene: Scene) -> None:
    """The certificate's validity begins five minutes before it is issued."""
    async with scene.installation("certified") as installation:
        folder = installation.workspace.certificates
        certificates.issue(
            folder,
            "server",
            dns=("localhost",),
            ips=("127.0.0.1",),
            client=False,
            server=True,
            lifetime=timedelta(seconds=40),
        )
        await installation.start()
        await scene.stage.try_alerts(
            installation,
            "the certificate ends within 40 s",
            ("AuthsvcCertificateExpiring",),
            cause=nothing,
        )
        key = folder / "server.key"
        good = key.read_bytes()

        async def damage() -> None:
            key.write_text("damaged")

        async def repair() -> None:
            key.write_bytes(good)

        await scene.stage.try_alerts(
            installation,
            "the file of the key is damaged",
            ("AuthsvcCertificateReloadFailed",),
            cause=damage,
            repair=repair,
        )


async def settings_change(scene: Scene) -> None:
    async with scene.installation("changed") as installation:
        replica = await installation.start()
        config = installation.workspace.config
        good = config.read_text()

        async def change() -> None:
            config.write_text(f"{good}\n[sessions]\ncache_size = 1000\n")
            replica.process.send(signal.SIGHUP)

        async def restart() -> None:
            await replica.end()
            await installation.restart(replica)

        await scene.stage.try_alerts(
            installation,
            "a setting that needs a restart is changed",
            ("AuthsvcRestartNeeded",),
            cause=change,
            repair=restart,
        )
        [restarted] = installation.replicas

        async def spoil() -> None:
            config.write_text(f'{good}\n[sessions]\ncache_size = "many"\n')
            restarted.process.send(signal.SIGHUP)

        async def correct() -> None:
            config.write_text(f"{good}\n[sessions]\ncache_size = 1000\n")
            restarted.process.send(signal.SIGHUP)

        await scene.stage.try_alerts(
            installation,
            "a setting is changed to a wrong value",
            ("AuthsvcSettingsReloadFailed",),
            cause=spoil,
            repair=correct,
        )


async def replicas_differ(scene: Scene) -> None:
    async with scene.installation("differing") as installation:
        await installation.start()

        async def start_another() -> None:
            await installation.start(AUTHSVC_SESSIONS__CACHE_SIZE="1000")

        async def replace() -> None:
            other = installation.replicas[1]
            await other.end()
            await installation.restart(other)

        await scene.stage.try_alerts(
            installation,
            "a replica is started with other settings",
            ("AuthsvcReplicasDiffer",),
            cause=start_another,
            repair=replace,
        )


async def migration_is_missing(scene: Scene) -> None:
    """Replace the database by what was restored from a backup of the version before."""
    async with scene.installation("older") as installation:
        await installation.start()
        superuser = await asyncpg.connect(scene.server.dsn("postgres", user="postgres"))
        await superuser.execute("CREATE DATABASE backup OWNER authsvc")
        await migrate(scene.server.dsn("backup"), Schema(shipped()[:-1]))

        async def restore() -> None:
            await superuser.execute("DROP DATABASE alerts_older WITH (FORCE)")
            await superuser.execute("ALTER DATABASE backup RENAME TO alerts_older")

        try:
            await scene.stage.try_alerts(
                installation,
                "the database is replaced by one that lacks the newest migration",
                ("AuthsvcMigrationsPending",),
                cause=restore,
            )
        finally:
            await superuser.close()


async def clock_is_wrong(scene: Scene) -> None:
    [library] = FAKETIME.folder.glob("usr/lib/*/faketime/libfaketimeMT.so.1")
    async with scene.installation("skewed") as installation, AsyncExitStack():
        offset = installation.folder / "clock"
        offset.write_text("+0")
        await installation.start(
            LD_PRELOAD=str(library),
            FAKETIME_TIMESTAMP_FILE=str(offset),
            FAKETIME_NO_CACHE="1",
            FAKETIME_DONT_FAKE_MONOTONIC="1",
        )

        async def step() -> None:
            offset.write_text("+5")

        async def repair() -> None:
            offset.write_text("+0")

        await scene.stage.try_alerts(
            installation,
            "the machine's clock is 5 s ahead",
            ("AuthsvcClockSkewed",),
            cause=step,
            repair=repair,
        )
