"""Many answers: policies, orders and swept settings, over processes, resumable."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Final

import orjson
from joblib import delayed

from dynamollm.core.errors import InvalidInputError
from dynamollm.core.names import known_name
from dynamollm.simulator.compiled import is_compiled
from dynamollm.simulator.experiment import Known, Prepared, Question, answer, prepare
from dynamollm.simulator.keeping import Keeper
from dynamollm.simulator.replay import Progress
from dynamollm.simulator.series import series_of
from dynamollm.simulator.shares import shared
from dynamollm.simulator.spread import workers

SWEPT: Final[Mapping[str, tuple[str, Callable[[str], Any]]]] = {
    "accuracy": ("accuracy", float),
    "load": ("scale", float),
    "pools": ("pools", int),
    "startup": ("startup_s", float),
    "idle-watts": ("loaded_idle_w", float),
    "profile": ("profile", str),
    "slo-rule": ("slo_rule", str.lower),
    "released-watts": ("released_w", float),
    "overheads": ("overheads", str.lower),
    "seed": ("seed", int),
}
"""What ``--sweep`` varies: its name → the question's field, and what its values are."""


@dataclass(frozen=True, slots=True)
class Task:
    """One answer that is wanted."""

    question: Question
    policy: str
    order: str
    settings: Mapping[str, Any]
    """What is swept, and its value here."""

    @property
    def key(self) -> str:
        """Name of its answer in a folder of answers; another question, another name."""
        whole = f"{self.question!r}|{self.policy}|{self.order}"
        return hashlib.sha256(whole.encode()).hexdigest()[:24]


def tasks(question: Question, policies: Sequence[str], orders: Sequence[str], sweeps: Iterable[str]) -> list[Task]:
    """Return every combination.

    Raises:
        InvalidInputError: a sweep is not ``name=value,value…``, or its name is not known.
    """
    axes = [_axis(text) for text in sweeps]
    found = []
    for values in product(*(axis for _, axis in axes)):
        settings = {name: value for (name, _), value in zip(axes, values, strict=True)}
        asked = replace(question, **{SWEPT[name][0]: value for name, value in settings.items()})
        found += [Task(asked, policy, order, settings) for policy in policies for order in orders]
    return found


def _axis(text: str) -> tuple[str, list[Any]]:
    name, _, values = text.partition("=")
    if values:
        name = known_name(name, SWEPT, field=f"--sweep {text}: name")
    else:
        raise InvalidInputError(f"--sweep {text}: give NAME=VALUE,VALUE…, NAME one of {', '.join(SWEPT)}")
    try:
        return name, [SWEPT[name][1](value) for value in values.split(",")]
    except ValueError:
        raise InvalidInputError(f"--sweep {text}: a value is no {SWEPT[name][1].__name__}") from None


@dataclass(frozen=True)
class Campaign:
    """How answers are come by."""

    jobs: int = 1
    """Processes of this machine."""
    scheduler: str | None = None
    """Address of a Dask scheduler, whose workers do it in place of processes here."""
    folder: Path | None = None
    """Where answers are kept, so that a campaign that was cut off goes on where it was."""

    def answers(
        self,
        wanted: Sequence[Task],
        *,
        tell: Progress | None = None,
        compiling: Callable[[], None] = lambda: None,
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (index of the task, its answer) as they come.

        Args:
            wanted: what is asked.
            tell: hears how many answers' worth is done.
            compiling: is called where processes will have to compile the simulator first.
        """
        missing: list[int] = []
        for index, task in enumerate(wanted):
            kept = self._kept(task)
            if kept is None:
                missing.append(index)
            else:
                yield index, kept
        if not missing:
            return
        before = len(wanted) - len(missing)
        questions = [wanted[index].question for index in missing]
        if self.jobs == 1 and self.scheduler is None:
            known = _known(questions)
            for done, index in enumerate(missing, before):
                task = wanted[index]
                told = _beyond(done, tell)
                yield index, self._keep(task, _answer(task, known[repr(task.question)], self.folder, told))
            return
        # A Dask worker may see no such folder, nor our file of shares: then they are told of when they are done.
        here = self.folder if self.scheduler is None else None
        with (
            workers(jobs=self.jobs, scheduler=self.scheduler) as run,
            shared(len(missing), _beyond(before, tell)) as shares,
        ):
            known = _known(questions)
            if self.scheduler is None and not is_compiled():
                # The processes will, and none of them has anybody to tell.
                compiling()
            calls = (
                delayed(_numbered)(
                    number,
                    wanted[index],
                    known[repr(wanted[index].question)],
                    here,
                    shares.teller(number) if self.scheduler is None else None,
                )
                for number, index in enumerate(missing)
            )
            for number, found in run(calls):
                index = missing[number]
                shares.teller(number)(1.0)
                yield index, self._keep(wanted[index], found)

    def has(self, task: Task) -> bool:
        """Whether its answer is kept already."""
        return self._kept(task) is not None

    def _kept(self, task: Task) -> dict[str, Any] | None:
        if self.folder is None or not (path := self.folder / f"{task.key}.json").exists():
            return None
        found: dict[str, Any] = orjson.loads(path.read_bytes())
        return found

    def _keep(self, task: Task, found: dict[str, Any]) -> dict[str, Any]:
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"{task.key}.json"
            # Whole or not at all: a run that is cut off leaves no half answer.
            part = path.with_suffix(".part")
            part.write_bytes(orjson.dumps(found))
            part.replace(path)
            Keeper(self.folder / f"{task.key}.state").forget()
        return found


def _known(questions: Sequence[Question]) -> dict[str, Known]:
    """Return what is the same for all policies, by question: once here, not once in each process."""
    return {repr(question): prepare(question).known for question in {repr(one): one for one in questions}.values()}


def _beyond(done: int, tell: Progress | None) -> Progress | None:
    """Return what hears of what is done besides so many answers."""
    return None if tell is None else lambda more: tell(done + more)


def _numbered(
    number: int, task: Task, known: Known, folder: Path | None, tell: Progress | None
) -> tuple[int, dict[str, Any]]:
    return number, _answer(task, known, folder, tell)


def _answer(task: Task, known: Known, folder: Path | None, tell: Progress | None) -> dict[str, Any]:
    prepared = _prepared(task.question, known)
    keeper = Keeper(folder / f"{task.key}.state") if folder else None
    result, ended = answer(prepared, task.policy, task.order, tell, keeper)
    return {
        "settings": dict(task.settings),
        "single_pool_servers": prepared.single_pool,
        "result": result.document(),
        "series": series_of(ended),
    }


_LAST: Final[dict[str, Prepared]] = {}
"""The latest question of this process, so that the next policy need not read the trace and the profile anew."""


def _prepared(question: Question, known: Known) -> Prepared:
    key = repr(question)
    prepared = _LAST.get(key)
    if prepared is None:
        prepared = prepare(question, known)
        # A Dask worker may have several threads: the one that is in use is never looked up again.
        _LAST.clear()
        _LAST[key] = prepared
    return prepared
