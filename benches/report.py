"""Results, kept under the time at which they were measured: raw values and what people read."""

import json


def keep(folder, at, kind, raw, text):
    """`AT-KIND.json` and `.md` (without the dash where there is no kind); returns their common stem."""
    stem = folder / (at.replace(":", "").replace("-", "") + (f"-{kind}" if kind else ""))
    stem.with_suffix(".json").write_text(json.dumps(raw, indent=1) + "\n")
    stem.with_suffix(".md").write_text(text)
    return stem


def head(at, about):
    """Where and when, as each text begins."""
    return f"{at}, kernel {about['kernel']}, {about['cpus']} CPUs ({about['model']}), load before: {about['load']}."
