"""Labelled synthetic chest films with controlled anatomy and pathology, from a recipe."""

__version__ = "0.1.0"
