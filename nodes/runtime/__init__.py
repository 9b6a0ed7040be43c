"""How the parts of FlexEdit live inside ComfyUI: folders, managed models, patches, the guider."""
