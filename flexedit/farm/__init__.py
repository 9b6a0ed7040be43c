"""Edits on other machines: graphs on ComfyUI servers, or the pipeline on a Ray cluster."""
