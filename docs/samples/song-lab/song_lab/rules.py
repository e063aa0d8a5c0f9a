"""A rule of curation and a rule of the gate."""

from typing import Any

MIN_S = 3.0


def short_songs(song: Any, measures: dict[str, float]) -> str | None:
    """Why a song is dropped, or None to keep it. `song` has track_id, title, split, license, num_samples, ..."""
    if measures["duration_s"] < MIN_S:
        return f"{song.title} has {measures['duration_s']:.1f} s, and {MIN_S:g} are wanted"
    return None


def no_silent_vocals(candidate: Any, champion: Any) -> tuple[bool, str]:
    """Whether the rule is met, and a sentence. Scores by source; there is no champion before the first."""
    vocals = candidate.sources.get("vocals")
    nsdr = vocals.nsdr if vocals else None
    if nsdr is None:
        return True, "No song has vocals."
    return nsdr > 0, f"Vocals score {nsdr:+.2f} dB nSDR, and silence scores 0 dB."
