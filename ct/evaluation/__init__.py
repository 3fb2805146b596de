"""How good predictions are: patient bootstrap, operating points, calibration, figures by group."""
