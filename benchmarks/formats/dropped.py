"""What a file of answers held besides answers, in the words of the report.  Nothing is left out without a word."""

from __future__ import annotations

from collections import Counter

NOT_OURS = "tasks that are not of this package"
UNANSWERED = "tasks without an answer"
SKIPPED = "skipped tasks"
DRAFTS = "drafts, which were not submitted"
EMPTY = "answers in which nothing is painted"
OWN_FRAMES = "frames of the annotator's own"
RELATIONS = "relations between regions"
OTHER_FILES = "files that a system has left there"

Dropped = Counter[str]
"""How many of each; complete when the last answer has been read."""
