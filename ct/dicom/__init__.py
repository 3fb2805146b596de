"""Read DICOM files: headers and pixels.

header_table       the headers of many files -> one table, and the quarantine of refused files
header             one file's header -> its checked values
hounsfield         one slice -> HU
enhanced_ct        the frames of a file of many slices
storage_classes    what kind of object a file holds
padding            pixels outside the scanner's circle
intercept_repair   the 12-bit intercept defect
pixel_decoder      decodes compressed pixels; decoder_process is its child process
acquisition        modality, body part, contrast, lossy compression
fast_parser        bytes of the usual file -> elements
dataset_parser     bytes of any file -> pydicom's data set
tag_values         elements -> numbers and text
pixel_attributes   size, bits, sign, rescale
"""
