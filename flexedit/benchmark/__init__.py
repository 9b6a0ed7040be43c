"""FSMI-Edit (§3.4): build the benchmark, run any system on it, measure and report.

cases (the format) ← build (from a source of cases) · systems → run → pictures on disk →
metrics → report. Each step reads what the one before left in a folder.
"""
