"""Owns the counts of decisions: how often each policy allowed, refused, or only would have.

Policies come at run time, so there may be many; the counts name a bounded number of them. That they
are counted costs next to nothing: those of a batch are added up for each policy.
"""

from collections.abc import Iterable, Mapping
from operator import attrgetter

from authsvc.measures import Labels
from authsvc.models.definitions import DefinedIn
from authsvc.models.limits import CheckResult, Policy

MAX_NAMED = 1_000
OTHERS = "other"
_ALLOWED, _REFUSED, _SHADOW = range(3)


class Decisions:
    """Counts charges by policy and outcome; dry runs are not counted.

    A charge is allowed if it was taken, refused if it did not fit, and counts as "shadow" if it was
    taken although it did not fit. One that would have fit, but was in a check with one that did
    not, is not counted.
    """

    def __init__(self) -> None:
        self._named: dict[str, list[int]] = {}
        self._others = [0, 0, 0]
        self._shadows: frozenset[str] = frozenset()

    def follow(self, policies: Iterable[Policy]) -> None:
        """Count these policies by name from now on, those of the settings first; forget others.

        Beyond a thousand, they are counted as "other".
        """
        ordered = sorted(policies, key=attrgetter("name"))
        ordered.sort(key=lambda policy: policy.defined_in is not DefinedIn.SETTINGS)
        self._shadows = frozenset(policy.name for policy in ordered if policy.shadow)
        self._named = {
            policy.name: self._named.get(policy.name) or [0, 0, 0] for policy in ordered[:MAX_NAMED]
        }

    def add(self, policy: str, *, taken: int, unfit: int, shadow: bool) -> None:
        """Count charges of one policy: those that fit, and those that did not."""
        counts = self._named.get(policy, self._others)
        counts[_ALLOWED] += taken
        counts[_SHADOW if shadow else _REFUSED] += unfit

    def add_result(self, result: CheckResult) -> None:
        """Count the charges of one check."""
        for verdict in result.verdicts:
            counts = self._named.get(verdict.policy, self._others)
            if not verdict.allowed:
                counts[_REFUSED] += 1
            elif result.allowed:
                counts[_SHADOW if verdict.shadow_rejected else _ALLOWED] += 1

    def read(self) -> Mapping[Labels, int]:
        """Return the counts by policy and outcome."""
        counts: dict[Labels, int] = {}
        for name, (allowed, refused, _) in (*self._named.items(), (OTHERS, self._others)):
            counts[name, "allowed"] = allowed
            counts[name, "refused"] = refused
        return counts | {(*labels, "shadow"): count for labels, count in self.shadows().items()}

    def shadows(self) -> Mapping[Labels, int]:
        """Return how many charges did not fit but were taken, by policy."""
        counted = (*self._named.items(), (OTHERS, self._others))
        return {
            (name,): counts[_SHADOW]
            for name, counts in counted
            if counts[_SHADOW] or name in self._shadows
        }
