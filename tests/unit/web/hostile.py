"""Names that would do harm if they were trusted, and runs that have them everywhere."""

from typing import Any

HOSTILE = (
    "<script>window.hacked = 1</script>",
    '"><img src=x onerror="window.hacked = 1">',
    "../../etc/passwd",
    "</script><script>window.hacked = 1</script>",
    "{{ 7 * 7 }} {% raw %} ${7 * 7}",
    "слой.\u202egnp.exe",
    "層.\u05d0\u05d1\u05d2.\u0627\u0644\u0637\u0628\u0642\u0629",
    "a" * 5_000 + "<b>" + "z" * 5_000,
    "<!-- --><![CDATA[ ]]> & &lt;script&gt;",
    "\u2028\u2029\x00 line\nbreak\ttab",
)
"""Names that would be markup, paths, templates or unreadable if they were trusted."""


def spoil(entry: dict[str, Any], name: str) -> None:
    """Put a hostile name where a page shows text of a log."""
    entry["name"] = entry["path"] = name
    entry["hparams"] = {name: name}
    entry["verdict"] = {"level": name, "headline": name, "sentences": list(HOSTILE)}
    entry["facts"] = [[text, text] for text in HOSTILE]
    entry["settings"] = {text: text for text in HOSTILE}
    entry["skipped"] = [[text, text] for text in HOSTILE]
    entry["failures"] = [[text, text, 1, text] for text in HOSTILE]
    entry["notes"] = list(HOSTILE)
    for scalar in entry["scalars"]:
        scalar["tag"] = name
    for measure, text in zip(entry["measures"], HOSTILE, strict=False):
        for key in ("name", "title", "meaning", "unit", "call"):
            measure[key] = text
    for alarm in entry["alarms"]:
        alarm |= dict.fromkeys(("alarm", "message", "severity", "source"), name)
        alarm["evidence"] = {name: 1.0}
