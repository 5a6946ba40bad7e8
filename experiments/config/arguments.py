"""The arguments of `experiments.run`: Hydra's flags and keys, refused where they would do nothing."""

import difflib
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import NoReturn

from hydra._internal.utils import get_args_parser

from experiments.cli import command
from experiments.config import words

# What of Hydra's own keys a run and a sweep heed; `hydra/sweeper=basic` heeds all of them.
OF_RUN = ("hydra.run.dir", "hydra.job.chdir", "hydra.searchpath")
OF_SWEEP = ("hydra.sweep.dir", "hydra.sweeper.params", "hydra/sweeper", "hydra/launcher")


def read(argv: Sequence[str]) -> Namespace:
    """Return the arguments as Hydra's parser names them, and ``words``, ``resume`` beside them.

    ``overrides`` are the words with an ``=``, wherever they stood, without ``resume=``, whose value is
    ``resume`` (None where it is not given). ``words`` are all arguments in the order that Hydra can read.
    Raises ValueError for what Hydra cannot read or this project does not heed.
    """
    parser = get_args_parser()
    _check_flags(argv, parser)
    setattr(parser, "error", _refuse)  # noqa: B010 - argparse would print its usage
    args = parser.parse_intermixed_args(argv)
    flags = _without(argv, args.overrides)
    _check_modes(args)
    args.resume = _taken_out(args)
    if not (args.help or args.hydra_help or args.shell_completion):
        words.check(args.overrides, multirun=args.multirun)
        args.overrides = [_plain(word) for word in args.overrides]
        _check_keys(args)
    args.words = [*args.overrides, *flags]  # an option with an optional value, --info, would take a word
    return args


def _refuse(message: str) -> NoReturn:
    raise ValueError(f"{message}; `--hydra-help` lists the flags, any other word is key=value")


def _check_flags(argv: Sequence[str], parser: ArgumentParser) -> None:
    known = parser._option_string_actions
    for position, word in enumerate(argv):
        flag, equals, value = word.partition("=")
        if word == "--":
            return
        if not word.startswith("-") or flag in known or " " in word:
            continue
        body, following = flag.lstrip("-"), argv[position + 1 : position + 2]
        if f"--{body}" in known:
            raise ValueError(f"{word} must be written --{body}{equals}{value}")
        close = difflib.get_close_matches(f"--{body}", known, n=1, cutoff=0.75)
        if close and not equals:
            raise ValueError(f"{word} is not a flag (did you mean {close[0]}?)")
        if not equals and following and not following[0].startswith("-") and "=" not in following[0]:
            word, equals, value = f"{word} {following[0]}", "=", following[0]
        form = words.pasted(f"{body}={value or '...'}")
        raise ValueError(f"{word} must be written without dashes: {form}")


def _without(argv: Sequence[str], overrides: Sequence[str]) -> list[str]:
    left, flags = list(overrides), []
    for word in argv:
        if left and word == left[0]:
            left.pop(0)
        else:
            flags.append(word)
    return flags


def _check_modes(args: Namespace) -> None:
    if args.experimental_rerun is not None:
        raise ValueError(
            "--experimental-rerun would execute a pickle: resume=<run folder> takes up a run from its files"
        )
    if args.config_path is not None:
        raise ValueError(
            "--config-path would replace conf/: --config-dir adds a folder with your own options"
        )
    if args.package is not None and not args.cfg:
        raise ValueError("--package is for --cfg, as in --cfg job --package trainer")
    if args.resolve and not args.cfg:
        raise ValueError("--resolve is for --cfg, as in --cfg job --resolve")
    asked = {
        "--run": args.run,
        "--multirun": args.multirun,
        "--cfg": args.cfg,
        "--info": args.info,
        "--shell-completion": args.shell_completion,
    }
    given = [flag for flag, value in asked.items() if value]
    if len(given) > 1 and not (args.help or args.hydra_help):
        raise ValueError(
            f"{' and '.join(given)} cannot go together: give one of them"
            + (" (a sweep's fixed part is shown without -m and the swept keys)" if "--cfg" in given else "")
        )


def _taken_out(args: Namespace) -> str | None:
    """Take ``resume=`` out of the overrides and return its value."""
    named = [word for word in args.overrides if word.lstrip("+").startswith("resume=")]
    if not named or args.help or args.hydra_help or args.shell_completion:
        return None
    args.overrides = [word for word in args.overrides if word not in named]
    if len(named) > 1:
        raise ValueError(f"resume must name one run folder, got {' '.join(named)}")
    if args.multirun:
        raise ValueError("resume= takes up one run: leave out -m; a sweep goes on with its own command")
    if args.info or args.cfg not in (None, "job") or args.package:
        raise ValueError("resume= goes with --cfg job alone, which shows the saved configuration")
    return named[0].partition("=")[2]


def _plain(word: str) -> str:
    """Return a word on one of Hydra's keys with the plus signs that the key wants, whatever was typed."""
    key, equals, value = word.partition("=")
    bare = key.lstrip("+")
    if _is_below(bare, ("hydra.sweeper.params",)):
        return f"++{bare}{equals}{value}"  # a mapping that is empty until something is added
    return f"{bare}{equals}{value}" if _is_below(bare, OF_RUN + OF_SWEEP) else word


def _check_keys(args: Namespace) -> None:
    """Raise ValueError for a key of Hydra's that would do nothing."""
    if any(word == "hydra/sweeper=basic" for word in args.overrides):
        return
    heeded: tuple[str, ...] = (
        OF_RUN + OF_SWEEP if args.cfg or args.info else OF_SWEEP if args.multirun else OF_RUN
    )
    if args.resume is not None:
        heeded = ("hydra.run.dir",)
    for word in args.overrides:
        key = word.partition("=")[0].lstrip("+~")
        if not key.startswith(("hydra.", "hydra/")) or _is_below(key, heeded):
            continue
        if key == "hydra.mode" or (_is_below(key, OF_SWEEP) and not args.multirun):
            others = [other for other in args.overrides if not other.lstrip("+").startswith("hydra.mode=")]
            raise ValueError(f"{key} is for a sweep, which -m starts: {command('run', '-m', *others)}")
        raise ValueError(
            f"{key} does nothing here: {'a sweep' if args.multirun else 'a run'} heeds {', '.join(heeded)}"
        )


def check_tool(overrides: Sequence[str]) -> None:
    """Raise ValueError for a key of Hydra's that does nothing where only a configuration is composed."""
    for word in overrides:
        key = word.partition("=")[0].lstrip("+~")
        if key.startswith(("hydra.", "hydra/")) and key != "hydra.searchpath":
            raise ValueError(f"{key} does nothing here: it is for a run or a sweep")


def _is_below(key: str, heeded: Sequence[str]) -> bool:
    return any(key == each or key.startswith(f"{each}.") for each in heeded)
