"""LoRAs made of LoRAs and of checkpoints."""
