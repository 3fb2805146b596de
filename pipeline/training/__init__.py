"""Training and prediction of CNNs as jobs: checkpoints, TensorBoard, several processes."""
