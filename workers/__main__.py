"""The binary `kardam`: the server's verbs, and those that know tasks, workers and lies."""

from typing import NoReturn

from kardam.__main__ import cli, entry
from kardam.verbs.checkpoint import checkpoint_group
from workers.verbs.doctor import doctor_command
from workers.verbs.new import new_command
from workers.verbs.run import run_command
from workers.verbs.serve import serve_command
from workers.verbs.simulate import simulate_command
from workers.verbs.work import work_command

cli.add_command(run_command)
cli.add_command(simulate_command)
cli.add_command(serve_command)  # which also serves tasks, in place of kardam's own
cli.add_command(work_command)
cli.add_command(doctor_command)
checkpoint_group.add_command(new_command)


def main() -> NoReturn:
    """The console script."""
    entry(cli)


if __name__ == "__main__":
    main()
