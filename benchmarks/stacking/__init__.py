"""Stage two alone, on simulated CNNs or noise: gain, calibration, speed, memory."""
