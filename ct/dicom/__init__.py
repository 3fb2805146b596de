"""Read DICOM files: headers and pixels.

header_table       the headers of many files -> one table, and the quarantine of refused files
header             one file's header -> its checked values
hounsfield         one file -> HU; intercept_repair: the 12-bit defect
pixel_decoder      decodes compressed pixels in a child process, decoder_process
acquisition        modality, body part, contrast, lossy compression
fast_parser        bytes -> elements of the usual file; dataset_parser: of any file, by pydicom
tag_values         elements -> numbers and text; pixel_attributes: size, bits, sign, rescale
"""
