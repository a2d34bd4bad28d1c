"""Our attacks beside those of other libraries: same frozen models, same images, interleaved runs, one judge."""
