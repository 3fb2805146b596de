"""Checks of data: head CT, domain shift, leakage, series geometry, shared UIDs."""
