"""tileloom restores and generates images far larger than memory, tile by tile, exactly."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .tiling.view import open_result as open

__all__ = ["__version__", "open"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:  # noqa: ANN401  whatever the module's attribute is
    """Load what the package offers on first use, so that ``tileloom --help`` loads neither zarr nor dask."""
    if name == "open":
        return import_module(".tiling.view", __name__).open_result
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
