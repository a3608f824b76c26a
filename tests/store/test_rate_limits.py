"""The rows of rate_limits: which are created, the order of results, and which are removed."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from authsvc.store import rate_limits as store
from authsvc.store.postgres.connector import Connection
from authsvc.store.postgres.database import Database
from authsvc.store.rate_limits import Kind, Rule

_MINUTE = 60_000_000
_START = 1_900_000_020 * 1_000_000
_RULE = Rule("api", "token_bucket", 10, 10 * _MINUTE, 0)
_HOSTILE = [
    "",
    " ",
    "'; DROP TABLE rate_limits; --",
    "\\",
    "{a,b}",
    "NULL",
    "ü",
    "\U0001f600" * 128,
]
_HOSTILE += ["e\u0301", "\u00e9", "a" * 512, "%", "\u202e", "\x01", "\uffff", "A", "a", '"']


async def _charge(
    connection: Connection, keys: Sequence[str], rule: Rule = _RULE, now: int = _START
) -> list[store.Row]:
    ordered = sorted(keys)
    rows = await store.charge(connection, [Kind(rule, 1, 1)], [0] * len(keys), ordered, now)
    return [rows[ordered.index(key)] for key in keys]


async def _keys(connection: Connection) -> set[str]:
    return {row["key"] for row in await connection.fetch("SELECT key FROM rate_limits")}


async def test_hostile_keys_are_treated_like_any_other(database: Database) -> None:
    async with database.connection() as connection:
        for _ in range(2):
            await _charge(connection, _HOSTILE)
        assert await _keys(connection) == set(_HOSTILE)
        rows = await store.look(connection, [_RULE] * 18, _HOSTILE, [1] * 18, _START)
        assert [row["remaining"] for row in rows] == [8] * 18
        for key in _HOSTILE:
            await store.reset(connection, _RULE, key)
        assert await _keys(connection) == set()


async def test_results_are_in_order_of_charges(database: Database) -> None:
    keys = [f"{number:03}" for number in range(200)]
    kinds = [Kind(_RULE, cost, 1) for cost in range(1, 11)]
    places = [number * 7 % 10 for number in range(200)]
    async with database.connection() as connection:
        # Once for new rows and once for existing ones, of which every third was deleted again.
        expected = [10 - places[number] - 1 for number in range(200)]
        rows = await store.charge(connection, kinds, places, keys, _START)
        assert [row["remaining"] for row in rows] == expected
        for number in range(0, 200, 3):
            await store.reset(connection, _RULE, keys[number])
        rows = await store.charge(connection, [Kind(_RULE, 1, 1)], [0] * 200, keys, _START)
        assert [row["remaining"] for row in rows] == [
            9 if number % 3 == 0 else max(expected[number] - 1, 0) for number in range(200)
        ]


async def test_policies_do_not_share_keys(database: Database) -> None:
    other = Rule("apj", "token_bucket", 5, _MINUTE, 0)
    async with database.connection() as connection:
        kinds = [Kind(_RULE, 1, 1), Kind(other, 2, 1)]
        rows = await store.charge(connection, kinds, [0, 1], ["same", "same"], _START)
        assert [row["remaining"] for row in rows] == [9, 3]
        rows = await store.look(connection, [_RULE, other], ["same", "same"], [1, 1], _START)
        assert [row["remaining"] for row in rows] == [9, 3]


async def test_peek_and_refund_create_no_rows(database: Database) -> None:
    async with database.connection() as connection:
        await store.look(connection, [_RULE], ["seen"], [1], _START)
        await store.refund(connection, [_RULE], ["seen"], [1], _START)
        assert await _keys(connection) == set()


async def test_checks_in_one_statement_see_each_other(database: Database) -> None:
    small = Rule("small", "fixed_window", 2, _MINUTE, 0)
    async with database.connection() as connection:
        # Checks of b + a, b + c, a alone and c alone; b has room for one.
        rules = [small, _RULE, small, _RULE, _RULE, _RULE]
        keys, costs, sizes = ["b", "a", "b", "c", "a", "c"], [2, 1, 1, 1, 1, 1], [2, 2, 1, 1]
        rows = await store.charge_together(connection, rules, keys, costs, sizes, _START)
        assert [row["granted"] for row in rows] == [1, 1, 0, 0, 1, 1]
        assert [row["remaining"] for row in rows] == [0, 9, 0, 10, 8, 9]
        assert [row["retry_us"] > 0 for row in rows] == [True, False, True, False, False, False]


async def test_database_clock_is_used_by_default(database: Database) -> None:
    clock = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
    async with database.connection() as connection:
        before = await connection.fetchval(clock)
        await store.charge(connection, [Kind(_RULE, 1, 1)], [0], ["k"])
        after = await connection.fetchval(clock)
        since = await connection.fetchval("SELECT (state).since_us FROM rate_limits")
        assert before < since < after


async def test_only_idle_keys_are_removed(database: Database) -> None:
    short = Rule("api", "token_bucket", 10, _MINUTE, 0)
    async with database.connection() as connection:
        await _charge(connection, ["a", "b", "c"], short)
        await _charge(connection, ["long"], Rule("api", "sliding_window", 10, 60 * _MINUTE, 3))
        # Each charge to the short rule takes 6 s to drain.
        assert await store.delete_idle(connection, 10, _START + 5_000_000) == 0
        later = _START + 3 * _MINUTE
        assert await store.delete_idle(connection, 2, later) == 2
        assert await store.delete_idle(connection, 2, later) == 1
        assert await store.delete_idle(connection, 2, later) == 0
        assert await _keys(connection) == {"long"}
        assert await store.delete_idle(connection, 2, _START + 67 * _MINUTE) == 1


async def test_row_with_remaining_state_is_not_removed(database: Database) -> None:
    async with database.connection() as connection:
        for number in range(120):
            rule = Rule("api", "fixed_window", 10, (1 + number) * 1_000_000, 0)
            (row,) = await _charge(connection, ["k"], rule)
            await store.delete_idle(connection, 10, _START + row["reset_us"] - 1)
            assert await _keys(connection) == {"k"}
            await store.reset(connection, rule, "k")


async def test_removal_skips_locked_rows(database: Database) -> None:
    async with database.connection() as connection, database.transaction() as other:
        await _charge(connection, ["busy", "idle"])
        later = _START + 60 * _MINUTE
        await _charge(other, ["busy"], now=later)
        assert await store.delete_idle(connection, 10, later) == 1
        assert await _keys(connection) == {"busy"}


@pytest.mark.parametrize(("durable", "table"), [(True, "durable"), (False, "unlogged")])
async def test_key_in_use_is_updated_in_place(
    database: Database, durable: bool, table: str
) -> None:
    # An update that touches an index costs twice as much and leaves dead index entries to clean up.
    rule = Rule("api", "token_bucket", 1_000_000, 10 * _MINUTE, 0, durable)
    async with database.connection() as connection:
        for _ in range(51):
            await _charge(connection, ["k"], rule)
        await connection.execute("SELECT pg_stat_force_next_flush()")
        updates = await connection.fetchrow(
            "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = $1",
            f"rate_limits_{table}",
        )
        assert updates is not None
        assert tuple(updates) == (50, 50)


@pytest.mark.parametrize("rule", [_RULE, Rule("s", "sliding_window", 9, 9 * _MINUTE, 3)])
async def test_row_stays_small(database: Database, rule: Rule) -> None:
    async with database.connection() as connection:
        for second in range(0, 600, 3):
            await _charge(connection, ["k"], rule, _START + second * 1_000_000)
        assert await connection.fetchval("SELECT pg_column_size(state) FROM rate_limits") < 450


async def test_checks_that_fit_are_stored_and_others_are_not(database: Database) -> None:
    async with database.connection() as connection:
        # Checks of a + b, and of b + c, for which b has no room left.
        rows = await store.charge_together(
            connection, [_RULE] * 4, ["a", "b", "b", "c"], [3, 8, 4, 3], [2, 2], _START
        )
        assert [row["granted"] for row in rows] == [1, 1, 0, 0]
        rows = await store.look(connection, [_RULE] * 3, ["a", "b", "c"], [1] * 3, _START)
        assert [row["remaining"] for row in rows] == [7, 2, 10]


async def test_refund_touches_only_its_key_and_policy(database: Database) -> None:
    other = Rule("apj", "token_bucket", 10, 10 * _MINUTE, 0)
    async with database.connection() as connection:
        await store.charge(connection, [Kind(_RULE, 4, 1)], [0, 0], ["j", "k"], _START)
        await store.charge(connection, [Kind(other, 4, 1)], [0], ["k"], _START)
        (row,) = await store.refund(connection, [_RULE], ["k"], [3], _START)
        assert row["remaining"] == 9
        rows = await store.look(connection, [_RULE, _RULE, other], ["j", "k", "k"], [1] * 3, _START)
        assert [row["remaining"] for row in rows] == [6, 9, 6]


_DURABLE = replace(_RULE, policy="kept", durable=True)


async def test_durable_limits_are_logged_and_others_are_not(database: Database) -> None:
    async with database.connection() as connection:
        kinds = [Kind(_RULE, 1, 1), Kind(_DURABLE, 2, 1)]
        await store.charge(connection, kinds, [0, 1], ["k", "k"], _START)
        rules, keys = [_RULE, _DURABLE], ["a", "a"]
        await store.charge_together(connection, rules, keys, [3, 4], [2], _START)
        rows = await connection.fetch(
            "SELECT relpersistence::text, policy, key FROM rate_limits AS r"
            " JOIN pg_class AS c ON c.oid = r.tableoid ORDER BY policy, key"
        )
        assert [tuple(row) for row in rows] == [
            *(("u", "api", "a"), ("u", "api", "k"), ("p", "kept", "a"), ("p", "kept", "k"))
        ]
        rows = await store.refund(connection, rules, keys, [1, 1], _START)
        assert [row["remaining"] for row in rows] == [8, 7]
        await store.reset(connection, _DURABLE, "a")
        rows = await store.look(connection, [*rules, *rules], [*keys, "k", "k"], [1] * 4, _START)
        assert [row["remaining"] for row in rows] == [8, 10, 9, 8]


async def test_key_has_a_row_of_each_kind_if_its_policy_changed(database: Database) -> None:
    before, after = _RULE, replace(_RULE, durable=True)
    async with database.connection() as connection, database.transaction() as other:
        for rule in (before, after, before):
            (row,) = await _charge(connection, ["k"], rule)
        assert row["remaining"] == 8
        await store.refund(connection, [after], ["k"], [1], _START)
        await store.reset(connection, after, "k")
        await store.reset(connection, replace(before, policy="apj"), "k")
        rows = await store.look(connection, [before, after], ["k", "k"], [1, 1], _START)
        assert [row["remaining"] for row in rows] == [8, 10]
        await _charge(connection, ["k"], after)
        await other.execute("SELECT FROM rate_limits WHERE NOT durable FOR UPDATE")
        assert await store.held(connection, [before, after], ["k", "k"]) == [0]
        assert await store.held(connection, [replace(before, policy="apj")], ["k"]) == []


_NOTE_COMMIT = """
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('test.commit', current_setting('synchronous_commit'), false);
    RETURN NULL;
END $$;
CREATE TRIGGER note AFTER INSERT OR UPDATE ON rate_limits EXECUTE FUNCTION note();
"""


@pytest.mark.parametrize(("rule", "commit"), [(_DURABLE, "off"), (_RULE, "on")])
async def test_only_durable_charges_and_refunds_commit_unflushed(
    database: Database, rule: Rule, commit: str
) -> None:
    async with database.connection() as connection:
        await connection.execute(_NOTE_COMMIT)
        await connection.execute("SET synchronous_commit = on")
        for call in (
            store.charge(connection, [Kind(_RULE, 1, 1), Kind(rule, 1, 1)], [0, 1], ["a", "k"]),
            store.charge_together(connection, [_RULE, rule], ["a", "k"], [1, 1], [2]),
            store.refund(connection, [_RULE, rule], ["a", "k"], [1, 1]),
        ):
            await connection.execute("SET test.commit = 'unknown'")
            await call
            assert await connection.fetchval("SHOW test.commit") == commit
            assert await connection.fetchval("SHOW synchronous_commit") == "on"
        await connection.execute("RESET ALL")


async def test_durable_charge_or_refund_is_refused_within_a_transaction(
    database: Database,
) -> None:
    # It would keep the rest of the transaction from being flushed at the commit.
    async with database.connection() as connection, connection.transaction():
        for call in (
            store.charge(connection, [Kind(_RULE, 1, 1), Kind(_DURABLE, 1, 1)], [0, 1], ["a", "b"]),
            store.charge_together(connection, [_RULE, _DURABLE], ["a", "b"], [1, 1], [2]),
            store.refund(connection, [_DURABLE], ["a"], [1]),
        ):
            with pytest.raises(RuntimeError, match="transaction of its own"):
                await call
        await store.charge(connection, [Kind(_RULE, 1, 1)], [0], ["a"])


@pytest.mark.parametrize("rule", [_RULE, _DURABLE])
async def test_held_row_is_found_and_nothing_changes(database: Database, rule: Rule) -> None:
    keys = ["a", "b", "new"]
    async with database.connection() as connection, database.transaction() as other:
        await _charge(connection, ["a", "b"], rule)
        await other.execute("SELECT FROM rate_limits WHERE key = 'b' FOR UPDATE")
        kind = Kind(rule, 1, 1)
        for call in (
            store.charge(connection, [kind], [0] * 3, keys, _START),
            store.charge_together(connection, [rule] * 3, keys, [1] * 3, [3], _START),
            store.refund(connection, [rule] * 3, keys, [1] * 3, _START),
            store.reset(connection, rule, "b"),
        ):
            with pytest.raises(store.KeysHeld):
                await call
        assert await store.held(connection, [rule] * 3, keys) == [1]
        assert await _keys(connection) == {"a", "b"}
        rows = await store.look(connection, [rule] * 2, ["a", "b"], [1, 1], _START)
        assert [row["remaining"] for row in rows] == [9, 9]


async def test_search_for_held_rows_holds_none_itself(database: Database) -> None:
    async with database.connection() as connection, database.transaction() as other:
        await _charge(connection, ["a"])
        assert await store.held(other, [_RULE] * 2, ["a", "new"]) == []
        assert await store.held(connection, [_RULE] * 2, ["a", "new"]) == []


async def test_idle_durable_keys_are_removed_too(database: Database) -> None:
    async with database.connection() as connection:
        for rule in (_RULE, _DURABLE):
            await _charge(connection, ["a", "b", "c"], rule)
        later = _START + 60 * _MINUTE
        assert await store.delete_idle(connection, 2, later) == 4
        assert await store.delete_idle(connection, 2, later) == 2
        assert await _keys(connection) == set()
