"""Backbones, projector and the Encoder that the measures see."""
