"""What the benchmark prints for people."""

from typing import Any


def result_text(result: dict[str, Any]) -> str:
    """A few lines: what ran, tokens a second, MFU with its formula and the numbers put in, memory, the peer's."""
    setting = result["setting"]
    lines = [
        f"model       {setting['shape']}: {result['trainable_parameters']:,} of {result['parameters']:,} parameters",
        f"setting     {setting['method']}, {setting['engine']}, {setting['precision']}, "
        f"{'compiled, ' if setting['compile'] else ''}"
        f"{'activation checkpointing, ' if setting['activation_checkpointing'] else ''}"
        f"{setting['workers']} x {result['device']}",
        f"rows        {setting['micro_batch']} x {setting['sequence_length']} tokens a micro-batch, "
        f"{setting['accumulation']} a step and worker; a token attends to {result['mean_context']:,.0f} positions on "
        f"average; {result['label_share']:.1%} of tokens have a label",
        *_side("raymill", result["ours"], result["steps"], setting["precision"]),
    ]
    if result["peer"]:
        lines += _side("HF Trainer", result["peer"], result["steps"], setting["precision"])
        lines.append(f"ratio       {result['ratio']:.2f} times the Trainer's tokens/s")
    lines += [f"versions    {result['versions']}"]
    return "\n".join(lines)


def _side(name: str, side: dict[str, Any], steps: int, precision: str) -> list[str]:
    lines = [
        f"{name:<11} {side['tokens_per_s']:,.0f} tokens/s (median of {steps} steps, {side['step_s'] * 1e3:,.1f} ms); "
        f"peak {side['peak_memory_gib']:.2f} GiB; attention {side['attention']}; first loss {side['first_loss']:.4f}"
    ]
    if side["mfu"] is not None:
        lines.append(
            f"{'':<11} MFU {side['mfu']:.1%} = {side['mfu_formula']}; FLOP a token: see training/models/flops.py"
        )
    else:
        lines.append(f"{'':<11} MFU not known: no peak of this device in {precision}; give --peak-tflops")
    return lines
