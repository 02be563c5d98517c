"""Rendered training data: ten generic surface defects, drawn on any surface picture with an exact mask."""
