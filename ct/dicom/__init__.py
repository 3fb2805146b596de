"""Reads DICOM files, from a folder or a zip archive: headers and pixels."""
