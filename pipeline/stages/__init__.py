"""The stages, one module each, named as the verb."""
