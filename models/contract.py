"""What a denoiser needs and promises, as plain data: read by the planner, so torch stays out of here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Literal, get_args

from ..tiling.errors import InputError

Covariance = Literal["exponential", "matern32", "matern52"]
Model = str | Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Contract:
    """A denoiser's terms, checked before anything starts.

    Sizes are pixels of the network's window. ``bands`` None means any number; ``value_range`` None
    means values without bounds, so that predictions are never clipped. ``conditions`` names what the
    network is told besides the noisy window and its timestep; ``betas`` and ``timesteps`` are the
    noise schedule it was made for.
    """

    name: str
    bands: int | None = None
    size_multiple: int = 1
    native_tile: int = 64
    smallest_tile: int = 1
    value_range: tuple[float, float] | None = (-1.0, 1.0)
    conditions: tuple[str, ...] = ()
    betas: str = "linear"
    timesteps: int = 1000

    def check(self, tile: tuple[int, int], bands: int) -> None:
        """Refuse a window (rows, columns) or a number of bands that the network cannot take."""
        if self.bands not in (None, bands):
            raise InputError(
                f"model {self.name} works on {self.bands} bands, the image has {bands}; choose another model"
            )
        multiple = self.size_multiple
        for size in tile:
            if size < self.smallest_tile or size % multiple:
                nearest = max(round(size / multiple), -(-self.smallest_tile // multiple)) * multiple
                raise InputError(
                    f"tile {size} does not suit model {self.name}: it takes multiples of {multiple} "
                    f"from {self.smallest_tile} up; the nearest is {nearest}"
                )


@dataclass(frozen=True, slots=True)
class GaussianSpec:
    """A stationary Gaussian field in model range, its covariance a product over rows, columns and bands.

    ``length`` is the correlation length in pixels of the image itself; coarser levels are this field
    pooled. Any two bands have the correlation ``band_correlation``.
    """

    covariance: Covariance = "matern32"
    length: float = 12.0
    std: float = 0.4
    mean: float = 0.0
    band_correlation: float = 0.5

    def __post_init__(self) -> None:
        """Refuse values that describe no field."""
        if self.covariance not in get_args(Covariance):
            raise InputError(
                f"model.covariance is {self.covariance!r}; choose one of {', '.join(get_args(Covariance))}"
            )
        for name in ("length", "std", "mean", "band_correlation"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
                raise InputError(f"model.{name} is {value!r}; give a finite number")
        if self.length <= 0:
            raise InputError(f"model.length is {self.length}; give a correlation length above 0 pixels")
        if self.std <= 0:
            raise InputError(f"model.std is {self.std}; give a standard deviation above 0")
        if not 0 <= self.band_correlation < 1:
            raise InputError(
                f"model.band_correlation is {self.band_correlation}; give a number from 0 up to, not including, 1"
            )


def split_model(model: Model) -> tuple[str, dict[str, object]]:
    """The model's name and its options, from either way of writing them: a name, or a mapping with ``name``."""
    if isinstance(model, str):
        return model, {}
    options = dict(model)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise InputError(f"model.name is missing; name one of {', '.join(sorted(_CONTRACTS))}")
    return name, options


def gaussian_spec(options: Mapping[str, object]) -> GaussianSpec:
    """The field that a model's options describe."""
    known = [field.name for field in fields(GaussianSpec)]
    for name in options:
        if name not in known:
            raise InputError(f"model.{name} is no option of gaussian; its options are {', '.join(known)}")
    return GaussianSpec(**options)  # type: ignore[arg-type]  # __post_init__ checks every value


def contract_of(model: Model) -> Contract:
    """The contract of a model, by name and options, without loading it."""
    name, options = split_model(model)
    if name not in _CONTRACTS:
        raise InputError(f"no model is called {name!r}; there are {', '.join(sorted(_CONTRACTS))}")
    return _CONTRACTS[name](options)


def _gaussian(options: Mapping[str, object]) -> Contract:
    gaussian_spec(options)
    return Contract("gaussian", native_tile=64, smallest_tile=4, value_range=None, conditions=("level",))


_CONTRACTS: dict[str, Callable[[Mapping[str, object]], Contract]] = {"gaussian": _gaussian}
