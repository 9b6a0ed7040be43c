"""The diffusion model: its UNet, what conditions it, and how noise becomes a latent."""
