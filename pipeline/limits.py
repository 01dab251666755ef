"""What a run holds in memory, and the images that are taken for usual; a plan counts with both."""

SCENE_HELD_BYTES = 1 << 30
"""Decoded colour and depth of one scene that are held. What is more is decoded again for the hash
and for the encoder, with the same result: 32 views of 12 megapixels are just more."""

SCENES_AHEAD_BYTES = 1 << 28
"""Decoded pixels of several scenes that are ahead; one more, or one alone, may have any size."""

SCANNET_COLOR, SCANNET_DEPTH = (968, 1296), (480, 640)
"""Rows and columns of a ScanNet export's images."""
