"""Small programs of several sessions, played in every order by one thread, and what must be true of the outcome.

A `Program` is a tuple of `Step`s; each runs its SQL and knows by itself (`effect`, a function of a state) what it means. A `Stage` has one
database in memory. `play` takes one step after the other, as `choose` says; `every_schedule` is all of them, `a_schedule` one drawn by lot.
A step that must wait for a lock blocks its session until its ticket is answered; if nobody can go on any more, that is a deadlock nobody
found. The outcome is a `History`, and `wrong(history)` says what is wrong with it, or None:

* at every level: each answer is what its statement says in a state that was committed (G0, G1a, G1b, G1c), overlaid with own writes;
* no row is written over a version its writer did not know: lost updates; an increment is never lost;
* READ COMMITTED: one state per statement, never older than the last; above: one state for the whole transaction (PMP, G-single, P4);
* SERIALIZABLE: the committed programs one after the other, in the order of the commits and of real time, answer the same and end the same;
* an abort has a reason: 40001 somebody who committed meanwhile, 40P01 somebody else who waited, 23505 a value that is there twice.

LEVELS, MODES and CONFIGURATIONS are what the product accepts today; REFUSED is the rest, with its own words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import permutations
from random import Random
from typing import Any, NamedTuple

from khonsu_engine.database import Database
from khonsu_engine.limits import Limits
from khonsu_engine.tickets import CommitTicket
from khonsu_sql.core import SessionCore
from khonsu_sql.errors import Error
from khonsu_sql.requests import Answered, End, Execute, Request
from khonsu_sql.session import Result
from khonsu_sql.sql.cache import PlanCache
from khonsu_sql.sql.settings import Settings

READ_COMMITTED, REPEATABLE_READ, SERIALIZABLE = "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"
OPTIMISTIC, PESSIMISTIC, ADAPTIVE = "OPTIMISTIC", "PESSIMISTIC", "ADAPTIVE"

BY_DEFAULT = ""
"""The mode of a product that knows no modes: it is spelled by saying nothing."""

NEVER_BY_ITSELF = Limits(memtable_versions_max=1 << 40, memtable_bytes_max=1 << 40)
"""No checkpoint comes unasked: the same schedule does the same every time."""

PATIENCE_SECONDS = 2.0
"""How long everybody may be blocked at once before it is called a deadlock that nobody found. Soft intents give up after 50 ms."""

SERIALIZATION_FAILURE, DEADLOCK, UNIQUE_VIOLATION, NOT_SUPPORTED, SYNTAX_ERROR = "40001", "40P01", "23505", "0A000", "42601"


class Configuration(NamedTuple):
    """How a transaction begins."""

    level: str
    mode: str

    @property
    def begin(self) -> str:
        return f"BEGIN ISOLATION LEVEL {self.level} {self.mode}".rstrip()

    @property
    def locks(self) -> bool:
        return self.mode in (PESSIMISTIC, ADAPTIVE)

    @property
    def name(self) -> str:
        return f"{self.level}, {self.mode}" if self.mode else self.level


# --- sessions and their database


class Undetected(AssertionError):
    """Everybody waits and nobody is told why."""


class Vanished(Exception):
    """A schedule that was possible a moment ago is not possible now: a wait ended by itself in between. Not a finding."""


class Session:
    """One session, which never blocks its thread. `waiting`: the ticket of the lock it waits for."""

    def __init__(self, stage: Stage) -> None:
        settings = Settings()
        self.core = SessionCore(stage.database, stage.plans, settings, autocommit=True)
        self.waiting: Any = None
        self.waited = False
        self._failure: BaseException | None = None

    def ready(self, timeout_seconds: float = 0.0) -> bool:
        """Can it go on?"""
        if self.waiting is not None:
            try:
                return bool(self.waiting.wait(timeout_seconds))
            except BaseException as error:
                self._failure = error
        return True

    def ask(self, request: Request | None) -> Result | None:
        """The answer to `request` (None: go on with the last one), or None: it must wait. Raises `khonsu_sql.errors.Error`."""
        if request is None:
            request, self._failure = Answered(self._failure), None
        else:
            self.waited = False
        self.waiting = None
        answer = self.core.step(request)
        while not isinstance(answer, Result):
            if not isinstance(answer, CommitTicket):  # else it is the disk that is waited for, not another session
                self.waiting, self.waited = answer, True
                if not self.ready():
                    return None
            failure, self._failure = (self._failure if self.waiting is not None else waited_out(answer)), None
            self.waiting = None
            answer = self.core.step(Answered(failure))
        return answer

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """What a statement answers that nobody may make wait: see `answer_of`."""
        result = self.ask(Execute(sql, tuple(parameters) or None))
        assert result is not None, f"{sql}: somebody who is gone has left a lock behind"
        return answer_of(result)

    def give_up(self) -> None:
        """ROLLBACK, also while it waits."""
        if self.waiting is not None:
            self.core.interrupted()
            self.waiting = None
        self.core.step(End(commit=False))


def waited_out(ticket: Any) -> BaseException | None:
    try:
        ticket.wait()
    except BaseException as error:
        return error
    return None


def answer_of(result: Result) -> Any:
    """The rows, sorted, or the number of rows changed."""
    if result.columns is None:
        return result.rowcount
    if result.rows is not None:
        rows = [tuple(row) for row in result.rows]
    else:
        rows = [tuple(row.values()) for batch in result.batches for row in batch.to_pylist()]
    return sorted(rows, key=lambda row: [(value is not None, value) for value in row])


Row = tuple[Any, ...]
Key = tuple[str, int]
State = Mapping[Key, Row]
Changes = dict[Key, Row | None]

SCHEMA = (
    "CREATE TABLE t (k INTEGER PRIMARY KEY, n INTEGER NOT NULL, m INTEGER NOT NULL, u INTEGER UNIQUE)",
    "CREATE TABLE s (k INTEGER PRIMARY KEY, n INTEGER)",
)
COLUMNS = {"t": 4, "s": 2}
UNIQUE = {"t": (3,), "s": ()}
INITIAL: State = {("t", 1): (1, 10, 0, 101), ("t", 2): (2, 20, 0, 102), ("t", 5): (5, 30, 0, 105)}


class Stage:
    """A database with the tables of `SCHEMA`, and its rows made `INITIAL` again before every play."""

    def __init__(self) -> None:
        self.database = Database.open(None, limits=NEVER_BY_ITSELF)
        self.plans = PlanCache()
        self.manager = Session(self)
        for sql in SCHEMA:
            self.manager.run(sql)

    def session(self) -> Session:
        return Session(self)

    def state(self) -> dict[Key, Row]:
        """What is committed now."""
        found = {}
        for table in COLUMNS:
            for row in self.manager.run(f"SELECT * FROM {table} WHERE k BETWEEN -1000 AND 1000"):
                found[table, row[0]] = row
        return found

    def reset(self, initial: State = INITIAL) -> None:
        """Only what differs is touched, in one transaction."""
        current = self.state()
        run = self.manager.run
        run("BEGIN")
        for table, key in current:
            if initial.get((table, key)) != current[table, key]:
                run(f"DELETE FROM {table} WHERE k = ?", (key,))
        for (table, key), row in initial.items():
            if current.get((table, key)) != row:
                run(f"INSERT INTO {table} VALUES ({', '.join('?' * COLUMNS[table])})", row)
        run("COMMIT")

    def close(self) -> None:
        self.manager.core.close()
        self.database.close()


# --- programs


class Tag(NamedTuple):
    """Whose step it is, and the how manyth of its program: what it writes differs from what all others write."""

    transaction: int
    position: int

    @property
    def value(self) -> int:
        """0 to 11."""
        return self.transaction % 3 + 3 * (self.position % 4)


class Violation(Exception):
    """A unique value or key would be there twice."""


Effect = Callable[[State, Tag], tuple[Any, Changes]]
"""(state, tag) -> (what the statement answers, the rows it makes). Raises Violation."""


class Step(NamedTuple):
    name: str
    sql: str
    effect: Effect
    parameters: Callable[[Tag], tuple[Any, ...]] = lambda _: ()
    writes: bool = True
    undoes: int = 0
    """ROLLBACK TO the savepoint that was made so many steps ago."""

    @property
    def locks(self) -> bool:
        """Does it lock the rows it reads, in every mode?"""
        return " FOR " in self.sql


Program = tuple[Step, ...]


def name_of(programs: Sequence[Program]) -> str:
    return " | ".join(" ".join(step.name for step in program) for program in programs)


def applied(state: State, changes: Changes) -> dict[Key, Row]:
    merged = {**state, **changes}
    return {key: row for key, row in merged.items() if row is not None}


def twice(state: State) -> bool:
    """Does a unique value stand in two rows?"""
    for table, columns in UNIQUE.items():
        for column in columns:
            values = [row[column] for (name, _), row in state.items() if name == table and row[column] is not None]
            if len(values) != len(set(values)):
                return True
    return False


def statement(state: State, step: Step, tag: Tag) -> tuple[Any, Changes]:
    """The effect of one statement with its constraints, which are checked at its end."""
    answer, changes = step.effect(state, tag)
    if changes and twice(applied(state, changes)):
        raise Violation(step.name)
    return answer, changes


# --- playing


class Taken(NamedTuple):
    """One answered step. `begin`, `end`: how many commits there were when it was asked and when it was answered. `error`: a SQLSTATE."""

    answer: Any
    error: str | None
    begin: int
    end: int
    waited: bool


class Run:
    """What one program did. `taken`: its steps as far as they came; `failure`: None if it committed. Times count events."""

    def __init__(self, number: int, program: Program) -> None:
        self.number = number
        self.program = program
        self.taken: list[Taken] = []
        self.failure: str | None = None
        self.failed_at_commit = False
        self.over = False
        self.began = self.ended = 0
        self.begin = self.end = 0
        """How many commits there were then."""

    @property
    def committed(self) -> bool:
        return self.over and self.failure is None

    @property
    def writes(self) -> bool:
        """Has it a statement that may write?"""
        return any(step.writes for step in self.program)

    @property
    def wrote(self) -> bool:
        """Has it changed a row? An UPDATE of no row is a read; what was rolled back to a savepoint is none at all."""
        wrote: list[bool] = []
        for step, taken in zip(self.program, self.taken, strict=False):
            wrote.append(step.writes and bool(taken.answer))
            for position in range(len(wrote) - 1 - step.undoes, len(wrote)):
                wrote[position] &= not step.undoes
        return any(wrote)

    def tag(self, position: int) -> Tag:
        return Tag(self.number, position)


class History(NamedTuple):
    """One play. `commits`: numbers of the programs that committed, in order. `schedule`: whose turn it was, each time."""

    configuration: Configuration
    initial: State
    runs: tuple[Run, ...]
    commits: tuple[int, ...]
    final: State
    schedule: tuple[int, ...]

    def describe(self) -> str:
        """To be read by a person: in the order of the schedule, what was asked and answered."""
        lines = [f"{self.configuration.name}, {name_of([run.program for run in self.runs])}, schedule {self.schedule}"]
        for run in self.runs:
            for position, taken in enumerate(run.taken):
                step, waited = run.program[position], ", after a wait" if taken.waited else ""
                parameters = f" {step.parameters(run.tag(position))}" if step.parameters(run.tag(position)) else ""
                answer = taken.error or taken.answer
                lines.append(f"  {run.number}: {step.sql}{parameters}  →  {answer}{waited} (commits {taken.begin} to {taken.end})")
            lines.append(f"  {run.number}: {run.failure or 'committed'} (events {run.began} to {run.ended})")
        lines.append(f"  order of commits {self.commits}, final {dict(self.final)}")
        return "\n".join(lines)


Choose = Callable[[Sequence[int]], int]
"""Who goes on, of those who can."""


class Player:
    """One program in one session, a step at a time."""

    def __init__(self, stage: Stage, configuration: Configuration, run: Run) -> None:
        self.session = stage.session()
        self.begin = configuration.begin
        self.run = run
        self._asked_at = 0

    def advance(self, event: int, commits: int) -> None:
        """The next step, or on with the one that waited."""
        run, position = self.run, len(self.run.taken)
        request: Request | None = None
        if self.session.waiting is None:
            self._asked_at = commits
            if position == 0:
                self.session.run(self.begin)
                run.began, run.begin = event, commits
            if position == len(run.program):
                request = End(commit=True)
            else:
                step = run.program[position]
                request = Execute(step.sql, step.parameters(run.tag(position)) or None)
        try:
            result = self.session.ask(request)
        except Error as error:
            self._fail(position, error.sqlstate, commits)
        else:
            if result is None:
                return
            if position < len(run.program):
                run.taken.append(Taken(answer_of(result), None, self._asked_at, commits, self.session.waited))
                return
            run.over = True
        run.ended, run.end = event, commits

    def _fail(self, position: int, sqlstate: str, commits: int) -> None:
        run = self.run
        run.failure, run.over, run.failed_at_commit = sqlstate, True, position == len(run.program)
        if not run.failed_at_commit:
            run.taken.append(Taken(None, sqlstate, self._asked_at, commits, self.session.waited))
        self.session.give_up()


def play(stage: Stage, configuration: Configuration, programs: Sequence[Program], choose: Choose, initial: State = INITIAL) -> History:
    """One schedule from `initial`. Raises Undetected."""
    stage.reset(initial)
    players = [Player(stage, configuration, Run(number, program)) for number, program in enumerate(programs)]
    commits: list[int] = []
    schedule: list[int] = []
    try:
        while live := [number for number, player in enumerate(players) if not player.run.over]:
            able = [number for number in live if players[number].session.ready()]
            if not able:
                able = woken(players, live, schedule)
            number = choose(able)
            schedule.append(number)
            player = players[number]
            player.advance(len(schedule), len(commits))
            if player.run.committed:
                commits.append(number)
        held = stage.database.metrics["snapshots"]
        assert held == 0, f"{held} snapshots are still held though every session is idle"
        return History(configuration, initial, tuple(player.run for player in players), tuple(commits), stage.state(), tuple(schedule))
    finally:
        for player in players:
            player.session.core.close()


def woken(players: Sequence[Player], live: Sequence[int], schedule: Sequence[int]) -> list[int]:
    """Everybody waits. One of them will be told something soon: the end of a soft wait, or a deadlock found late."""
    for number in live:
        if players[number].session.ready(PATIENCE_SECONDS / len(live)):
            return [number]
    raise Undetected(f"everybody waits and nobody is told: {name_of([player.run.program for player in players])}, after {tuple(schedule)}")


def every_schedule(stage: Stage, configuration: Configuration, programs: Sequence[Program], initial: State = INITIAL) -> Iterator[History]:
    """Every order of steps that can happen, each once: who is blocked cannot be chosen."""
    prefix: list[int] | None = []
    while prefix is not None:
        chosen: list[int] = []
        offered: list[Sequence[int]] = []
        try:
            yield play(stage, configuration, programs, following(prefix, chosen, offered), initial)
        except Vanished:
            chosen, offered = prefix, offered[: len(prefix)]
        prefix = None
        while offered:
            others = [number for number in offered.pop() if number > chosen[len(offered)]]
            if others:
                prefix = [*chosen[: len(offered)], others[0]]
                break


def following(prefix: Sequence[int], chosen: list[int], offered: list[Sequence[int]]) -> Choose:
    """As `prefix` says, then the first; notes what could have been chosen instead."""

    def choose(able: Sequence[int]) -> int:
        number = prefix[len(chosen)] if len(chosen) < len(prefix) else able[0]
        if number not in able:
            raise Vanished
        chosen.append(number)
        offered.append(tuple(able))
        return number

    return choose


def a_schedule(stage: Stage, configuration: Configuration, programs: Sequence[Program], random: Random) -> History:
    return play(stage, configuration, programs, random.choice)


def in_order(schedule: Sequence[int]) -> Choose:
    """As a schedule says; whoever is blocked when it is their turn comes later."""
    waiting = list(schedule)

    def choose(able: Sequence[int]) -> int:
        for place, number in enumerate(waiting):
            if number in able:
                del waiting[place]
                return number
        return able[0]

    return choose


# --- what must be true


def wrong(history: History) -> str | None:
    """What the configuration forbids and happened all the same, or None."""
    complaint = unexplained(history) or unreasonable(history)
    if complaint is None and history.configuration.level == SERIALIZABLE:
        complaint = unserializable(history)
    return complaint


class Explanation(NamedTuple):
    """How a run may have come about. `changes`: what it made; `bases`: for each changed key, the state it was computed from."""

    changes: Changes
    bases: dict[Key, int]
    violated: bool = False
    """Its last step met a unique value that was there already."""
    before: tuple[Explanation, ...] = ()
    """What it was before each of its steps."""


def unexplained(history: History) -> str | None:
    """None if a sequence of states explains all answers and the end."""
    return continued(history, [history.initial], 0)


def continued(history: History, states: list[State], number: int) -> str | None:
    """`states`: before the first commit, after it, after the second…, as far as they are explained."""
    if number == len(history.commits):
        if dict(states[-1]) != dict(history.final):
            return f"the end is {dict(history.final)}, but the commits made {dict(states[-1])}"
        return next(filter(None, (failed_wrongly(run, states, history) for run in history.runs if not run.committed)), None)
    run = history.runs[history.commits[number]]
    complaint = f"program {run.number} committed, but no state explains its answers"
    tried: list[Changes] = []
    for explanation in explanations(run, states, history.configuration.level):
        if explanation.violated or explanation.changes in tried:
            continue
        lost = next((key for key, base in explanation.bases.items() if changed_since(states, key, base)), None)
        if lost is not None:
            complaint = f"program {run.number} wrote {lost} over a version it did not know: a lost update"
            continue
        tried.append(explanation.changes)
        after = applied(states[-1], explanation.changes)
        if twice(after):
            complaint = f"program {run.number} made a unique value twice"
            continue
        further = continued(history, [*states, after], number + 1)
        if further is None:
            return None
        complaint = further
    return complaint


def changed_since(states: Sequence[State], key: Key, base: int) -> bool:
    return any(state.get(key) != states[base].get(key) for state in states[base + 1 :])


def explanations(run: Run, states: Sequence[State], level: str) -> Iterator[Explanation]:
    """Every way the run's answers can come from `states`: from one of them, or at READ COMMITTED one per statement."""
    last = len(states) - 1
    if level == READ_COMMITTED:
        yield from by_statement(run, states, 0, run.begin, Explanation({}, {}))
    else:
        for place in range(run.begin, min(run.end, last) + 1):
            found = Explanation({}, {})
            for position in range(len(run.taken)):
                following = explained(run, position, states[place], place, found)
                if following is None:
                    break
                found = following
            else:
                yield found


def by_statement(run: Run, states: Sequence[State], position: int, oldest: int, so_far: Explanation) -> Iterator[Explanation]:
    if position == len(run.taken):
        yield so_far
        return
    taken = run.taken[position]
    for place in range(max(oldest, taken.begin), min(taken.end, len(states) - 1) + 1):
        following = explained(run, position, states[place], place, so_far)
        if following is not None:
            yield from by_statement(run, states, position + 1, place, following)


def explained(run: Run, position: int, state: State, place: int, so_far: Explanation) -> Explanation | None:
    """One more step, read in `state` under the run's own writes; None if it would have answered something else."""
    taken = run.taken[position]
    if taken.error not in (None, UNIQUE_VIOLATION):
        return so_far
    if run.program[position].undoes:
        then = so_far.before[position - run.program[position].undoes]
        return Explanation(then.changes, then.bases, False, (*so_far.before, so_far))
    try:
        answer, changes = statement(applied(state, so_far.changes), run.program[position], run.tag(position))
    except Violation:
        return so_far._replace(violated=True) if taken.error == UNIQUE_VIOLATION else None
    if taken.error is not None or answer != taken.answer:
        return None
    bases = {**dict.fromkeys(changes, place), **so_far.bases}
    return Explanation({**so_far.changes, **changes}, bases, False, (*so_far.before, so_far))


def failed_wrongly(run: Run, states: Sequence[State], history: History) -> str | None:
    """Also who fails in the end has read what was committed; and a violation must be one."""
    found = list(explanations(run, states[: run.end + 1], history.configuration.level))
    if not found:
        return f"program {run.number} failed, but no state explains its answers before that"
    if run.failure != UNIQUE_VIOLATION or any(explanation.violated for explanation in found):
        return None
    now = states[run.end]
    for explanation in found:
        fresh = [key for key, row in explanation.changes.items() if row is not None and key not in states[explanation.bases[key]]]
        if run.failed_at_commit and (any(key in now for key in fresh) or twice(applied(now, explanation.changes))):
            return None
    if not run.failed_at_commit and taken_meanwhile(run, states):
        return None
    return f"program {run.number} failed with {UNIQUE_VIOLATION}, but nothing was there twice"


def taken_meanwhile(run: Run, states: Sequence[State]) -> bool:
    """Does its last step meet, in the newest state, a value that was not there in its snapshot?"""
    changes: Changes = {}
    for position, taken in enumerate(run.taken):
        try:
            changes |= statement(applied(states[run.end], changes), run.program[position], run.tag(position))[1]
        except Violation:
            return taken.error == UNIQUE_VIOLATION
    return False


def unreasonable(history: History) -> str | None:
    """Aborts that have no reason."""
    for run in history.runs:
        if run.committed:
            continue
        others = [history.runs[number] for number in history.commits[run.begin : run.end]]
        locks = any(step.locks for step in run.program)
        if not (run.wrote if run.failed_at_commit else run.writes or locks):
            return f"program {run.number} only reads, and failed with {run.failure}"
        match run.failure:
            case "40001":
                if not any(other.wrote for other in others):
                    return f"program {run.number} failed with 40001, but nobody had committed anything since it began"
                if history.configuration.level == READ_COMMITTED and history.configuration.locks:
                    return f"program {run.number} failed with 40001 at READ COMMITTED, whose statements start again"
            case "40P01":
                if not (history.configuration.locks or locks) or len(history.runs) < 2:
                    return f"program {run.number} failed with 40P01 without locks"
            case "23505":
                pass
            case other:
                return f"program {run.number} failed with {other}"
    return None


def unserializable(history: History) -> str | None:
    """None if the committed programs, one after the other, do the same; writers in the order in which they committed."""
    committed = [history.runs[number] for number in history.commits]
    if any(same(history, order) for order in orders(committed, in_commit_order=True)):
        return None
    if any(same(history, order) for order in orders(committed)):
        return "there is a serial order, but it is not the one of the commits"
    return "no serial order of the committed programs answers this and ends like this"


def orders(runs: Sequence[Run], *, in_commit_order: bool = False) -> Iterator[tuple[Run, ...]]:
    """All orders that respect real time: who ended before another began comes before it. `runs`: in the order of their commits."""
    place = {run.number: position for position, run in enumerate(runs)}
    for order in permutations(runs):
        for position, earlier in enumerate(order):
            for later in order[position + 1 :]:
                if later.over and later.ended < earlier.began:
                    break
                if in_commit_order and earlier.wrote and later.wrote and place[earlier.number] > place[later.number]:
                    break
            else:
                continue
            break
        else:
            yield order


def same(history: History, order: Sequence[Run]) -> bool:
    """Do the programs in this order answer what they answered, and end as it ended?"""
    state: State = history.initial
    for run in order:
        found = alone(run, state)
        if found is None:
            return False
        state = found.after
    return dict(state) == dict(history.final)


class Alone(NamedTuple):
    """`after`: the state after the whole program. `made`: what its answered steps changed."""

    after: State
    made: Changes


def alone(run: Run, state: State) -> Alone | None:
    """A whole program in `state`; None if it fails there, or answers something else than it did."""
    changes: Changes = {}
    made: Changes = {}
    before: list[Changes] = []
    answered = sum(taken.error is None for taken in run.taken)
    for position, step in enumerate(run.program):
        before.append(changes)
        if step.undoes:
            changes = before[position - step.undoes]
            made = changes if position < answered else made
            continue
        try:
            answer, more = statement(applied(state, changes), step, run.tag(position))
        except Violation:
            return None
        if position < answered and answer != run.taken[position].answer:
            return None
        changes = changes | more
        made = changes if position < answered else made
    return Alone(applied(state, changes), made)


class Falseness(NamedTuple):
    """An abort that was not needed. `inexact`: even in the order of commits it would have read and written the same."""

    program: int
    inexact: bool


def false_aborts(history: History) -> list[Falseness]:
    """40001 and 40P01 of programs that could have committed, each alone: in some serial order, in real time, it answers and makes the
    same, and so does everybody who committed. What it had made is taken from the oldest state that explains it."""
    found = []
    committed = [history.runs[number] for number in history.commits]
    states, made = [history.initial], {}
    for run in committed:
        by_itself = alone(run, states[-1]) if run.wrote else Alone(states[-1], {})
        assert by_itself is not None, "this is asked at SERIALIZABLE only"
        states.append(by_itself.after)
        made[run.number] = by_itself.made
    for run in history.runs:
        if run.failure in (SERIALIZATION_FAILURE, DEADLOCK):
            made[run.number] = next(explanations(run, states[: run.end + 1], history.configuration.level)).changes
            ended, run.ended = run.ended, run.ended if run.failed_at_commit else 1 << 30
            if any(makes_the_same(history.initial, order, made) for order in orders([*committed, run])):
                then = alone(run, states[run.end])
                found.append(Falseness(run.number, then is not None and then.made == made[run.number]))
            run.ended = ended
    return found


def makes_the_same(state: State, order: Sequence[Run], made: Mapping[int, Changes]) -> bool:
    for run in order:
        found = alone(run, state)
        if found is None or found.made != made[run.number]:
            return False
        state = found.after
    return True


# --- what the product accepts


@cache
def refusal(*statements: str) -> str | None:
    """None if a fresh database runs them all, else the SQLSTATE and message of the first that it does not."""
    stage = Stage()
    session = stage.session()
    try:
        for sql in statements:
            session.run(sql)
    except Error as error:
        return f"{error.sqlstate} {error.message}"
    finally:
        session.core.close()
        stage.close()
    return None


def is_refused(reason: str | None) -> bool:
    """By name, or because the words are not known yet; anything else is an answer."""
    return reason is not None and reason.startswith((NOT_SUPPORTED, SYNTAX_ERROR))


def _probe() -> tuple[tuple[str, ...], tuple[str, ...], tuple[Configuration, ...], dict[str, str]]:
    refused: dict[str, str] = {}

    def takes(configuration: Configuration, name: str) -> bool:
        reason = refusal(configuration.begin, "COMMIT")
        if reason is not None:
            refused[name] = f"{configuration.begin}: {reason}"
        return reason is None

    levels = tuple(level for level in (READ_COMMITTED, REPEATABLE_READ, SERIALIZABLE) if takes(Configuration(level, BY_DEFAULT), level))
    modes = tuple(mode for mode in (OPTIMISTIC, PESSIMISTIC, ADAPTIVE) if takes(Configuration(SERIALIZABLE, mode), mode)) or (BY_DEFAULT,)
    configurations = tuple(
        Configuration(level, mode)
        for level in levels
        for mode in modes
        if mode == BY_DEFAULT or takes(Configuration(level, mode), f"{level}, {mode}")
    )
    return levels, modes, configurations, refused


LEVELS, MODES, CONFIGURATIONS, REFUSED = _probe()


def report_header() -> list[str]:
    """For `pytest_report_header`: what is played and what is not."""
    played = "; ".join(configuration.name for configuration in CONFIGURATIONS)
    return [f"interleavings: {played}", *(f"interleavings without {name}: {reason}" for name, reason in REFUSED.items())]
