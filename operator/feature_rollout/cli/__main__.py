"""`python -m feature_rollout.cli`, for when the script is not on PATH."""

from feature_rollout.cli import main

main()
