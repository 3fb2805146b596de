"""The backbones that a CNN is made of: timm's models, their last layers, pretrained weights."""
