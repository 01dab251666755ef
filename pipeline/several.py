"""A command asked for with several encoders: one set of its configs for each of their stores.

Two ways to ask: `--backbone` more than once, each with its defaults, or a file with a table a
store. What else is asked for holds for every store whose encoder has such a setting; what a
store's own table says wins.

    views = 16
    [stores.qwen-merged]           # the name of the store; of the encoder too, where it says none
    backbone = "qwen2.5-vl-vision"
    merger = "after"

Standard library only.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.settings import Choice, Setting, settings
from vega3d.pipeline.texts import meant

TABLES = "stores"


@dataclass(frozen=True, kw_only=True, slots=True)
class Several:
    """What a command does that takes several encoders."""

    run: Callable[[Mapping[str, Mapping[str, Any]]], None]
    """Called with what the command's function would be given, for each store by its name."""

    own: Callable[[Sequence[str], str], Sequence[str]]
    """Arguments, and a store's name -> what is added to them for that store, such as its place."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One of several stores, as a command line and a file ask for it."""

    name: str
    choice: str
    """Name of its encoder."""

    table: Mapping[str, Any]
    """What the file says of it alone."""


def asked_for(item: Setting, args: Sequence[str], tables: Mapping[str, Any] | None) -> list[Asked]:
    """Return the stores that are asked for; [] where it is one, as usual.

    Args:
        item: The setting that names an encoder.
        args: Of the command.
        tables: Of the file, by store; None where it has none.

    Raises:
        UsageError: Both ask, two stores have one name, or an encoder is not known.
    """
    named = _values(args, (item.flag, item.alias))
    assert item.choice is not None
    if tables is not None:
        if named:
            raise UsageError(f"the file lists the stores; leave {item.flag} out")
        found = [_from_table(item, name, table) for name, table in tables.items()]
    elif len(named) < 2:
        return []
    else:
        found = [Asked(name=name, choice=name, table={}) for name in named]
    counts = Counter(store.name for store in found)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise UsageError(
            f"{item.flag} {twice[0]} is asked for twice; give the two names of their own, "
            f"[{TABLES}.NAME] in a --config file"
        )
    for store in found:
        if store.choice not in item.choice.names():
            known = item.choice.names()
            raise UsageError(
                f"{item.flag} must be one of {', '.join(known)}, got {meant(store.choice, known)}"
            )
        check_store_name(store.name)
    return found


def check_store_name(name: str) -> None:
    """Raise UsageError where a name is none that a folder of its own can have."""
    if not name.replace("-", "").replace(".", "").replace("_", "").isalnum():
        raise UsageError(f"store names are letters, digits, . - and _, got {name!r}")


def arguments(
    item: Setting, stores: Sequence[Asked], store: Asked, args: Sequence[str]
) -> list[str]:
    """Return a command's arguments for one store, without what goes with other encoders alone.

    Raises:
        UsageError: Its table names no setting of its encoder, or `--model` is for all.
    """
    assert item.choice is not None
    known = {one.choice: _flags(item.choice, one.choice) for one in stores}
    mine = known[store.choice]
    if "--model" in {arg.partition("=")[0] for arg in args}:
        raise UsageError(
            f"--model is one encoder's: say it in [{TABLES}.{store.name}] of a --config file"
        )
    foreign = {flag: one for flags in known.values() for flag, one in flags.items()
               if flag not in mine}  # fmt: skip
    dropped = {**foreign, item.flag: item, item.alias: item}
    kept = list(_without(args, dropped))
    return [*kept, item.flag, store.choice, *_spelled(mine, store)]


def idle_keys(choice: Choice, stores: Sequence[Asked], store: Asked) -> set[str]:
    """Return what the file may say for all, and this store's encoder has no setting for."""
    keys = {one.key for other in stores for one in _flags(choice, other.choice).values()}
    return keys - {one.key for one in _flags(choice, store.choice).values()}


def _from_table(item: Setting, name: str, table: Any) -> Asked:  # noqa: ANN401 - of TOML
    if not isinstance(table, Mapping):
        raise UsageError(f"{TABLES}.{name} must be a table of settings, got {table!r}")
    rest = {key: value for key, value in table.items() if key != item.key}
    return Asked(name=name, choice=str(table.get(item.key, name)), table=rest)


def _flags(choice: Choice, name: str) -> dict[str, Setting]:
    return {one.flag: one for one in settings(choice.make(name, {}))}


def _spelled(mine: Mapping[str, Setting], store: Asked) -> Iterator[str]:
    """Yield the options that a store's own table spells."""
    by_key = {one.key: one for one in mine.values()}
    for key, value in store.table.items():
        one = by_key.get(key)
        if one is None:
            raise UsageError(
                f"[{TABLES}.{store.name}]: {store.choice} has no setting {key!r}; "
                f"it has {', '.join(by_key)}"
            )
        if one.kind is bool:
            yield one.flag if value else f"--no-{one.flag[2:]}"
            continue
        try:
            text = one.spelled(value)
        except ValueError as error:
            raise UsageError(f"[{TABLES}.{store.name}]: {key}: {error}") from error
        yield f"{one.flag}={text}"


def _values(args: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Return what follows each of the flags, in order."""
    found = []
    for index, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name and name in flags:
            found.append(value if equals else next(iter(args[index + 1 :]), ""))
    return found


def _without(args: Sequence[str], dropped: Mapping[str, Setting]) -> Iterator[str]:
    """Yield the arguments but for some options and their values."""
    skip = False
    for arg in args:
        if skip:
            skip = False
            continue
        name, equals, _ = arg.partition("=")
        positive = f"--{name.removeprefix('--no-')}" if name.startswith("--no-") else name
        one = dropped.get(name) or dropped.get(positive)
        if not name or one is None:
            yield arg
        else:
            skip = one.kind is not bool and not equals
