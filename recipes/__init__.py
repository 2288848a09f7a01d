"""Recipes for training, evaluation and publishing; `hfcap.recipes` in an installed package."""
