"""AdaBLDM: realistic images of industrial defects, with exact masks, from a few real ones."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("adabldm")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "unknown"
