"""``python -m tests.attack`` attacks a Compose project of its own. Exit code 1: the operator had to wait."""

from __future__ import annotations

import argparse
import sys

from tests.attack.attack import MOST_P99_SECONDS, attack_stack
from tests.attack.clients import MOST
from tests.support.compose_stack import ComposeStack
from tests.support.stack import running_stack


def main() -> int:
    """Starts the stack, attacks it and prints the figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    parser.add_argument("--image", default="holdfast", help="an image that exists (make image)")
    parser.add_argument("--connections", type=int, default=MOST, choices=range(100, MOST + 1), metavar="N")
    parser.add_argument("--seconds", type=int, default=60, choices=range(5, 601), metavar="N")
    options = parser.parse_args()
    stack = ComposeStack(options.image)
    with running_stack(stack):
        figures = attack_stack(stack, connections=options.connections, seconds=options.seconds)
    sys.stdout.write("\n".join((*figures.lines(), "")))
    return int(bool(figures.failures) or figures.p99_seconds >= MOST_P99_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
