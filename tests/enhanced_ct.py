"""Make files of enhanced CT from classic slices, for the tests."""

import copy

from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import EnhancedCTImageStorage

CLASSIC = (
    "ImagePositionPatient ImageOrientationPatient PixelSpacing RescaleSlope RescaleIntercept "
    "WindowCenter WindowWidth ImageType"
)


def item(**values):
    """Return a data set of these values."""
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def enhanced(slices, streams=None, per_frame=(), **tags):
    """Return one file of enhanced CT whose frames are these classic slices (data sets).

    streams: of the compressed frames; per_frame: a dict of further functional groups of each frame;
    tags: further tags at the top of the file
    """
    first = slices[0]
    dataset = copy.deepcopy(first)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    dataset.SOPInstanceUID = "1.2.826.0.1.3680043.8.498.7"
    dataset.NumberOfFrames = len(slices)
    for keyword in CLASSIC.split():
        if keyword in dataset:
            delattr(dataset, keyword)
    orientation = item(ImageOrientationPatient=first.ImageOrientationPatient)
    dataset.SharedFunctionalGroupsSequence = [
        item(
            PlaneOrientationSequence=[orientation],
            PixelMeasuresSequence=[item(PixelSpacing=first.PixelSpacing, SliceThickness=5)],
        )
    ]
    groups = []
    for place, of_frame in enumerate(slices):
        rescale = item(
            RescaleSlope=of_frame.RescaleSlope,
            RescaleIntercept=of_frame.RescaleIntercept,
            RescaleType="HU",
        )
        position = item(ImagePositionPatient=of_frame.ImagePositionPatient)
        more = per_frame[place] if per_frame else {}
        groups.append(
            item(
                **{
                    "PlanePositionSequence": [position],
                    "PixelValueTransformationSequence": [rescale],
                }
                | more
            )
        )
    dataset.PerFrameFunctionalGroupsSequence = groups
    if streams is None:
        dataset.PixelData = b"".join(of_frame.PixelData for of_frame in slices)
    else:
        dataset.PixelData = encapsulate(streams)
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    return dataset
