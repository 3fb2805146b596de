"""Checks of data: head CT, the series that is read, domain shift, leakage, series geometry, shared UIDs."""
