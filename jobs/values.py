"""What the keys of a job may hold: each kind of value in the words of a refusal."""

from __future__ import annotations

import re
from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue

from .refusal import Meant, at_key


def _named(model: object) -> object:
    """A model's name alone as the mapping it stands for."""
    return {"name": model} if isinstance(model, str) else model


def _listed(task: object) -> object:
    """A task as the list it stands for; anything else is left for the type check."""
    if isinstance(task, str):
        return (task,)
    return tuple(task) if isinstance(task, list) else task


def _bytes(size: object) -> object:
    """Bytes of a text such as 4GB or 512MiB; anything else is left for the type check."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMGT])(i?)B", size) if isinstance(size, str) else None
    if not match:
        return size
    return int(float(match[1]) * (1024 if match[3] else 1000) ** ("KMGT".index(match[2]) + 1))


def _prices(text: object) -> object:
    """Prices of a text such as A100=1.8,T4=0.4; anything else is left for the type check."""
    pairs = re.findall(r"([^=,]+)=(\d+(?:\.\d+)?)(?:,|$)", text) if isinstance(text, str) else []
    return {name.strip(): float(price) for name, price in pairs} or text


def _classes(told: object) -> object:
    """Values and classes of a text such as 11=2,21=3, or by JSON's texts; anything else is left for the type check."""
    if isinstance(told, str):
        if not re.fullmatch(r"-?\d+=\d+(, *-?\d+=\d+)*", told):
            return told
        pairs = [(int(value), int(kind)) for value, kind in re.findall(r"(-?\d+)=(\d+)", told)]
    elif isinstance(told, dict):
        pairs = [(_whole(value), kind) for value, kind in told.items()]
    else:
        return told
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(value for value, often in Counter(value for value, _ in pairs).items() if often > 1)
        raise at_key("classes", f"{twice} is there twice: say once which class it stands for")
    return found


def _whole(key: Any) -> Any:  # noqa: ANN401
    """The number of a text, as JSON has it for a key; anything else is left for the type check."""
    return int(key) if isinstance(key, str) and re.fullmatch(r"-?\d+", key) else key


def _share_or_whole(gpus: float) -> float:
    if gpus > 1 and gpus % 1:
        raise ValueError(gpus)
    return gpus


File = Annotated[str, Field(min_length=1), Meant("the path of a file or folder")]
Name = Annotated[str, Field(min_length=1), Meant("a name")]
Count = Annotated[int, Field(ge=1), Meant("a whole number from 1 up")]
Whole = Annotated[int, Field(ge=0), Meant("a whole number from 0 up")]
Factor = Annotated[int, Field(ge=2), Meant("a whole number from 2 up")]
Seed = Annotated[int, Field(ge=0, lt=2**64), Meant("a whole number from 0 to 2^64 - 1")]
Flag = Annotated[bool, Meant("true or false")]
Number = Annotated[float, Meant("a number")]
Share = Annotated[float, Field(ge=0, allow_inf_nan=False), Meant("a number from 0 up")]
Accelerators = Annotated[
    float,
    Field(ge=0, allow_inf_nan=False),
    AfterValidator(_share_or_whole),
    Meant("a share below 1, or a whole number"),
]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), Meant("a number above 0")]
Noise = Annotated[float, Field(ge=0, le=1), Meant("a number from 0 to 1")]
Begin = Annotated[Annotated[float, Field(gt=0, le=1)] | Literal["auto"], Meant("a number above 0, up to 1, or auto")]
AutoCount = Annotated[Annotated[int, Field(ge=1)] | Literal["auto"], Meant("a whole number from 1 up, or auto")]
AutoWhole = Annotated[Annotated[int, Field(ge=0)] | Literal["auto"], Meant("a whole number from 0 up, or auto")]
Finite = Annotated[float, Field(allow_inf_nan=False, strict=True)]
# YAML has lists only, so that the pair cannot be strict about being a tuple; its two numbers are.
Span = Annotated[tuple[Finite, Finite], Field(strict=False), Meant("two numbers, the lower first, such as [0, 255]")]
Task = Annotated[
    tuple[str, ...],
    BeforeValidator(_listed),
    Meant("what was done to the image, such as sr:4 or [inpaint, colorize, sr:2]"),
]
Model = Annotated[
    dict[str, JsonValue], BeforeValidator(_named), Meant("a model's name, or a mapping of its name and options")
]
Bytes = Annotated[int, Field(ge=1), BeforeValidator(_bytes), Meant("a number of bytes, or a text such as 4GB")]
Prices = Annotated[
    dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]],
    BeforeValidator(_prices),
    Meant("a mapping of kinds of machines to numbers, such as {A100: 1.8}"),
]
Classes = Annotated[
    Annotated[dict[Annotated[int, Field(ge=-(2**63), lt=2**63)], Annotated[int, Field(ge=0)]], Field(min_length=1)]
    | Literal["ade20k", "celeba", "cityscapes", "coco"],
    BeforeValidator(_classes),
    Meant("ade20k, celeba, cityscapes or coco, or a mapping of values to classes, such as {11: 2, 21: 3}"),
]
Url = Annotated[
    str,
    Field(pattern=r"^https?://[^/\s@]+(/\S*)?$"),
    Meant("an address such as http://169.254.169.254/latest/meta-data/spot/instance-action"),
]
Mapped = Meant("a mapping of keys and values")
