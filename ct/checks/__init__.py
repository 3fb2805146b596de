"""Checks of data: leakage, domain shift, series geometry, shared UIDs."""
