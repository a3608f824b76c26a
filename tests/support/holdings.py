"""All the data that the service may hold on one user: a row in every table with such data."""

from typing import Any

from authsvc.models.ids import UserId
from tests.support.service import Service

EVERYTHING = """
INSERT INTO devices (user_id, device_hash, last_use_time)
    SELECT user_id, 'SECRET', now() FROM users WHERE user_id = '{0}';
INSERT INTO one_time_codes (code_id, purpose, email_canonical, user_id, code_hash, create_time,
        expire_time)
    SELECT gen_random_uuid(), 'login', email_canonical, user_id, 'SECRET', now(), now()
    FROM users WHERE user_id = '{0}';
INSERT INTO one_time_codes (code_id, purpose, email_canonical, user_id, code_hash, create_time,
        expire_time)
    SELECT gen_random_uuid(), 'reset_password', email_canonical, NULL, 'SECRET', now(), now()
    FROM users WHERE user_id = '{0}';
INSERT INTO outbox (message_id, kind, user_id, sealed_content, create_time, next_time, expire_time)
    VALUES (gen_random_uuid(), 'factor_added', '{0}', 'SECRET', now(), 'infinity', 'infinity');
INSERT INTO factors (factor_id, user_id, kind, sealed_seed, create_time)
    VALUES (gen_random_uuid(), '{0}', 'totp', 'SECRET', now());
INSERT INTO factors (factor_id, user_id, kind, name, create_time, credential_id, public_key,
        sign_count, transports)
    VALUES (gen_random_uuid(), '{0}', 'passkey', 'my key', now(), 'SECRET', 'SECRET', 1, '{{usb}}');
INSERT INTO recovery_codes (user_id, code_hash, create_time) VALUES ('{0}', 'SECRET', now());
INSERT INTO challenges (challenge_id, kind, user_id, token_hash, passkey, sealed_account,
        create_time, expire_time)
    VALUES (gen_random_uuid(), 'mfa', '{0}', 'SECRET', 'SECRET', 'SECRET', now(), 'infinity');
INSERT INTO identities (provider, subject, user_id, email, create_time, last_use_time)
    SELECT 'github', '4711', user_id, email, now(), now() FROM users WHERE user_id = '{0}';
INSERT INTO oauth_states (state_hash, provider, redirect_uri, sealed_verifier, link_session_id,
        create_time, expire_time)
    SELECT 'SECRET', 'github', 'https://app.test/back', 'SECRET', session_id, now(), 'infinity'
    FROM sessions WHERE user_id = '{0}' LIMIT 1;
INSERT INTO api_keys (key_id, user_id, name, prefix, key_hash, scopes, create_time, expire_time)
    VALUES (gen_random_uuid(), '{0}', 'my api key', 'authsvc_abc', 'SECRET', '{{}}', now(),
        now() + interval '1 day');
INSERT INTO session_keys (session_key_id, session_id, purpose, kind, public_key, create_time,
        expire_time)
    SELECT gen_random_uuid(), session_id, 'chat', 'jwk', '{{}}', now(), 'infinity'
    FROM sessions WHERE user_id = '{0}' LIMIT 1;
"""
# Their rows belong to everybody or expire within the hour, and identify a user only by id.
OF_NOBODY = {"revocations"}


async def give_everything(service: Service, user_id: str | UserId) -> None:
    """Give a logged-in user a row in each of the other tables."""
    for statement in EVERYTHING.format(user_id).split(";\n"):
        if statement.strip():
            await service.fetch(statement)


async def tables_of_users(service: Service) -> set[str]:
    """Return the tables with a column that identifies a user, an address, or a user's session."""
    rows = await service.fetch(
        "SELECT DISTINCT c.table_name FROM information_schema.columns c"
        " JOIN pg_class ON relname = c.table_name AND NOT relispartition"
        " WHERE table_schema = 'public' AND (column_name LIKE '%user_id'"
        " OR column_name LIKE '%email%' OR column_name LIKE '%session_id')"
    )
    return {row["table_name"] for row in rows}


async def columns_of(service: Service, table: str) -> set[str]:
    rows = await service.fetch(
        "SELECT column_name FROM information_schema.columns"
        " WHERE table_schema = 'public' AND table_name = $1",
        table,
    )
    return {row["column_name"] for row in rows}


async def tables_that_say(service: Service, *texts: Any) -> set[str]:
    """Return the tables that contain any of these texts in any row and column."""
    tables = await service.fetch(
        "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition"
        " AND relnamespace = 'public'::regnamespace"
    )
    found = set()
    for (table,) in tables:
        statement = f"SELECT count(*) FROM {table} t WHERE t::text ILIKE ANY ($1)"
        [[count]] = await service.fetch(statement, [f"%{text}%" for text in texts])
        if count:
            found.add(table)
    return found
