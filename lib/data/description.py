"""What may stand in the YAML that describes a table: the keys, their types and their defaults.

`data/description.schema.json` is made from these classes (`python -m lib.data.description`), so
that editors complete keys and mark mistakes.
"""

from __future__ import annotations

import codecs
import datetime
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from lib.bundle.raw import label_word
from lib.bundle.recipe import parsed
from lib.data import budgets, recipe
from lib.errors import DataError, did_you_mean
from lib.files import write_text

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ROOT / "data" / "description.schema.json"
BUDGET = 0.002  # of transactions that people review, where the description does not say
FRAUD, GENUINE, UNLABELLED = 1, 0, -1  # y; unlabelled: its label is not known yet
YAML_BOOLEANS = {True: ("true", "yes", "on"), False: ("false", "no", "off")}  # how they are written
BUDGETS = (0.001, BUDGET, 0.005, 0.01)
TABS = {"tab": "\t", "\\t": "\t"}  # how a tab may be written
A_PATTERN = "expected a pattern such as '%m/%d/%Y %H:%M'"
LABEL_LISTS = {"fraud": FRAUD, "genuine": GENUINE, "unknown": UNLABELLED}


def _name(value: Any) -> Any:
    """Return a column's name as text; refuse what YAML has read as something else."""
    if value is None or isinstance(value, bool | float | datetime.date):
        raise ValueError(
            "YAML does not read this as a name: put quotes around it, such as 'on' or 'no'"
        )
    return str(value) if isinstance(value, int) else value


def _feature(value: Any) -> Any:
    """Return a column's name, or the derived feature that a mapping stands for."""
    if isinstance(value, dict):
        return parsed(value)
    name = _name(value)
    if not isinstance(name, str):
        raise ValueError("expected the name of a column, or a mapping such as {category: shop}")
    return name


def _several(value: Any) -> Any:
    """Return a list where one value may stand for it."""
    return value if isinstance(value, list | tuple) else [value]


def _no_list(value: Any) -> Any:
    """Return an empty list for a key without a value."""
    return [] if value is None else value


def _encoding(value: Any) -> Any:
    """Return the name of an encoding of text; YAML reads `1252` as a number."""
    name = str(value)
    try:
        "".encode(name)  # unlike codecs.lookup, this refuses base64 and the like
        # and this idna and punycode, in which no file is written
        codecs.getincrementaldecoder(name)("surrogateescape").decode(b"")
    except (LookupError, ValueError) as error:
        raise ValueError(
            "Python knows no such encoding of text; common ones are utf-8, cp1252, latin-1"
        ) from error
    return name


def _separator(value: Any) -> str:
    """Return the one character that a value stands for."""
    character = TABS.get(str(value), value)
    is_one = isinstance(character, str) and len(character) == 1
    if not is_one or not _can_separate(character):
        raise ValueError("expected one character, such as ';', or the word tab")
    return character


def _can_separate(character: str) -> bool:
    """Return whether a character may stand between cells."""
    is_in_cells = character.isalnum() or character in '"\r\n'
    return character.isascii() and not is_in_cells


def _format(value: Any) -> Any:
    """Return a pattern of dates that pandas can follow."""
    if not isinstance(value, str) or "%" not in value:
        raise ValueError(A_PATTERN)
    from pandas import to_datetime  # here: whoever only wants the schema does not wait for it

    try:
        to_datetime(["a date"], format=value, errors="coerce")
    except (ValueError, re.error) as error:
        raise ValueError(f"{error}; {A_PATTERN}") from error
    return value


def _words(value: Any) -> tuple[str, ...]:
    """Return the words that a value of a label's list stands for."""
    if isinstance(value, bool):
        return YAML_BOOLEANS[value]
    return (label_word(value),)


Name = Annotated[str, BeforeValidator(_name)]
Feature = Annotated[Any, BeforeValidator(_feature), WithJsonSchema(recipe.schema())]
Names = Annotated[tuple[Name, ...], BeforeValidator(_no_list)]
Share = Annotated[float, Field(gt=0, lt=1)]
Shares = Annotated[tuple[Share, ...], BeforeValidator(_several), Field(min_length=1)]


class Strict(BaseModel):
    """A block of the description: an unknown key is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LabelWords(Strict):
    """How a column says fraud and genuine in words of its own."""

    column: Name = Field(description="the label's column")
    fraud: Annotated[tuple[Any, ...], BeforeValidator(_several), Field(min_length=1)] = Field(
        description="values that mean fraud"
    )
    genuine: Annotated[tuple[Any, ...], BeforeValidator(_several), Field(min_length=1)] = Field(
        description="values that mean genuine"
    )
    unknown: Annotated[tuple[Any, ...], BeforeValidator(_several)] = Field(
        (), description="values that mean that nobody knows yet"
    )

    @property
    def meanings(self) -> dict[str, int]:
        """What each word means, as `label_word` writes it: 1, 0 or -1 (unknown)."""
        meanings = {}
        for key, meaning in LABEL_LISTS.items():
            for value in getattr(self, key):
                words = _words(value)
                meanings.update(dict.fromkeys(words, meaning))
        return meanings

    @model_validator(mode="after")
    def _one_meaning_a_word(self) -> LabelWords:
        """Refuse a word of two lists, and an empty one: an empty cell is always unknown."""
        list_of: dict[str, str] = {}
        for key in LABEL_LISTS:
            for value in getattr(self, key):
                is_empty = value is None or not str(value).strip()
                if is_empty and key != "unknown":
                    raise ValueError(
                        f"`{key}` holds an empty value; an empty cell always means not known"
                    )
                for word in _words(value):
                    other = list_of.setdefault(word, key)
                    if other != key:
                        raise ValueError(
                            f"{word!r} is in `{other}` and in `{key}`, as case is ignored; "
                            "leave it in one of them"
                        )
        return self


class Raw(Strict):
    """Where the raw file comes from, and what a download of it must hold to be kept."""

    path: str | None = Field(None, description="file or folder, from this YAML's folder; ~ is home")
    url: str | None = Field(None, description="where it is downloaded from if it is not there")
    rows: int | None = Field(None, description="rows that a download must have")
    frauds: int | None = Field(None, description="frauds that a download must have")
    fingerprint: str | None = Field(
        None, description="SHA-256 over time, amount in cents and label of all rows in order"
    )


class Simulation(Strict):
    """What is simulated."""

    of: Literal["card data", "payments"] = Field(
        "card data",
        description="card data: features like those of the published file; payments: raw payments "
        "with cards, merchants and categories",
    )
    rows: Annotated[int, Field(ge=1)] = Field(description="transactions")
    seed: int = Field(0, description="another seed draws other transactions")
    drift: bool = Field(True, description="known changes in the untouched period")


class Description(Strict):
    """A table of transactions: what its columns mean and how its files are read."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$"), BeforeValidator(_name)] = (
        Field(description="folder under data/, part of the registered model's name")
    )
    time: Name | tuple[Name, Name] | None = Field(
        description="orders the rows and is no feature: numbers, or dates and times; two columns "
        "for "
        "date and time; null: the order of the rows"
    )
    time_format: Annotated[str, BeforeValidator(_format)] | None = Field(
        None, description="of dates that are not ISO 8601, such as '%m/%d/%Y %H:%M'"
    )
    time_unit: Literal["s", "ms", "us", "ns", "min", "h", "d"] | None = Field(
        None, description="of a time that is a number; seconds by default"
    )
    label: Name | LabelWords | None = Field(
        None, description="1 = fraud, 0 = genuine, empty = not known yet; other words by lists"
    )
    amount: Name | None = Field(None, description="for figures in money")
    weight: Name | None = Field(None, description="how many transactions a row stands for")
    features: Annotated[tuple[Feature, ...], Field(min_length=1)] = Field(
        description="what models see, in this order: columns of numbers, and what is derived"
    )
    entities: Names = Field(
        (), description="columns whose values have histories, such as cards; kept beside the scores"
    )
    timezone: Name | None = Field(
        None, description="of hours and days that are features, such as Europe/Paris; UTC"
    )
    ids: Names = Field((), description="columns that are kept as text beside the scores")
    missing: Literal["refuse", "median"] = Field("refuse", description="an empty cell in a feature")
    negative_amount: Literal["refuse", "allow"] = Field("refuse", description="refunds")
    alert_budgets: Shares = Field(BUDGETS, description="shares of transactions for the tables")
    alert_budget: Share | None = Field(
        None,
        description="share of transactions that people review; decides between models and sets the "
        "threshold; 0.002 if it is listed in alert_budgets, else the first of them",
    )
    reviews_per_day: Annotated[int, Field(ge=1, strict=True)] | None = Field(
        None, description="the same as transactions that people review a day, in its place"
    )
    separator: Annotated[str, BeforeValidator(_separator)] | None = Field(
        None, description="between the cells of a CSV file; found out by default"
    )
    decimal: Literal[".", ","] | None = Field(
        None, description="decimal point of a CSV file; found out by default"
    )
    encoding: Annotated[str, BeforeValidator(_encoding)] | None = Field(
        None, description="of a CSV file; UTF-8 by default; a byte-order mark counts more"
    )
    raw: Raw = Field(Raw(), description="where the raw file comes from")
    simulation: Simulation | None = Field(None, description="only of simulated data")

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, mapping: Any) -> Any:
        """Let `raw:` without anything below it mean what leaving it out means."""
        if not isinstance(mapping, dict):
            return mapping
        filled = dict(mapping)
        if filled.get("raw", "") is None:
            del filled["raw"]
        return filled

    @model_validator(mode="after")
    def _one_budget(self) -> Description:
        """Refuse a budget that is given in both units."""
        budgets.check_one(self.alert_budget, self.reviews_per_day)
        return self

    @model_validator(mode="after")
    def _keys_of_time_that_count(self) -> Description:
        """Refuse what says how the time is written where the time is something else."""
        unit = ("time_unit", self.time_unit)
        pattern = ("time_format", self.time_format)
        order = "the time is the order of the rows"
        pair = "the time is a date and a clock in two columns"
        date = "`time_format` says that the time is a date"
        rules = [
            (pattern, self.time is None, order),
            (unit, self.time is None, order),
            (unit, isinstance(self.time, tuple), pair),
            (unit, self.time_format is not None, date),
        ]
        for (key, value), is_other, reason in rules:
            if value is not None and is_other:
                raise ValueError(f"`{key}` has no effect, as {reason}; leave it out")
        return self


class Loader(yaml.SafeLoader):
    """Reads 007, 12:30, 0x1F and 1_000 as the names and words that they are in a table."""


INTEGER = "tag:yaml.org,2002:int"
Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != INTEGER]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(INTEGER, re.compile(r"[+-]?(0|[1-9]\d*)$"), list("+-0123456789"))


def read(path: Path) -> Any:
    """Return what a YAML file holds; DataError if it cannot be read."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader)
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: cannot be read as YAML: {reason}") from error


def validated(mapping: Any, where: str) -> Description:
    """Return a checked description.

    Raises DataError naming the key, the value and, for a typo, the nearest key.
    """
    if not isinstance(mapping, dict):
        raise DataError(f"{where}: holds {mapping!r}; expected lines such as `key: value`")
    mapping = {_key(key, where): value for key, value in mapping.items()}
    try:
        return Description.model_validate(mapping)
    except ValidationError as error:
        raise DataError(_sentence(error, where)) from error


def _key(key: Any, where: str) -> str:
    if isinstance(key, int | str) and not isinstance(key, bool):
        return str(key)
    raise DataError(
        f"{where}: YAML reads a key as {_as_yaml(key)}; put quotes around it if it is a name"
    )


BRANCH = re.compile(r"[\[(]|^str$|^LabelWords$|^float$")


def _sentence(error: ValidationError, where: str) -> str:
    """Return one sentence on the first thing that is wrong."""
    first = min(error.errors(), key=_gravity)
    path = [part for part in first["loc"] if not _is_branch(part)]
    keys = [str(part) for part in path]
    names = [part for part in path if isinstance(part, str)]  # the others are places in a list
    if not names:
        return f"{where}: {first['ctx']['error']}"
    return f"{where}: {_complaint(first, keys, '.'.join(names))}"


def _complaint(found: Any, keys: list[str], key: str) -> str:
    """Return what is wrong with the value of a key."""
    kind = found["type"]
    value = _as_yaml(found["input"])
    if kind == "extra_forbidden":
        *above, last = keys
        advice = did_you_mean(last, _fields(above))
        return f"the key {last!r} is unknown; {advice}"
    if kind == "too_short":
        return f"{key} is empty; list its values"
    if kind == "missing":
        return f"the key {key!r} is missing"
    if kind == "value_error":
        reason = found["ctx"]["error"]
        return f"{key} holds {value}; {reason}"
    if kind == "literal_error":
        expected = found["ctx"]["expected"]
        return f"{key} is {value}; expected {expected}"
    return f"{key} is {value}; {_expected(found, keys)}"


def _as_yaml(value: Any) -> str:
    """Return a value for a message about as it stands in the YAML, dates and true included."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return str(value) if isinstance(value, datetime.date) else repr(value)


def _expected(found: Any, keys: list[str]) -> str:
    """Return what belongs where the value of a key has another type."""
    block = keys[0]
    if found["type"] == "string_pattern_mismatch":
        return "it is made of letters, digits, '-' and '_'"
    if block in ("alert_budget", "alert_budgets"):
        return "expected shares between 0 and 1, such as 0.002"
    if block == "reviews_per_day":
        return "expected a whole number of transactions, such as 50"
    if block in ("features", "ids", "entities") and len(keys) == 1:
        return "expected a list of column names"
    if block in ("features", "ids", "entities", "time", "label", "amount", "weight"):
        return "expected the name of a column"
    if found["type"] == "model_type":
        return f"expected a block of keys: {', '.join(_fields(keys))}"
    if block == "raw":
        return "put quotes around text, none around numbers"
    return found["msg"].replace("Input should be", "expected")


def _gravity(found: Any) -> tuple[int, int]:
    """Order mistakes: a typo explains more than the key that it leaves missing."""
    kind = found["type"]
    depth = len(found["loc"])
    if kind == "string_type" and isinstance(found["input"], dict):
        return 4, 0  # the other branch of the key, which takes a block, says what is wrong with it
    gravities = {"extra_forbidden": 0, "value_error": 1, "missing": 3}
    return gravities.get(kind, 2), -depth


def _is_branch(part: Any) -> bool:
    """Return whether a part of a location names a branch of a union, which is no key."""
    return isinstance(part, str) and BRANCH.search(part) is not None


def _fields(keys: list[str]) -> list[str]:
    """Return the keys of the block that these keys lead to."""
    blocks: dict[str, type[BaseModel]] = {
        "raw": Raw,
        "simulation": Simulation,
        "label": LabelWords,
    }
    block: type[BaseModel] = Description
    if keys:
        block = blocks.get(keys[0], Description)
    return list(block.model_fields)


def schema() -> str:
    """Return the JSON Schema of a description."""
    document = Description.model_json_schema()
    document["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps(document, indent=1) + "\n"


def main() -> None:
    """Write the schema beside the descriptions."""
    write_text(SCHEMA, schema())


if __name__ == "__main__":
    main()
