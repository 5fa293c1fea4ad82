"""Training engines: DDP, DeepSpeed ZeRO 1 to 3 and FSDP2 behind one protocol (engine.py)."""
