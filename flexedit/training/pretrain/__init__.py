"""What a small system needs before FlexEdit's own training: the parts that others download.

Each module has what trains a part and the stage that reads it, trains it and puts it back.
"""
