"""Lookhere: click where your classifier should look."""
