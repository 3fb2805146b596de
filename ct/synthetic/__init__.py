"""The example data: made-up heads with planted bleeds, as DICOM files in the layout of the
competition.
"""
