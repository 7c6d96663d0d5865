"""What TensorBoard loads at its start: a door that cannot break it.

An error here would end ``tensorboard`` for the user, whatever else it has to show. So this
module imports nothing of ours; the rest is imported when the plugin is made, and if that
fails one line says so and TensorBoard goes on without the tab.
"""

import argparse
import logging

from tensorboard.plugins import base_plugin

PLUGIN = "svdhooks"

SAMPLES = 500
"""Values that TensorBoard keeps of each of our tags, unless the user says otherwise."""


class Loader(base_plugin.TBLoader):
    """Makes the plugin, or None."""

    def fix_flags(self, flags: argparse.Namespace) -> None:
        """Raise the number of values kept, from 10 or 100; the user's choice holds.

        Args:
            flags: Of the command line; changed.
        """
        kept = getattr(flags, "samples_per_plugin", None)
        if isinstance(kept, dict):
            kept.setdefault(PLUGIN, SAMPLES)

    def load(self, context: base_plugin.TBContext) -> base_plugin.TBPlugin | None:
        """Make the plugin.

        Args:
            context: What TensorBoard tells it.

        Returns:
            The plugin; None if it cannot be made.
        """
        try:
            from svdhooks.dashboard.plugin import SpectraPlugin

            return SpectraPlugin(context)
        except Exception as error:  # noqa: BLE001  whatever it is, TensorBoard goes on
            logging.getLogger(__name__).warning(
                "The svdhooks tab is missing: %s: %s", type(error).__name__, error
            )
            return None
