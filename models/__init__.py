"""Model builders, the images they are trained and tested on, and the weights that ship.

Importing this package never imports TensorFlow; `models.build` and
`models.weights` do so when called.
"""
