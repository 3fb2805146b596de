"""Trainings of CNNs as jobs: checkpoints, TensorBoard, several processes."""
