"""Owns what a rule of Prometheus is, and the times in it, which tests divide."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

# An installation is told from others by these; without Kubernetes there is no namespace.
INSTALLATION = "namespace, job"
REPLICA = f"{INSTALLATION}, instance"

_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


@dataclass(frozen=True, slots=True)
class Times:
    """Writes the times of all rules; tests divide them to see alerts fire within seconds."""

    divisor: int = 1

    def __call__(self, time: str) -> str:
        """Return a time such as "5m" as it stands in a rule."""
        if self.divisor == 1:
            return time
        return f"{round(self.seconds(time) * 1_000)}ms"

    def seconds(self, time: str) -> float:
        """Return a time in seconds."""
        number, unit = time[:-1], time[-1]
        return int(number) * _SECONDS[unit] / self.divisor


class Severity(StrEnum):
    """Whom an alert concerns: whoever is on call, at once, or whoever works the next day."""

    PAGE = "page"
    TICKET = "ticket"


@dataclass(frozen=True, slots=True)
class Recording:
    """A series that Prometheus computes at each evaluation."""

    name: str
    expr: str

    def document(self) -> dict[str, Any]:
        """Return the rule as it stands in a file of rules."""
        return {"record": self.name, "expr": self.expr}


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """An alert; `after` is how long its condition must hold."""

    name: str
    severity: Severity
    expr: str
    summary: str
    description: str
    after: str | None = None
    labels: Mapping[str, str] | None = None

    @property
    def page(self) -> str:
        """The name of its runbook in docs/runbooks."""
        words = re.findall("[A-Z][a-z]*", self.name.removeprefix("Authsvc"))
        return "_".join(words).lower()

    def document(self) -> dict[str, Any]:
        """Return the rule as it stands in a file of rules."""
        return {
            "alert": self.name,
            "expr": self.expr,
            **({"for": self.after} if self.after else {}),
            "labels": {"severity": self.severity.value, **(self.labels or {})},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook_url": f"docs/runbooks/{self.page}.md",
            },
        }


@dataclass(frozen=True, slots=True)
class Group:
    """Rules that are evaluated together, one after the other."""

    name: str
    rules: Sequence[Recording | Alert]

    def document(self) -> dict[str, Any]:
        """Return the group as it stands in a file of rules."""
        return {"name": self.name, "rules": [rule.document() for rule in self.rules]}
