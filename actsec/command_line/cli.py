"""The ``actsec`` command. Options are the fields of the plan: nothing is written twice, nothing heavy imported early.

Results go to stdout, progress and messages to stderr. Exit codes are those of the error tree and of the verdict.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click

import actsec
from actsec.command_line import attack, audit, completing, defend, diagnose, explain, init, report
from actsec.command_line.printing import say
from actsec.errors import ActsecError, Interrupted, UsageError
from actsec.study.commands import study


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(actsec.__version__, prog_name="actsec")
def cli() -> None:
    """Tell the truth about a PyTorch classifier's robustness and confidence."""


for _command in (
    *(audit.audit_command, audit.resume, audit.merge, attack.attack_command, defend.defend_command),
    *(diagnose.diagnose_command, study, init.init, report.report, report.compare, report.schema),
    *(explain.list_command, explain.explain),
):
    cli.add_command(_command)


def _uncoloured(_context: click.Context, _option: click.Parameter, given: bool) -> None:
    if given:
        os.environ["NO_COLOR"] = "1"


def _every(group: click.Group) -> Iterator[click.Command]:
    """The group and every command below it."""
    yield group
    for command in group.commands.values():
        yield from _every(command) if isinstance(command, click.Group) else (command,)


for _command in _every(cli):
    _help = "Plain text, as where NO_COLOR is set."
    _command.params.append(
        click.Option(["--no-color"], is_flag=True, expose_value=False, is_eager=True, callback=_uncoloured, help=_help)
    )


def main() -> None:
    """Entry point: run the command and exit with the code of its verdict or of its error."""
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as problem:
        problem.show()
        code = 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        code = Interrupted.exit_code
    except ActsecError as problem:
        label = "interrupted" if isinstance(problem, Interrupted) else "error"
        say(f"{label}: {problem.problem}", err=True)
        if problem.mend:
            say(f"  {problem.mend}", err=True)
        code = problem.exit_code
    except BrokenPipeError:
        sys.stderr.close()
        code = 0
    except SystemExit:
        # click returns its codes, but where a shell asks for completions. Else it is code that was executed, and 0
        # would say that gates are met.
        if completing.ASKED in os.environ:
            raise
        say("error: the code of the model, the data or a plug-in ended the process", err=True)
        say("  Leave sys.exit out of it.", err=True)
        code = UsageError.exit_code
    except Exception as problem:  # noqa: BLE001  # a bug of ours: one line, and how to see the rest
        import traceback

        if os.environ.get("ACTSEC_TRACEBACK"):
            traceback.print_exc()
        last = traceback.extract_tb(problem.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        say(f"internal error: {type(problem).__name__}: {problem} ({where})", err=True)
        say("  This is a bug in actsec. ACTSEC_TRACEBACK=1 shows where.", err=True)
        code = ActsecError.exit_code
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
