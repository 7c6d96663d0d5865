"""The root of the command line: its own options, and what its exit codes mean."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

LOOK = "Look at a run"
MEASURE = "Measure a model or a checkpoint"
TRY = "Try it"
FAILED = 1
"""Exit code of anything that went wrong, options that are mistyped among it."""
FOUND = 2
"""Exit code of ``alarms --fail-on``, where it found what it was to look for."""

HELP = f"""\
Watch the rank of every layer of a PyTorch model while it trains.

Training writes a log: svdhooks.watch(model, "runs/exp1"), or a callback of Lightning or \
Hugging Face. These commands read such logs, and measure models and checkpoints.

Exit codes: 0 fine, {FAILED} error, {FOUND} alarms found by [bold]alarms --fail-on[/bold]."""


@contextmanager
def _mistyped_is_an_error() -> Iterator[None]:
    """Give usage errors the code of all errors: 2 means alarms, and CI may ask."""
    try:
        yield
    except Exception as error:
        # typer brings its own copy of click or uses the one installed
        if hasattr(error, "show") and getattr(error, "exit_code", 0) == FOUND:
            error.exit_code = FAILED  # type: ignore[attr-defined]
        raise


class _Group(TyperGroup):
    """A group whose usage errors end with 1."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Parse the options that stand before a command."""
        with _mistyped_is_an_error():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        """Parse the rest and run the command."""
        with _mistyped_is_an_error():
            return super().invoke(ctx)


app = typer.Typer(
    name="svdhooks",
    cls=_Group,
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> bool:
    if wanted:
        import svdhooks

        typer.echo(f"svdhooks {svdhooks.__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _root(
    _version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            help="Show the version and leave.",
        ),
    ] = False,
) -> None:
    """Take the options that stand before a command."""


def main() -> None:
    """Run the command line."""
    app()


def lesson(what: str, when: str, *examples: str, more: str = "") -> str:
    """The help of a command.

    Args:
        what: What it does, in a sentence.
        when: When to use it.
        examples: Commands.
        more: Anything else, between the two.

    Returns:
        Paragraphs in rich's markup.
    """
    lines = "\n".join(f"  [cyan]{example}[/cyan]" for example in examples)
    parts = (what, when, more, "[bold]Examples[/bold]", lines)
    return "\n\n".join(part for part in parts if part)
