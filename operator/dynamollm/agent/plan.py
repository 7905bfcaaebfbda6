"""The clock plan as an agent follows it: read from the annotation, in force until its lease ends."""

import logging
from datetime import UTC, datetime
from typing import Final

from pydantic import ValidationError

from dynamollm.api.clockplan import ClockGroup, ClockPlan
from dynamollm.core.ladder import select_clock
from dynamollm.core.loadmeter import EngineLoad
from dynamollm.core.records import Ladder, LadderStep

_LOG: Final = logging.getLogger(__name__)


class PlanReader:
    """Parses the annotation when it changes. One that cannot be read leaves the last good plan to its lease."""

    def __init__(self) -> None:
        self._text: str | None = None
        self._plan: ClockPlan | None = None
        self.unreadable = False
        """Whether the present annotation could not be read."""

    def in_force(self, text: str | None, *, wall_s: float) -> ClockPlan | None:
        """Return the plan to follow at this moment (unix seconds), or None: default clocks."""
        if text != self._text:
            self._text = text
            self._parse(text)
        if self._plan is None or self.ends_s(self._plan) <= wall_s:
            return None
        return self._plan

    @staticmethod
    def ends_s(plan: ClockPlan) -> float:
        """Return when the plan's lease ends, unix seconds of wall time."""
        issued = plan.issued_at if plan.issued_at.tzinfo else plan.issued_at.replace(tzinfo=UTC)
        return datetime.timestamp(issued) + plan.lease_seconds

    def _parse(self, text: str | None) -> None:
        self.unreadable = False
        if text is None:
            self._plan = None
            return
        try:
            self._plan = ClockPlan.model_validate_json(text)
        except ValidationError as error:
            self.unreadable = True
            _LOG.warning("the clock plan cannot be read, the last good one stands until its lease ends: %s", error)


def clock_for(group: ClockGroup, load: EngineLoad | None, *, current_mhz: int | None) -> int:
    """Return the SM clock in MHz for one instance, within its group's limits; the safe one where load is unknown."""
    clock = select_clock(
        Ladder(
            steps=tuple(LadderStep(step.max_tokens_per_second, step.clock_mhz) for step in group.ladder),
            safe_mhz=group.safe_mhz,
        ),
        tokens_per_s=load.tokens_per_s if load else None,
        waiting=load.waiting if load else None,
        running=load.running if load else None,
        current_mhz=current_mhz,
    )
    return min(max(clock, group.min_mhz), group.max_mhz)
