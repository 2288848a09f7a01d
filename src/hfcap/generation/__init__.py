"""Captioning images with a trained model."""
