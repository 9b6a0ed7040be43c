"""Edits to train and measure on. One of them: `sample` in memory, `record` on disk. Where they are
from: `world`, which makes them with exact truths, and `readers` of data sets.
"""
