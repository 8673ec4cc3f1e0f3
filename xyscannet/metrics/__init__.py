"""Measures of image quality, under the protocols that the field's tables use."""
