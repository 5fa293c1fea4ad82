"""What the benchmark prints for people."""

from typing import Any


def result_text(result: dict[str, Any]) -> str:
    """A few lines: what ran, tokens a second, MFU with its formula and the numbers put in, memory; what was asked for
    besides: the parts alone, the costliest kernels.
    """
    setting = result["setting"]
    documents = result["documents"]
    lines = [
        f"model       {setting['shape']}: {result['trainable_parameters']:,} of {result['parameters']:,} parameters",
        f"setting     {setting['method']}, {setting['engine']}, {setting['precision']}, "
        f"{'compiled, ' if setting['compile'] else ''}"
        f"{''.join(f'with {name}, ' for name in setting['put_back'])}"
        f"{'activation checkpointing, ' if setting['activation_checkpointing'] else ''}"
        f"{setting['workers']} x {result['device']}",
        f"rows        {setting['micro_batch']} x {setting['sequence_length']} tokens a micro-batch, "
        f"{setting['accumulation']} a step and worker, {min(documents)} to {max(documents)} documents a step; a token "
        f"attends to {result['mean_context']:,.0f} positions on average; {result['label_share']:.1%} of tokens have a "
        "label",
        *_side("raymill", result["ours"], result["steps"], setting["precision"]),
    ]
    if (seconds := result["ours"]["compile_s"]) is not None:
        lines.append(f"{'':<11} torch.compile took {seconds:.1f} s, before the measured steps")
    if result["parts"]:
        lines += _parts(result["parts"], result["ours"])
    if result["kernels"]:
        lines += _kernels(result["kernels"])
    versions = ", ".join(f"{name} {number or 'not installed'}" for name, number in result["versions"].items())
    return "\n".join([*lines, f"versions    {versions}"])


def peer_text(result: dict[str, Any]) -> str:
    """The Trainer's lines and the ratio, or why there are none."""
    if result["peer_failed"]:
        return f"HF Trainer  {result['peer_failed']}"
    lines = _side("HF Trainer", result["peer"], result["steps"], result["setting"]["precision"])
    return "\n".join([*lines, f"ratio       {result['ratio']:.2f} times the Trainer's tokens/s"])


def _side(name: str, side: dict[str, Any], steps: int, precision: str) -> list[str]:
    lines = [
        f"{name:<11} {side['tokens_per_s']:,.0f} tokens/s (median of {steps} steps, {side['step_s'] * 1e3:,.1f} ms); "
        f"peak {side['peak_memory_gib']:.2f} GiB; attention {side['attention']}; first loss {side['first_loss']:.4f}"
    ]
    if side["mfu"] is not None:
        lines += [
            f"{'':<11} MFU {side['mfu']:.1%} = {side['mfu_formula']}; FLOP a token: see training/models/flops.py",
            f"{'':<11} MFU {side['mfu_whole_rows']:.1%} with whole rows attended to, as torchtitan and TRL count",
        ]
    else:
        lines.append(f"{'':<11} MFU not known: no peak of this device in {precision}; give --peak-tflops")
    return lines


def _parts(parts: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    lines = ["parts       of a micro-batch, forward and backward, each alone; + counts to the ceiling"]
    for part in parts["parts"]:
        lines.append(
            f"          {'+' if part['ceiling'] else ' '} {part['name']:<36}{part['ms']:>10,.2f} ms"
            f"{part['tflops_per_s']:>10,.2f} TFLOP/s"
        )
    mfu = f", MFU {parts['ceiling_mfu']:.1%}" if parts["ceiling_mfu"] is not None else ""
    reached = ours["tokens_per_s"] / parts["ceiling_tokens_per_s"]
    lines.append(
        f"ceiling     {parts['ceiling_tokens_per_s']:,.0f} tokens/s{mfu}, {parts['ceiling_ms']:,.2f} ms a micro-batch; "
        f"training reaches {reached:.0%} of it"
    )
    return lines


def _kernels(kernels: dict[str, Any]) -> list[str]:
    lines = [
        f"kernels     {kernels['ms']:,.2f} ms a step in {kernels['count']} kinds; the "
        f"{len(kernels['costliest'])} costliest:"
    ]
    lines += [
        f"            {kernel['share']:>6.1%}{kernel['ms']:>10,.2f} ms{kernel['calls']:>7} calls  {kernel['name'][:80]}"
        for kernel in kernels["costliest"]
    ]
    return lines
