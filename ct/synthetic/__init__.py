"""Example data: synthetic heads with planted bleeds, as DICOM files in the competition's layout."""
