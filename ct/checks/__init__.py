"""Checks of data: head CT, choice of series, domain shift, leakage, geometry, shared UIDs."""
