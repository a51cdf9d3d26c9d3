"""Small networks that come with the installation: weights in the repository, run by JAX alone.

`frozen_graph` reads and runs them; each other module holds what one network needs around it (crops in, pixels out).
"""
