"""A command: built from its settings, parsed by cyclopts, and carried out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from cyclopts import App, CycloptsError, UnknownOptionError, UnusedCliTokensError

from adabldm import __version__
from adabldm.app.options import (
    CommandSettings,
    gather,
    in_words,
    merge,
    options_of,
    read_config,
    signature,
    with_bare_values,
)
from adabldm.app.output import ReaderLeft
from adabldm.core.errors import InputError
from adabldm.core.settings import Settings, SettingsError

if TYPE_CHECKING:
    from adabldm.core.events import Listener

COMPLETION = "Install completion of commands and options for bash, zsh or fish (the shell in use, or --shell NAME)."


class Command:
    """A command. Its options and their help are derived from the settings' fields, its name from that of its function.

    Args:
        settings: class of the settings.
        call: carries the command out; it is given settings, surface and a listener.
        summary: one sentence for the help.
        examples: lines for the end of the help.
        surface: class of what it understands beside its settings.
    """

    def __init__(
        self,
        settings: type[Settings],
        call: Callable[[Any, Any, Listener], None],
        summary: str,
        *examples: str,
        surface: type[CommandSettings] = CommandSettings,
    ) -> None:
        self.name = call.__name__.strip("_").replace("_", "-")
        self.settings, self.call, self.surface = settings, call, surface
        self.summary, self.examples = summary, examples

    def function(self, *, required: bool) -> Callable[..., None]:
        """The function that the parser calls; its signature holds the options."""

        def run(*places: Any, **options: Any) -> None:
            self.run({**dict(zip(names, places, strict=False)), **options})

        shape = signature((self.settings, self.surface), required=required)
        names = list(shape.parameters)
        run.__signature__ = shape  # type: ignore[attr-defined]
        return run

    def run(self, given: dict[str, Any]) -> None:
        """Carry the command out.

        Args:
            given: what was typed, by parameter of the function.

        Raises:
            InputError: values that do not fit, by the names of their options.
        """
        kinds, config = (self.settings, self.surface), None
        try:
            surface, values = self.surface.create(gather(self.surface, given)), gather(self.settings, given)
            config = surface.config
            if config is not None:
                own, common = read_config(config, kinds)
                surface = self.surface.create({**common, **gather(self.surface, given)})
                values = merge(own, values, self.settings)
            self._carry_out(self.settings.create(values), surface)
        except SettingsError as error:
            raise InputError(in_words(error, kinds, config)) from error

    def _carry_out(self, settings: Settings, surface: CommandSettings) -> None:
        from adabldm.app.progress import ProgressBar
        from adabldm.core.events import log_file, to_all

        with ExitStack() as stack:
            listeners: list[Listener] = [stack.enter_context(ProgressBar(quiet=surface.quiet))]
            if surface.log_file is not None:
                listeners.append(stack.enter_context(log_file(surface.log_file)))
            self.call(settings, surface, to_all(listeners))


def application(commands: Sequence[Command], summary: str, *, required: bool = True) -> App:
    """The whole command line.

    Args:
        commands: in the order of the help.
        summary: one sentence for the help.
        required: insist on options without a default, as the help says; else the settings insist, also those of a file.
    """
    app = App(name="adabldm", version=f"adabldm {__version__}", help=summary, help_format="plaintext")
    for place, command in enumerate(commands):
        epilogue = "\n".join(["Examples:", *(f"  {example}" for example in command.examples)])
        app.command(
            command.function(required=required),
            name=command.name,
            help=command.summary,
            help_epilogue=epilogue,
            sort_key=place,
        )
    app.register_install_completion_command(help=COMPLETION)
    return app


def parse(tokens: Sequence[str], commands: Sequence[Command], summary: str) -> None:
    """Carry out a command line.

    Raises:
        AdaBLDMError: it cannot be understood, or the command cannot be carried out.
        ReaderLeft: nobody reads its output any more.
    """
    if not tokens:
        names = ", ".join(command.name for command in commands)
        raise InputError(f"COMMAND: missing, expected one of {names}; `adabldm --help` explains them.")
    app = application(commands, summary, required=bool({"--help", "-h"} & set(tokens)))
    tokens = with_bare_values(tokens, [one.settings for one in commands if one.name == tokens[0]])
    try:
        app(tokens, print_error=False, exit_on_error=False, result_action="return_value")
    except UnusedCliTokensError as error:
        extra = " ".join(error.unused_tokens or ())
        raise InputError(f"{extra}: unexpected; `adabldm {tokens[0]} --help` shows what is understood.") from error
    except UnknownOptionError as error:
        unknown = (error.token.keyword or error.token.value).partition("=")[0]
        by_place = next((text for one in commands if one.name == tokens[0] if (text := _by_place(one, unknown))), None)
        raise InputError(by_place or " ".join(str(error).split())) from error
    except CycloptsError as error:
        raise InputError(" ".join(str(error).split())) from error
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # so ends the library that prints the help
            raise ReaderLeft from error
        if isinstance(error.__context__, KeyboardInterrupt):  # and so the one that reads the command line
            raise error.__context__ from None
        raise


def _by_place(command: Command, unknown: str) -> str | None:
    """How to give a value that was given as an option but has its place; `None` if there is no such value."""
    named = (option.name for option in options_of(command.settings) if option.positional)
    name = next((one for one in named if unknown == f"--{one.lower()}"), None)
    if name is None:
        return None
    return f"{unknown}: no option, because {command.name} takes {name} by its place, as in `{command.examples[0]}`."
