"""``dbsplit``: the verbs in the order in which they are used.

Whatever is heavy is imported by the verb that needs it, so that ``--help`` and
shell completion answer at once.
"""

from __future__ import annotations

import os

import click

from toolkit.cli.compare import compare
from toolkit.cli.copy import copy_command, throttle_command
from toolkit.cli.demo import demo
from toolkit.cli.end import abort, complete
from toolkit.cli.follow import prepare, run, stream
from toolkit.cli.look import doctor, status
from toolkit.cli.move import cutover, rollback
from toolkit.cli.options import InOrder, name_variables
from toolkit.cli.plan import plan_group
from toolkit.cli.validate import validate


@click.group(cls=InOrder, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dbsplit")
def cli() -> None:
    """Split one shared PostgreSQL database into one per service, while they keep writing.

    \b
    dbsplit plan check plan.yaml
    dbsplit prepare plan.yaml && dbsplit copy plan.yaml
    dbsplit stream plan.yaml &
    dbsplit validate plan.yaml && dbsplit cutover plan.yaml

    Every option can be set in the environment, too: DBSPLIT_COPY_JOBS=4 stands for
    dbsplit copy --jobs 4, DBSPLIT_CUTOVER_YES=1 for dbsplit cutover --yes.  With --json
    the last line on standard output is one object, however a verb ends.

    Exit codes: 0 ok, 1 bug, 2 usage, 3 plan invalid, 4 not ready, 5 rows differ,
    6 gate closed, 7 stream broken, 8 given up and the old side writable again,
    9 halted, 130 interrupted.
    """


def main() -> None:
    """Run the command line; NO_COLOR is heeded on terminals too (no-color.org)."""
    # numpy's linear algebra, which nothing here uses, starts a thread for each core, and each
    # spins for some 50 ms.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    cli(color=False if os.environ.get("NO_COLOR") else None)


for verb in (
    *(demo, plan_group, doctor, prepare, copy_command, throttle_command, stream, run, status),
    *(validate, compare, cutover, rollback, complete, abort),
):
    cli.add_command(verb)
name_variables(cli, "DBSPLIT")


if __name__ == "__main__":
    main()
