"""The stages, one module each, named as the verb; pipeline/registry.py has their table."""
