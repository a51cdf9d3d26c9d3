"""The cue dataset: expert cues of many images in ArrayRecord shards with TFDS metadata."""
