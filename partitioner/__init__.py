"""From a network to a verified bundle: quantize, cut, check byte for byte.

Nothing here imports TensorFlow until a Keras model has to be converted.
"""
