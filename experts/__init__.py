"""Expert cues of Anny-Fit: what a word, a dense detector or a keypoint detector says, in the units of the objective.

`words` turns age and gender words into phenotype anchors; `dense_points` holds the default set of dense surface points
and moves detections from a person crop to the full image.
"""
