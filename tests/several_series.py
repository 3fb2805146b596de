"""One head as an archive exports it: thick, thin, bone and contrast series, copies, localizers."""

import copy
import warnings

import numpy as np
import pydicom
from pydicom.config import disable_value_validation
from pydicom.uid import ExplicitVRLittleEndian, generate_uid


class Head:
    """The slices of one study, to be written as any number of series of a new study."""

    def __init__(self, folder, number=0, patient="MRN4711"):
        studies = {}
        with warnings.catch_warnings(), disable_value_validation():
            warnings.simplefilter("ignore")
            for path in sorted(folder.rglob("*.dcm")):
                dataset = pydicom.dcmread(path)
                studies.setdefault(dataset.StudyInstanceUID, []).append(dataset)
            slices = studies[sorted(studies)[number]]
            slices.sort(key=lambda dataset: float(dataset.ImagePositionPatient[2]))
            self.first, self.patient, self.study = slices[0], patient, generate_uid()
            self.positions = np.array([s.ImagePositionPatient for s in slices], float)
            hu = [s.pixel_array * float(s.RescaleSlope) + float(s.RescaleIntercept) for s in slices]
        self.hu = np.stack(hu).clip(-1024, 3071)
        self.noise = np.random.default_rng(0)

    def thin(self, step_mm):
        """(positions, HU) of slices about `step_mm` apart, whose means are the thick slices.

        A scanner's thick slice is the mean of the thin ones within its thickness. Within it, HU
        change along z as between the slices before and behind it.
        """
        distance = float(np.median(np.diff(self.positions[:, 2])))
        count = max(1, round(distance / step_mm))
        shares = (np.arange(count) - (count - 1) / 2) / count  # of the distance, from the middle
        slope = np.gradient(self.hu, axis=0)  # of a distance
        along = np.gradient(self.positions, axis=0)
        hu = [self.hu[k] + share * slope[k] for k in range(len(self.hu)) for share in shares]
        positions = [
            self.positions[k] + share * along[k] for k in range(len(self.hu)) for share in shares
        ]
        return np.stack(positions), np.stack(hu)

    def write(self, folder, positions=None, hu=None, noise=0.0, **tags):
        """Write one series of the study and return its UID; the default is the study's slices."""
        positions = self.positions if positions is None else positions
        hu = self.hu if hu is None else hu
        folder.mkdir(parents=True)
        series = generate_uid()
        for number, (position, pixels) in enumerate(zip(positions, hu, strict=True)):
            with disable_value_validation():  # the competition's identifiers are no UIDs
                dataset = copy.deepcopy(self.first)
            noisy = np.rint(pixels + self.noise.normal(0, noise or 1e-9, pixels.shape))
            values = {
                "StudyInstanceUID": self.study,
                "SeriesInstanceUID": series,
                "SOPInstanceUID": generate_uid(),
                "PatientID": self.patient,
                "Modality": "CT",
                "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
                "ImagePositionPatient": [f"{value:.6f}" for value in position],
                "RescaleIntercept": "0",
                "RescaleSlope": "1",
                "BitsStored": 16,
                "HighBit": 15,
                "PixelRepresentation": 1,
                "PixelData": noisy.astype("<i2").tobytes(),
            }
            with disable_value_validation():
                for keyword, value in (values | tags).items():
                    setattr(dataset, keyword, value)
                dataset["PixelData"].VR = "OW"
                dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
                dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
                dataset.save_as(folder / f"{number:04d}.dcm", enforce_file_format=True)
        return series

    def write_thick(self, folder):
        return self.write(folder, ConvolutionKernel="H31s", SeriesDescription="Kopf nativ")

    def write_thin(self, folder, step_mm=1.0):
        return self.write(folder, *self.thin(step_mm), noise=8, ConvolutionKernel="H30s")

    def write_others(self, folder):
        """Bone, contrast and a localizer, none of which should be read; returns their UIDs."""
        brain = (self.hu > 20) & (self.hu < 80)
        return {
            "bone": self.write(folder / "bone", noise=40, ConvolutionKernel="H60s"),
            "contrast": self.write(
                folder / "contrast",
                hu=np.where(brain, self.hu + 15, self.hu),
                ConvolutionKernel="H31s",
                ContrastBolusAgent="Iomeprol",
            ),
            "localizer": self.write(
                folder / "localizer",
                self.positions[:1],
                self.hu[:1],
                ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
                ImageOrientationPatient=[0, 1, 0, 0, 0, -1],
            ),
        }
