"""`keyhaus check`: looks for damage, and changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keyhaus.cli import report
from keyhaus.store.repair import check as checking


def check(
    directory: Annotated[
        Path, typer.Argument(help="A database that no server has open, a directory of backups, or an archive.")
    ],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Read every file of a database, of backups or of an archive, and say what is wrong, in which file and where.

    It changes nothing. The exit status is 0 where nothing is damaged, 1 where anything is or the check can't be done.
    """
    with report.failures():
        report.findings(checking.check(directory, report.progress), json)
