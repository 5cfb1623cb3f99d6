"""Draws that draft and target share through common noise."""
