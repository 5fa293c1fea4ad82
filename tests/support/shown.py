"""What commands print, without the command line."""

from raymill.cluster.frame.dry_run import dry_run_lines


def print_dry_run(settings, address: str | None = None) -> None:
    """As `--dry-run`."""
    for line in dry_run_lines(settings, address):
        print(line)
