"""What one request may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of a server. All are ours."""

    body_bytes: int = 4 * 2**20
    """Longest body of a request, in bytes."""
    prompt_tokens: int | None = None
    """Longest prompt, in tokens; None: what the model's context holds."""
    max_tokens: int = 4_096
    """Longest answer, in tokens; a request that says nothing gets this, or what fits."""
    answers: int = 32
    """Most answers of one request: its prompts times `n`."""
    seconds: float = 600.0
    """Longest time from a request to the end of its answer."""
    body_seconds: float = 30.0
    """Longest time for a request to arrive, head and body each."""
    connections: int = 200
    """Most connections at once; macOS gives a process 256 open files."""
    unsent_chunks: int = 4_096
    """Most pieces of an answer that wait for a slow reader; then its connection is cut."""
