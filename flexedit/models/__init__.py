"""The parts of a FlexEdit system, in the order an edit meets them: VLLM, Q-Former, MEA, UNet."""
