"""Evaluations on public data sets, in these sets' own layouts.

An evaluation goes over the items of a data set, measures each, and sums the rows up. To add one:

1. Write a subclass of :class:`.Evaluation`, or of :class:`.ImageEvaluation`, in a file of its own
   here: a dataclass of where the data lie and of the method that is scored. It has a ``name``, says
   what it ``scores``, lists its ``items`` in a fixed order, the ``files`` of each and what it was
   told (``settings``), and has ``measure``, from an item to a row of JSON, and ``summary``, from
   all rows to the figures. Let the method be an argument, so that a test can pass one whose answers
   are known.
2. Look for folders and lists with :mod:`.layout`, whose errors say by name what is missing, and
   read images and annotations with it: an item of which one is broken is left out and told of.
3. Add a command in ``_cli/evaluate.py``, or in ``_cli/evaluate_trained.py`` if it learns from
   labels: it builds the method and the evaluation, and calls ``report``, which runs it with a bar,
   prints the table and sets the exit code.
4. Say in ``docs/evaluate.md`` which layout it expects, what it does, and what its authors report.

:func:`.run` does the rest: resuming, the results file, leaving out what is broken. Whatever is
not a function of one item, such as clusters of all images, belongs in ``summary``; what it needs of
the items can be rows' entries whose names begin with ``_``, which do not get into the results.
An evaluation that learns as it goes keeps its state in the folder that ``begin`` gives it.
"""

from .layout import DataSetError
from .running import Authors, Document, Evaluation, Event, ImageEvaluation, Row, run

__all__ = [
    "Authors",
    "DataSetError",
    "Document",
    "Evaluation",
    "Event",
    "ImageEvaluation",
    "Row",
    "run",
]
