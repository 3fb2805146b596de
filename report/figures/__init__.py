"""Drawings of the report as SVG: curves and dot plots by matplotlib, strips of slices by hand."""
