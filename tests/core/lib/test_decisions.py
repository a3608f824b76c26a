"""Decisions are counted for a bounded number of policies."""

from collections.abc import Iterable
from datetime import timedelta

from authsvc.core.lib.decisions import MAX_NAMED, Decisions
from authsvc.models.definitions import DefinedIn
from authsvc.models.limits import CheckResult, Policy, Verdict


def policy(name: str, *, stored: bool = False, shadow: bool = False) -> Policy:
    where = DefinedIn.RUN_TIME if stored else DefinedIn.SETTINGS
    return Policy(name, 1, timedelta(seconds=1), shadow=shadow, defined_in=where)


def verdict(name: str, *, allowed: bool = True, shadow: bool = False) -> Verdict:
    return Verdict(name, "key", allowed, 1, 1, 0.0, 0.0, shadow_rejected=shadow)


def taken(policies: Iterable[str], decisions: Decisions) -> list[int]:
    return [decisions.read()[name, "allowed"] for name in policies]


def test_names_are_bounded_and_those_of_the_settings_come_first() -> None:
    decisions = Decisions()
    stored = [policy(f"a{number:04}", stored=True) for number in range(MAX_NAMED)]
    decisions.follow([*stored, policy("z")])
    for name in ("z", "a0000", "a0998", "a0999", "gone", "x" * 64):
        decisions.add(name, taken=1, unfit=2, shadow=False)
    assert taken(("z", "a0000", "a0998", "other"), decisions) == [1, 1, 1, 3]
    read = decisions.read()
    assert read["other", "refused"] == 6
    assert {name for name, _ in read} == {"z", "other", *(each.name for each in stored[:-1])}


def test_deleted_policy_makes_room() -> None:
    decisions = Decisions()
    decisions.follow([policy("kept"), policy("deleted")])
    for name in ("kept", "deleted"):
        decisions.add(name, taken=1, unfit=0, shadow=False)
    decisions.follow([policy("kept"), policy("new")])
    assert taken(("kept", "new", "other"), decisions) == [1, 0, 0]
    assert ("deleted", "allowed") not in decisions.read()


def test_shadow_is_reported_from_the_start_and_for_no_other() -> None:
    decisions = Decisions()
    decisions.follow([policy("shade", shadow=True), policy("plain")])
    assert decisions.shadows() == {("shade",): 0}
    decisions.add("shade", taken=2, unfit=3, shadow=True)
    assert decisions.shadows() == {("shade",): 3}
    assert decisions.read() == {
        ("shade", "allowed"): 2,
        ("shade", "refused"): 0,
        ("shade", "shadow"): 3,
        ("plain", "allowed"): 0,
        ("plain", "refused"): 0,
        ("other", "allowed"): 0,
        ("other", "refused"): 0,
    }


def test_refused_check_counts_only_what_did_not_fit() -> None:
    decisions = Decisions()
    decisions.follow([policy(name) for name in ("fits", "full")] + [policy("shade", shadow=True)])
    shade = verdict("shade", shadow=True)
    decisions.add_result(
        CheckResult(False, (verdict("fits"), verdict("full", allowed=False), shade))
    )
    decisions.add_result(CheckResult(True, (verdict("fits"), shade)))
    counted = {labels: count for labels, count in decisions.read().items() if count}
    assert counted == {("fits", "allowed"): 1, ("full", "refused"): 1, ("shade", "shadow"): 1}
