"""Looks that have arrived are taken into the progress."""

from __future__ import annotations

from collections.abc import Iterable

from feature_rollout.core.decision import View
from feature_rollout.core.looks import Look
from feature_rollout.core.plan import OnNoTraffic
from feature_rollout.core.progress import Progress, aligned
from feature_rollout.core.standstill import stands_still


def taken_in(view: View, known: Progress | None, looks: Iterable[Look] = ()) -> Progress:
    """The progress at `view.now` from what was known before, after the looks in the order of their windows.

    Of the view, everything but its progress and its guards is read.
    """
    progress = aligned(known, view.plan, view.ledger, view.now).lifted(view.ledger.people.lifted)
    if progress.is_ahead_of(view.now):
        progress = progress.rewound(view.now)
    counting = not stands_still(view)
    on_no_traffic = view.stage.on_no_traffic if view.stage else OnNoTraffic.WAIT
    for look in sorted(looks, key=lambda look: (look.window.end, look.metric)):
        progress = progress.observed(view.plan, look, counting=counting, on_no_traffic=on_no_traffic)
    return progress.elapsed(view.plan, view.now, counting=counting)
