"""AdaBLDM: realistic images of industrial defects, with exact masks, from a few real ones."""

__version__ = "0.1.0"
