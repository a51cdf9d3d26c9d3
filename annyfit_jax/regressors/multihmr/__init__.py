"""Multi-HMR: all people of a picture in one shot (Baradel et al., ECCV 2024), and its variant for Anny.

A vision transformer finds the patch of each head; a transformer over the people of a picture reads body, shape and distance.
"""
