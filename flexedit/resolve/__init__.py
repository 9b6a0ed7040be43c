"""From a rough scribble to the full mask of the object that it means: read `resolver.resolve`.

A method (`classic`, `sam`) gives ranked candidates; the resolver mends them and shows them all.
"""
