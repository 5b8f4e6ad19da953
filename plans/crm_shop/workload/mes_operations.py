"""What the MES does all day, in its tables, which stay with the shop's."""

from __future__ import annotations

from typing import Final

from plans.crm_shop.workload import subjects
from plans.crm_shop.workload.attempt import Attempt, NothingToDo, RollBack
from plans.crm_shop.workload.writer import Operation


def start_job(attempt: Attempt) -> None:
    """Make a job and its steps for an order that has none."""
    made = attempt.add(
        subjects.JOBS,
        "INSERT INTO production_jobs (order_id, parts_total)"
        " SELECT o.id, %s FROM orders AS o WHERE o.id >= %s"
        " AND NOT EXISTS (SELECT FROM production_jobs AS j WHERE j.order_id = o.id)"
        " ORDER BY o.id LIMIT 1 ON CONFLICT DO NOTHING RETURNING {}, id",
        attempt.chance.randrange(1, 20),
        attempt.pick("orders"),
    )
    if not made:
        raise NothingToDo
    for _ in range(attempt.chance.randrange(1, 4)):
        _add_step(attempt, made[0][0])


def move_job(attempt: Attempt) -> None:
    """Finish a part, and move the job on."""
    attempt.count(
        subjects.JOB_STATES,
        "UPDATE production_jobs SET state = CASE state"
        " WHEN 'queued' THEN 'printing' WHEN 'printing' THEN 'postprocessing'"
        " WHEN 'postprocessing' THEN 'quality' WHEN 'quality' THEN 'packing'"
        " WHEN 'packing' THEN 'handed_over' WHEN 'blocked' THEN 'queued'"
        " ELSE state END::job_state,"
        " parts_done = parts_done + 1, parts_total = greatest(parts_total, parts_done + 1)"
        " WHERE id = %s RETURNING {}",
        attempt.pick("production_jobs"),
    )


def rework(attempt: Attempt) -> None:
    """Add a step to a job."""
    _add_step(attempt, attempt.pick("production_jobs"))


def new_material(attempt: Attempt) -> None:
    """A material comes in."""
    code = attempt.token()
    attempt.add(
        subjects.MATERIALS,
        'INSERT INTO materials (code, title, "densityGPerCm3", colours)'
        " VALUES (%s, 'PA 12', 1.01, %s) RETURNING {}",
        code,
        ["grey", "schwarz", None, 'a "quoted" one'],
    )
    attempt.remember("materials", code)


def rename_material(attempt: Attempt) -> None:
    """Change a primary key."""
    old, new = attempt.recall("materials"), attempt.token()
    query = "UPDATE materials SET code = %s WHERE code = %s RETURNING {}"
    attempt.rename(subjects.MATERIALS, old, query, new, old)
    attempt.remember("materials", new)


def change_of_mind(attempt: Attempt) -> None:
    """Start a job, and roll it back."""
    start_job(attempt)
    raise RollBack


def second_thought(attempt: Attempt) -> None:
    """Move a job, after taking back a material to a savepoint."""
    with attempt.undone():
        rework(attempt)
    move_job(attempt)


def _add_step(attempt: Attempt, job: int) -> None:
    attempt.add(
        subjects.STEPS,
        "INSERT INTO job_steps (job_id, step_no, name, minutes_planned, readings)"
        " SELECT %s, coalesce(max(step_no), 0) + 1, %s, %s, %s"
        " FROM job_steps WHERE job_id = %s RETURNING {}",
        job,
        attempt.token(),
        attempt.chance.randrange(1, 600),
        [20.5, float("nan"), -0.25],
        job,
    )


MES_OPERATIONS: Final = (
    Operation("start job", 20, start_job),
    Operation("move job", 50, move_job),
    Operation("rework", 10, rework),
    Operation("new material", 5, new_material),
    Operation("rename material", 5, rename_material),
    Operation("change of mind", 5, change_of_mind),
    Operation("second thought", 5, second_thought),
)
