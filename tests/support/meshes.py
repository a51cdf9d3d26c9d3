"""Small meshes and a camera for tests of pictures."""

import numpy as np
import trimesh

QUAD = np.array([[0, 1, 2], [0, 2, 3]])
K = np.array([[80.0, 0, 32], [0, 80.0, 24], [0, 0, 1]])
SIZE = (64, 48)


def quad(depth, half=0.1, centre=(0.0, 0.0)):
    x, y = centre
    corners = [(x - half, y - half), (x + half, y - half), (x + half, y + half), (x - half, y + half)]
    return np.array([(a, b, depth) for a, b in corners])


def sphere(centre, radius=0.4):
    mesh = trimesh.creation.icosphere(subdivisions=3, radius=radius)
    return np.asarray(mesh.vertices) + centre, np.asarray(mesh.faces)
